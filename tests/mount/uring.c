// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE over io_uring: a server that gets its requests from rings instead of read(2).
 *
 * GET_FMAP and GET_DAXDEV are sent through the ring like other requests, and what
 * holds without a ring must hold here: files are mapped, an opener can be killed, and
 * openers that wait for a server get an error when it dies. INIT comes before there is
 * a ring; FORGET and INTERRUPT always come through read(2).
 *
 * The payload of a ring entry is as large as the largest READ or WRITE, so a map must
 * fit in that.
 *
 * The tests set fuse.enable_uring, and put it back.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/io_uring.h>

#include "kselftest_harness.h"
#include "fmap_test.h"
#include "fuse_wire.h"

#define SIZE		(64 * KIB)
#define PARAMETER	"/sys/module/fuse/parameters/enable_uring"

/* Definitions that the C library's headers do not have yet. */
#define OVER_IO_URING_FLAG2	(1U << (41 - 32))	/* of INIT, in flags2 */
#define CMD_REGISTER		1
#define CMD_COMMIT_AND_FETCH	2

struct ring_header {
	union {
		struct fuse_in_header in;
		struct fuse_out_header out;
		char room[128];
	};
	char		op_in[128];
	uint64_t	flags;
	uint64_t	commit_id;
	uint32_t	payload_size;
	uint32_t	offset;
	uint64_t	reserved;
};

struct ring_command {
	uint64_t	flags;
	uint64_t	commit_id;
	uint16_t	queue;
	uint8_t		padding[6];
};

/* ---- a ring ---- */

#define ENTRIES		4			/* of a queue */
#define MAX_QUEUES	16
#define PAYLOAD		(64 * KIB)		/* the server's max_write */
#define SLOTS		(ENTRIES * MAX_QUEUES)

struct slot {
	struct ring_header header;
	struct iovec iov[2];
	uint64_t unique;
	unsigned int queue;
	unsigned char *payload;
};

static struct {
	struct slot slot[SLOTS];
	unsigned int queues, pending;
	unsigned int *sq_tail, *sq_mask, *cq_head, *cq_tail, *cq_mask;
	unsigned char *sqes;			/* 128 bytes each */
	struct io_uring_cqe *cqes;
	int fd;
	bool broken;				/* registers buffers that FUSE refuses */
} ring;

static int ring_setup(void)
{
	struct io_uring_params p = { .flags = IORING_SETUP_SQE128 };
	unsigned char *sq, *cq;
	unsigned int *array;

	ring.queues = sysconf(_SC_NPROCESSORS_CONF);
	if (ring.queues > MAX_QUEUES)
		return -E2BIG;
	ring.fd = syscall(SYS_io_uring_setup, SLOTS, &p);
	if (ring.fd < 0)
		return -errno;
	sq = mmap(NULL, p.sq_off.array + p.sq_entries * sizeof(int),
		  PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd, IORING_OFF_SQ_RING);
	cq = mmap(NULL, p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe),
		  PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd, IORING_OFF_CQ_RING);
	ring.sqes = mmap(NULL, p.sq_entries * 128, PROT_READ | PROT_WRITE, MAP_SHARED,
			 ring.fd, IORING_OFF_SQES);
	if (sq == MAP_FAILED || cq == MAP_FAILED || ring.sqes == MAP_FAILED)
		return -ENOMEM;
	ring.sq_tail = (void *)(sq + p.sq_off.tail);
	ring.sq_mask = (void *)(sq + p.sq_off.ring_mask);
	array = (void *)(sq + p.sq_off.array);
	for (unsigned int i = 0; i < p.sq_entries; i++)
		array[i] = i;
	ring.cq_head = (void *)(cq + p.cq_off.head);
	ring.cq_tail = (void *)(cq + p.cq_off.tail);
	ring.cq_mask = (void *)(cq + p.cq_off.ring_mask);
	ring.cqes = (void *)(cq + p.cq_off.cqes);
	return 0;
}

static void ring_command(int fuse, unsigned int op, struct slot *slot)
{
	unsigned int tail = *ring.sq_tail;
	unsigned char *raw = ring.sqes + (tail & *ring.sq_mask) * 128;
	struct io_uring_sqe *sqe = (void *)raw;
	struct ring_command *cmd = (void *)(raw + offsetof(struct io_uring_sqe, cmd));

	memset(raw, 0, 128);
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = fuse;
	sqe->cmd_op = op;
	sqe->addr = (uintptr_t)slot->iov;
	sqe->len = 2;
	sqe->user_data = slot - ring.slot;
	cmd->queue = slot->queue;
	cmd->commit_id = slot->unique;
	__atomic_store_n(ring.sq_tail, tail + 1, __ATOMIC_RELEASE);
	ring.pending++;
}

static int ring_enter(unsigned int wait)
{
	int n = syscall(SYS_io_uring_enter, ring.fd, ring.pending, wait,
			wait ? IORING_ENTER_GETEVENTS : 0, NULL, 0);

	if (n < 0)
		return -errno;
	ring.pending -= n;
	return 0;
}

static void ring_register(int fuse)
{
	for (unsigned int i = 0; i < ring.queues * ENTRIES; i++) {
		struct slot *slot = &ring.slot[i];

		slot->payload = malloc(PAYLOAD);
		slot->queue = i / ENTRIES;
		slot->iov[0] = (struct iovec){ &slot->header, sizeof(slot->header) };
		slot->iov[1] = (struct iovec){ slot->payload, ring.broken ? 1 : PAYLOAD };
		ring_command(fuse, CMD_REGISTER, slot);
	}
}

/* ---- a server behind it ---- */

static _Atomic unsigned int *by_ring;		/* requests of an opcode; shared */
static __thread struct slot *current;

/* Replies of the ring's thread go into its slot, others to write(2). */
static int send_by_ring(struct fuse_server *s, const struct fuse_in_header *in,
			int error, const void *data, size_t len)
{
	if (!current)
		return fuse_wire_reply(s->fd, in, error, data, len);
	if (len > PAYLOAD)
		return E2BIG;
	current->header.out = (struct fuse_out_header){
		.len = sizeof(struct fuse_out_header) + len,
		.error = error,
		.unique = in->unique,
	};
	current->header.payload_size = len;
	if (len)
		memcpy(current->payload, data, len);
	return 0;
}

/* Copy a request into one buffer, as read(2) would return it, and handle it. */
static void handle_slot(struct fuse_server *s, struct slot *slot)
{
	static unsigned char buf[PAYLOAD + 4096] __attribute__((aligned(8)));
	struct fuse_in_header *in = (void *)buf;
	size_t first;

	*in = slot->header.in;
	slot->unique = slot->header.commit_id;
	first = in->len - sizeof(*in) - slot->header.payload_size;
	memcpy(in + 1, slot->header.op_in, first);
	memcpy((char *)(in + 1) + first, slot->payload, slot->header.payload_size);
	by_ring[in->opcode % FS_OPCODES]++;
	current = slot;
	fs_handle(s, in, in + 1);
	current = NULL;
	ring_command(s->fd, CMD_COMMIT_AND_FETCH, slot);
}

static void *serve_ring(void *arg)
{
	struct fuse_server *s = arg;
	unsigned int left;

	if (ring_setup()) {
		fprintf(stderr, "# no ring: %s\n", strerror(errno));
		return NULL;
	}
	ring_register(s->fd);
	left = ring.queues * ENTRIES;
	while (left) {
		int err = ring_enter(1);

		if (err && err != -EINTR)
			break;
		while (*ring.cq_head != __atomic_load_n(ring.cq_tail, __ATOMIC_ACQUIRE)) {
			struct io_uring_cqe cqe = ring.cqes[*ring.cq_head & *ring.cq_mask];

			__atomic_store_n(ring.cq_head, *ring.cq_head + 1, __ATOMIC_RELEASE);
			if (cqe.res < 0)
				left--;		/* this slot gets no more requests */
			else
				handle_slot(s, &ring.slot[cqe.user_data]);
		}
	}
	close(ring.fd);
	return NULL;
}

/* INIT: ask for the rings, and start the thread that serves them. */
static void init_with_ring(struct fuse_server *s, const struct fuse_in_header *in,
			   const void *arg)
{
	const struct fuse_init_in *init = arg;
	bool offered = init->flags2 & OVER_IO_URING_FLAG2;
	struct fuse_init_out out = {
		.major = FUSE_KERNEL_VERSION,
		.minor = FUSE_KERNEL_MINOR_VERSION,
		.flags = FUSE_MAX_PAGES | FUSE_BIG_WRITES | FUSE_INIT_EXT,
		.flags2 = OVER_IO_URING_FLAG2,
		.max_background = 16,
		.congestion_threshold = 12,
		.max_write = PAYLOAD,
		.max_pages = PAYLOAD / PAGE,
	};
	pthread_t thread;

	memcpy((char *)&out + FUSE_DAX_FMAP_INIT_OUT_FLAGS, &s->fmap_flags,
	       sizeof(s->fmap_flags));
	memcpy((char *)&out + FUSE_DAX_FMAP_INIT_OUT_NAME, s->ops_name,
	       sizeof(s->ops_name));
	s->send = send_by_ring;
	fs_reply(s, in, 0, &out, sizeof(out));
	if (offered && !pthread_create(&thread, NULL, serve_ring, s))
		pthread_detach(thread);
}

FIXTURE(uring) {
	struct fuse_server *s;
	struct scripted map;
	char old[8];
	bool set;
	long refs;
};

FIXTURE_VARIANT(uring) {
	const char *enable;
	bool broken;
};

FIXTURE_VARIANT_ADD(uring, on) {
	.enable = "Y",
};

/* The server asks for io_uring, but it is off: requests come through read(2). */
FIXTURE_VARIANT_ADD(uring, off) {
	.enable = "N",
};

/* FUSE refuses the buffers: requests come through read(2), waiting ones as well. */
FIXTURE_VARIANT_ADD(uring, refused) {
	.enable = "Y",
	.broken = true,
};

FIXTURE_SETUP(uring)
{
	FMAP_REQUIRE();
	if (read_file(PARAMETER, self->old, sizeof(self->old)))
		SKIP(return, "this kernel's FUSE has no io_uring");
	self->set = true;
	ASSERT_EQ(0, write_file(PARAMETER, variant->enable));
	self->refs = module_refs();
	ring.broken = variant->broken;
	by_ring = mmap(NULL, FS_OPCODES * sizeof(*by_ring), PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, by_ring);
	self->map = fmap_linear(0, 0, SIZE);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	self->s->hook[FUSE_INIT] = init_with_ring;
	fs_add(self->s, "file", SIZE, &self->map, sizeof(self->map));
	fs_add(self->s, "plain", SIZE, NULL, 0);
}

FIXTURE_TEARDOWN_PARENT(uring)
{
	if (self->set)
		EXPECT_EQ(0, write_file(PARAMETER, self->old));
	EXPECT_TRUE(module_refs_wait(self->refs));
}

#define with_ring	(*variant->enable == 'Y' && !variant->broken)

TEST_F(uring, mapped)
{
	unsigned char *p;

	ASSERT_EQ(0, fs_mount(self->s));
	p = fs_map(self->s, "file", SIZE, PROT_READ | PROT_WRITE);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, touch(p, 'm'));
	EXPECT_EQ(0, fs_fill(self->s, "file", 'd', SIZE));
	EXPECT_EQ('d', p[0]);
	munmap(p, SIZE);
	EXPECT_EQ(1, self->s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(1, self->s->count[FUSE_GET_DAXDEV]);
	EXPECT_EQ(with_ring, by_ring[FUSE_GET_FMAP]);
	EXPECT_EQ(with_ring, by_ring[FUSE_GET_DAXDEV]);
	EXPECT_EQ(0, self->s->malformed);
	EXPECT_EQ(0, fs_stop(self->s));
}

TEST_F(uring, without_a_map)
{
	char c = 0;
	int fd;

	ASSERT_EQ(0, fs_mount(self->s));
	fd = fs_open(self->s, "plain", O_RDWR);
	ASSERT_LE(0, fd);
	EXPECT_EQ(1, pread(fd, &c, 1, 0));
	EXPECT_EQ('b', c);
	EXPECT_EQ(1, pwrite(fd, "X", 1, 0));
	close(fd);
	EXPECT_EQ(0, fs_try(self->s, "plain"));
	EXPECT_EQ(1, self->s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(1, self->s->count[FUSE_WRITE]);
	EXPECT_EQ(0, fs_stop(self->s));
}

/* A map in the answer to OPEN works through a ring, too. */
TEST_F(uring, map_in_open)
{
	self->s->fmap_flags = FUSE_DAX_FMAP_MAP_IN_OPEN;
	ASSERT_EQ(0, fs_mount(self->s));
	for (int i = 0; i < 2; i++)
		EXPECT_EQ(0, fs_fill(self->s, "file", 'o', SIZE));
	EXPECT_EQ(0, fs_try(self->s, "plain"));
	EXPECT_EQ(0, self->s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(2, self->s->maps_wanted);
	EXPECT_EQ(with_ring ? 3 : 0, by_ring[FUSE_OPEN]);
	EXPECT_EQ(0, self->s->malformed);
	EXPECT_EQ(0, fs_stop(self->s));
}

/* A map as large as the payload of a ring entry; the kernel asks for it in steps. */
TEST_F(uring, large_map)
{
	char *map = calloc(1, PAYLOAD);

	memcpy(map, &self->map, sizeof(self->map));
	self->s->file[0].map = map;
	self->s->file[0].map_len = PAYLOAD;
	ASSERT_EQ(0, fs_mount(self->s));
	EXPECT_EQ(0, fs_fill(self->s, "file", 'd', SIZE));
	EXPECT_EQ(PAYLOAD, fmap_seen()->blob_size);
	EXPECT_LT(1, self->s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(0, fs_stop(self->s));
	free(map);
}

/* ---- openers or the server end early ---- */

static _Atomic bool *answer_now;

static void until_told(struct fuse_server *s, const struct fuse_in_header *in,
		       const void *arg)
{
	while (!*answer_now)
		usleep(1000);
	fs_default(s, in, arg);
}

/* Two openers: one waits for the server, the other one for the first (single flight). */
#define start_openers() do {						\
	answer_now = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,		\
			  MAP_SHARED | MAP_ANONYMOUS, -1, 0);		\
	ASSERT_NE(MAP_FAILED, answer_now);				\
	self->s->hook[FUSE_GET_FMAP] = until_told;			\
	ASSERT_EQ(0, fs_mount(self->s));				\
	ASSERT_EQ(0, access(fs_path(self->s, "file"), F_OK));		\
	for (int i = 0; i < 2; i++)					\
		pid[i] = fs_try_in_child(self->s, "file");		\
	ASSERT_TRUE(fs_wait(self->s, FUSE_GET_FMAP, 1));		\
	ASSERT_TRUE(asleep(pid[0]));					\
	ASSERT_TRUE(asleep(pid[1]));					\
} while (0)

TEST_F(uring, opener_killed)
{
	pid_t pid[2];

	start_openers();
	kill(pid[0], SIGKILL);
	/* The server has its OPEN in a ring entry already, and FUSE waits for the answer. */
	*answer_now = true;
	EXPECT_EQ(SIGKILL, ended(pid[0]));
	EXPECT_EQ(0, ended(pid[1]));
	EXPECT_EQ(0, fs_fill(self->s, "file", 'd', SIZE));
	EXPECT_EQ(0, fs_stop(self->s));
}

#define expect_cut_off() do {						\
	for (int i = 0; i < 2; i++) {					\
		int _status = ended(pid[i]);				\
		EXPECT_TRUE(WIFEXITED(_status));			\
		EXPECT_NE(0, WEXITSTATUS(_status));			\
	}								\
	EXPECT_EQ(-ENOTCONN, fs_try(self->s, "file"));			\
} while (0)

TEST_F(uring, connection_aborted)
{
	pid_t pid[2];

	start_openers();
	EXPECT_EQ(0, fs_abort(self->s));
	expect_cut_off();
	*answer_now = true;
	EXPECT_EQ(0, fs_stop(self->s));
}

TEST_F(uring, server_killed)
{
	pid_t pid[2];

	self->s->forked = true;
	start_openers();
	fs_kill(self->s);
	expect_cut_off();
	EXPECT_EQ(0, fs_stop(self->s));
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
