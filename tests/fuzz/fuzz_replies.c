// SPDX-License-Identifier: GPL-2.0
/*
 * The server of fuzz_server.c: what it answers, and what would be right.
 *
 * The file is long because wrong answers are made from right ones, for each opcode.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "fmap_test.h"
#include "fuzz.h"
#include "fuzz_replies.h"
#include "famfs.h"
#include "striped.h"

#define MAX_WRITE	(64 * 1024)
#define BUFFER		(1024 * 1024 + 8192)	/* a request, whatever INIT said */
#define BODY_MAX	(1200 * 1024)	/* larger than any buffer of the kernel */
#define STABLE		2		/* node ids of s0, s1, ...; other names get new ones */
#define FRESH		1000

static const char *const ops_names[NR_FORMATS] = {
	STRIPED_OPS_NAME, FAMFS_OPS_NAME, SCRIPTED_OPS_NAME,
};

/* Newer than the header. */
#define NOTIFY_PRUNE	9

struct notify_prune_out {
	uint32_t	count;
	uint32_t	padding;
	uint64_t	spare;
};

/* ---- the right answers, and wrong ones ---- */

static void fill_attr(struct fuzz_mount *m, struct fuse_attr *a, uint64_t nodeid, bool honest)
{
	static const uint32_t types[] = {
		S_IFREG, S_IFREG, S_IFREG, S_IFDIR, S_IFLNK, S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK, 0,
	};
	struct rng *r = &m->rng;

	memset(a, 0, sizeof(*a));
	a->ino = nodeid;
	a->mode = nodeid == FUSE_ROOT_ID ? S_IFDIR | 0755 : S_IFREG | 0644;
	a->nlink = 1;
	a->size = nodeid == FUSE_ROOT_ID ? 0 : FUZZ_FILE_SIZE;
	a->blksize = 4096;
	/* If the root is no directory, nothing can be opened any more, so this is rare. */
	if (honest || (nodeid == FUSE_ROOT_ID && chance(r, 99)))
		return;
	switch (below(r, 8)) {
	case 0:
		a->mode = PICK(r, types) | (rnd(r) & 07777);
		break;
	case 1:
		a->size = chance(r, 50) ? below(r, 2 * FUZZ_FILE_SIZE) : odd_number(r) & LLONG_MAX;
		break;
	case 2:
		a->size = odd_number(r);
		break;
	case 3:
		a->flags = rnd(r);	/* SUBMOUNT, DAX */
		break;
	case 4:
		a->blksize = odd_number(r);
		break;
	case 5:
		a->mtime = odd_number(r);
		a->ctimensec = odd_number(r);
		break;
	case 6:
		a->nlink = odd_number(r);
		a->uid = odd_number(r);
		break;
	case 7:
		a->ino = odd_number(r);
		break;
	}
}

static uint64_t nodeid_of(struct fuzz_mount *m, const char *name)
{
	if (name[0] == 's')
		return STABLE + name[1] % 8;
	return m->next_nodeid++;
}

static void fill_entry(struct fuzz_mount *m, struct fuse_entry_out *out, const char *name,
		       bool honest)
{
	static const uint64_t nodeids[] = { 0, 2, 3, 1000, ~0ULL };
	struct rng *r = &m->rng;

	memset(out, 0, sizeof(*out));
	out->nodeid = nodeid_of(m, name);
	out->entry_valid = m->valid;
	out->attr_valid = m->valid;
	fill_attr(m, &out->attr, out->nodeid, honest || chance(r, 30));
	if (honest)
		return;
	switch (below(r, 6)) {
	case 0:
		/* With the root's node id the root becomes useless, so this is rare. */
		out->nodeid = chance(r, 1) ? FUSE_ROOT_ID : PICK(r, nodeids);
		break;
	case 1:
		out->generation = below(r, 3);
		break;
	case 2:
		out->entry_valid = odd_number(r);
		out->attr_valid_nsec = odd_number(r);
		break;
	}
}

static void fill_open(struct fuzz_mount *m, struct fuse_open_out *out, bool honest)
{
	memset(out, 0, sizeof(*out));
	out->fh = rnd(&m->rng);
	if (!honest) {
		out->open_flags = chance(&m->rng, 60) ? rnd(&m->rng) & 0xff : rnd(&m->rng);
		out->backing_id = odd_number(&m->rng);
	}
}

static unsigned int make_init(struct fuzz_mount *m, const struct fuse_init_in *in,
			      struct fuse_init_out *out, bool honest)
{
	static const char *const names[] = {
		"", "nobody", "striped ", "Striped", "123456789012345", "1234567890123456",
		"\xff\xfe\xfd", "a/b", "\n", "%s%n", "striped\0x",
	};
	struct rng *r = &m->rng;
	uint64_t flags = FUSE_MAX_PAGES | FUSE_BIG_WRITES | FUSE_INIT_EXT;

	if (chance(r, 30))
		flags |= FUSE_ATOMIC_O_TRUNC | FUSE_HANDLE_KILLPRIV_V2;
	if (chance(r, 30))
		flags |= FUSE_WRITEBACK_CACHE | FUSE_PARALLEL_DIROPS;
	if (chance(r, 50))
		flags |= FUSE_HAS_RESEND;
	*out = (struct fuse_init_out){
		.major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION,
		.max_readahead = in->max_readahead, .flags = in->flags & flags,
		.max_background = 16, .congestion_threshold = 12, .max_write = MAX_WRITE,
		.max_pages = MAX_WRITE / 4096,
	};
	memcpy((char *)out + FUSE_DAX_FMAP_INIT_OUT_NAME, ops_names[m->format],
	       strlen(ops_names[m->format]));
	if (chance(r, 60))
		*((char *)out + FUSE_DAX_FMAP_INIT_OUT_FLAGS) = FUSE_DAX_FMAP_MAP_IN_OPEN;
	if (honest)
		return sizeof(*out);
	switch (below(r, 8)) {
	case 0:
	case 1:
		memcpy((char *)out + FUSE_DAX_FMAP_INIT_OUT_NAME, PICK(r, names), 16);
		break;
	case 2:
		out->flags = rnd(r) & in->flags;
		out->flags2 = rnd(r) & in->flags2;
		break;
	case 3:
		out->flags = rnd(r);
		out->flags2 = rnd(r);
		break;
	case 4:
		out->minor = below(r, 60);
		break;
	case 5:
		out->max_write = odd_number(r) % (1024 * 1024);
		out->max_pages = odd_number(r);
		out->max_readahead = odd_number(r);
		out->max_background = odd_number(r);
		break;
	case 6:
		return fuzz_damage(r, (void *)out, sizeof(*out), sizeof(*out));
	case 7:
		out->time_gran = odd_number(r);
		out->map_alignment = odd_number(r);
		out->unused[0] = below(r, 3);	/* request_timeout */
		out->max_stack_depth = odd_number(r);
		out->flags2 = in->flags2;
		break;
	}
	return sizeof(*out);
}

static int some_errno(struct rng *r, uint32_t opcode)
{
	static const int likely[] = {
		EIO, ENOENT, ENOMEM, EINTR, EAGAIN, EINVAL, ENODEV, EPERM, EACCES, ESTALE, ERANGE,
		EFAULT, EBUSY, EEXIST, ETIMEDOUT, ENOTCONN, ECHILD, EISDIR, ELOOP, EHWPOISON,
	};

	/* After ENOSYS the kernel asks for no more maps, so this is rare. */
	if (chance(r, 1))
		return -ENOSYS;
	return opcode == FUSE_GET_FMAP && chance(r, 30) ? -ENODATA :
	       chance(r, 70) ? -PICK(r, likely) : -1 - (int)below(r, 511);
}

static bool wants_map(const struct fuse_in_header *in, const void *arg)
{
	const struct fuse_open_in *open = arg;

	return in->opcode == FUSE_OPEN && (open->open_flags & FUSE_DAX_FMAP_OPEN_MAP);
}

/* An answer to OPEN that contains a map. */
struct open_reply {
	struct fuse_open_out open;
	struct fuse_open_fmap_out fmap;
};

static unsigned int make_open(struct fuzz_mount *m, struct open_reply *out, bool honest)
{
	struct rng *r = &m->rng;
	unsigned int size = fuzz_map(r, m->format, honest, out->fmap.map, 64 * KIB);

	fill_open(m, &out->open, honest);
	out->fmap.size = size <= sizeof(out->fmap.map) ? (int)size : -ERANGE;
	out->fmap.reserved = 0;
	if (!honest && chance(r, 30))
		out->fmap.size = chance(r, 50) ? some_errno(r, FUSE_GET_FMAP) : (int)odd_number(r);
	if (!honest && chance(r, 10))
		return below(r, sizeof(*out));
	return sizeof(*out);
}

/* Returns true if a body, as an answer to OPEN or GET_FMAP, has a map that names a canary. */
static bool names_canary(struct fuzz_mount *m, const unsigned char *body, unsigned int size)
{
	const struct open_reply *open = (const void *)body;

	return fuzz_names_canary(m->format, body, size) ||
	       (size == sizeof(*open) && open->fmap.size >= 0 &&
		open->fmap.size <= FUSE_DAX_FMAP_OPEN_MAP_MAX &&
		fuzz_names_canary(m->format, open->fmap.map, open->fmap.size));
}

static unsigned int make_daxdev(struct fuzz_mount *m, uint32_t index, unsigned char *body,
				bool honest, int *error)
{
	static const char *const paths[] = {
		"", "/", "dax0.0", "/dev/dax9.9", "/dev/null", "/dev/zero", "/dev/fuse", "/dev",
		"/dev/console", "/dev/mem", "/proc/self/fd/0", "/proc/self/exe", "/dev/loop0",
		"/dev/../dev/dax0.0", "/dev/kmsg", "/dev/ptmx", "/dev/pmem0", "/nothing",
	};
	struct fuse_get_daxdev_out *out = (void *)body;
	struct rng *r = &m->rng;

	memset(out, 0, sizeof(*out));
	if (index > 1 && honest) {
		*error = -ENODEV;
		return 0;
	}
	snprintf(out->name, sizeof(out->name), "%s", m->device[index % 2]);
	if (honest)
		return sizeof(*out);
	switch (below(r, 6)) {
	case 0:			/* in the mount itself: its lookup needs the server */
		snprintf(out->name, sizeof(out->name), "%s/s0", m->dir);
		break;
	case 1:			/* without a NUL */
		memset(out->name, '/', sizeof(out->name));
		break;
	case 2:			/* the other device */
		snprintf(out->name, sizeof(out->name), "%s", m->device[below(r, 2)]);
		out->index = rnd(r);
		break;
	case 3:
		return fuzz_damage(r, body, sizeof(*out), 4096);
	default:
		snprintf(out->name, sizeof(out->name), "%s", PICK(r, paths));
	}
	return sizeof(*out);
}

/* The body of an answer, or *@error. Wrong answers are mostly well-formed. */
static unsigned int make_body(struct fuzz_mount *m, const struct fuse_in_header *in,
			      const void *arg, unsigned char *body, bool honest, int *error)
{
	const struct fuse_read_in *read = arg;
	const struct fuse_write_in *write = arg;
	struct fuse_attr_out *attr = (void *)body;
	struct fuse_entry_out *entry = (void *)body;
	struct rng *r = &m->rng;
	unsigned int size;

	*error = 0;
	switch (in->opcode) {
	case FUSE_INIT:
		return make_init(m, arg, (void *)body, honest);
	case FUSE_LOOKUP:
		fill_entry(m, entry, arg, honest);
		return sizeof(*entry);
	case FUSE_GETATTR:
	case FUSE_SETATTR:
		memset(attr, 0, sizeof(*attr));
		attr->attr_valid = m->valid;
		fill_attr(m, &attr->attr, in->nodeid, honest);
		return sizeof(*attr);
	case FUSE_OPEN:
		if (wants_map(in, arg))
			return make_open(m, (void *)body, honest);
		__attribute__((fallthrough));
	case FUSE_OPENDIR:
		fill_open(m, (void *)body, honest);
		return sizeof(struct fuse_open_out);
	case FUSE_CREATE:
		fill_entry(m, entry, (const char *)arg + sizeof(struct fuse_create_in), honest);
		fill_open(m, (void *)(entry + 1), honest);
		return sizeof(*entry) + sizeof(struct fuse_open_out);
	case FUSE_READ:
		size = read->size < MAX_WRITE ? read->size : MAX_WRITE;
		memset(body, 'r', size);
		return honest ? size : below(r, size + 1);
	case FUSE_WRITE:
		*(struct fuse_write_out *)body = (struct fuse_write_out){
			.size = honest ? write->size : odd_number(r),
		};
		return sizeof(struct fuse_write_out);
	case FUSE_STATFS:
		memset(body, 0, sizeof(struct fuse_statfs_out));
		return sizeof(struct fuse_statfs_out);
	case FUSE_GET_FMAP:
		size = fuzz_map(r, m->format, honest, body, 64 * KIB);
		if (honest && size > *(const uint32_t *)arg) {
			*error = -ERANGE;
			return 0;
		}
		return size;
	case FUSE_GET_DAXDEV:
		return make_daxdev(m, *(const uint32_t *)arg, body, honest, error);
	case FUSE_READDIR:
	case FUSE_READDIRPLUS:
		size = honest ? 0 : below(r, 600);
		for (unsigned int i = 0; i < size; i++)
			body[i] = chance(r, 70) ? 0 : rnd(r);
		return size;
	case FUSE_FLUSH:
	case FUSE_RELEASE:
	case FUSE_RELEASEDIR:
	case FUSE_FSYNC:
	case FUSE_ACCESS:
	case FUSE_UNLINK:
	case FUSE_DESTROY:
		return 0;
	default:
		*error = -ENOSYS;
		return 0;
	}
}

/* ---- sending answers ---- */

static bool send(struct fuzz_mount *m, uint32_t op, uint64_t unique, int error, uint32_t len,
		 const void *body, unsigned int size)
{
	struct fuse_out_header out = { .len = len, .error = error, .unique = unique };
	struct iovec iov[2] = {
		{ &out, sizeof(out) }, { (void *)body, size },
	};
	bool taken = writev(m->fd, iov, size ? 2 : 1) >= 0;

	op %= FUZZ_OPCODES;
	__atomic_add_fetch(taken ? &m->taken[op] : &m->refused[op], 1, __ATOMIC_RELAXED);
	m->sent++;
	return taken;
}

static bool say(struct fuzz_mount *m, const struct fuse_in_header *in, int error,
		const void *body, unsigned int size)
{
	return send(m, in->opcode, in->unique, error, sizeof(struct fuse_out_header) + size, body,
		    size);
}

static void be_honest(struct fuzz_mount *m, const struct fuse_in_header *in, const void *arg,
		      unsigned char *body)
{
	int error;
	unsigned int size = make_body(m, in, arg, body, true, &error);

	m->honest[in->opcode % FUZZ_OPCODES]++;
	if (in->opcode == FUSE_INIT)
		m->bound = true;
	say(m, in, error, body, size);
}

static void lie(struct fuzz_mount *m, const struct fuse_in_header *in, const void *arg,
		unsigned char *body)
{
	const uint64_t uniques[] = {
		0, 1, in->unique | 1, in->unique + 2, in->unique - 2, in->unique ^ 1ULL << 63,
		m->last_unique, ~0ULL, in->unique << 1,
	};
	struct rng *r = &m->rng;
	unsigned int size;
	bool done = false;
	uint64_t unique;
	int error;

	m->hostile[in->opcode % FUZZ_OPCODES]++;
	switch (below(r, 10)) {
	case 0:
	case 1:
		done = say(m, in, some_errno(r, in->opcode), NULL, 0);
		break;
	case 2:		/* no errno at all */
		done = say(m, in, chance(r, 50) ? 1 + below(r, INT_MAX) :
			   -512 - (int)below(r, 5000), NULL, 0);
		break;
	case 3:		/* an error and a body */
		done = say(m, in, -EIO, body, 1 + below(r, 300));
		break;
	case 4:		/* a body with other bytes, or more or less of them */
		size = make_body(m, in, arg, body, true, &error);
		if (in->opcode == FUSE_GET_FMAP)
			size = fuzz_map(r, m->format, false, body, 64 * KIB);
		else
			size = fuzz_damage(r, body, size, BODY_MAX);
		if (!wants_map(in, arg) || !names_canary(m, body, size))
			done = say(m, in, 0, body, size);
		break;
	case 5:		/* wrong length, or nothing but a part of a header */
		size = make_body(m, in, arg, body, true, &error);
		if (chance(r, 20))
			done = write(m->fd, body, below(r, 16)) > 0;
		else
			done = send(m, in->opcode, in->unique, error,
				    chance(r, 50) ? size : odd_number(r), body, size);
		break;
	case 6:		/* the answer to another request */
		size = make_body(m, in, arg, body, true, &error);
		unique = PICK(r, uniques);
		if (m->nr_held && chance(r, 30))
			unique = m->held[below(r, m->nr_held)].in.unique;
		if (unique && !names_canary(m, body, size))
			send(m, in->opcode, unique, error, size + 16, body, size);
		break;
	case 7:		/* twice, with different contents */
		be_honest(m, in, arg, body);
		done = true;
		size = make_body(m, in, arg, body, false, &error);
		say(m, in, error, body, size);
		break;
	default:
		size = make_body(m, in, arg, body, false, &error);
		done = say(m, in, error, body, size);
	}
	m->last_unique = in->unique;
	if (!done)
		be_honest(m, in, arg, body);
}

/* Answers that no request waits for, or that are invalid. */
static void babble(struct fuzz_mount *m, const struct fuse_in_header *in, unsigned char *body)
{
	struct rng *r = &m->rng;

	for (int n = 1 + below(r, 4); n; n--) {
		uint64_t unique = chance(r, 50) ? m->last_unique :
				  in->unique + below(r, 40) * 2 + 2;
		unsigned int size = chance(r, 50) ? 0 : below(r, 200);

		memset(body, rnd(r), size);
		m->hostile[in->opcode % FUZZ_OPCODES]++;
		send(m, in->opcode, chance(r, 80) ? unique : in->unique | 1, -(int)below(r, 600),
		     chance(r, 90) ? size + 16 : odd_number(r), body, size);
	}
}

static void answer(struct fuzz_mount *m, const struct fuse_in_header *in, const void *arg,
		   unsigned char *body)
{
	/* INIT decides the rest of a round: fewer lies. GET_DAXDEV comes once: more lies. */
	unsigned int lies = in->opcode == FUSE_INIT ? 30 : in->opcode == FUSE_GET_DAXDEV ? 80 :
			    in->opcode == FUSE_GET_FMAP ? 60 : 40;

	if (!m->ending && chance(&m->rng, 15))
		babble(m, in, body);
	if (!m->ending && chance(&m->rng, lies))
		lie(m, in, arg, body);
	else
		be_honest(m, in, arg, body);
}

static void answer_held(struct fuzz_mount *m, unsigned char *body)
{
	unsigned int i = below(&m->rng, m->nr_held);
	struct fuzz_request held = m->held[i];

	m->held[i] = m->held[--m->nr_held];
	answer(m, &held.in, held.arg, body);
}

static void handle(struct fuzz_mount *m, const struct fuse_in_header *in, const void *arg,
		   unsigned char *body)
{
	struct rng *r = &m->rng;
	size_t len = in->len - sizeof(*in);

	switch (in->opcode) {
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_NOTIFY_REPLY:
		return;
	case FUSE_INTERRUPT:
		if (!m->ending && chance(r, 20))
			send(m, in->opcode, in->unique, chance(r, 90) ? -EAGAIN : -ENOSYS, 16,
			     NULL, 0);
		return;
	}
	if (!m->ending && m->nr_held < FUZZ_HELD &&
	    chance(r, in->opcode == FUSE_INIT ? 2 : 5)) {
		struct fuzz_request *held = &m->held[m->nr_held++];

		held->in = *in;
		memcpy(held->arg, arg, len < FUZZ_ARG ? len : FUZZ_ARG);
		m->withheld[in->opcode % FUZZ_OPCODES]++;
		if (in->opcode == FUSE_INIT)
			m->init_withheld = true;
		return;
	}
	answer(m, in, arg, body);
	if (m->nr_held && !m->init_withheld && chance(r, 20))
		answer_held(m, body);
	if (chance(r, 15))
		sem_post(&m->notify);
	if (chance(r, 1) && m->opener[0] && !m->ending)
		kill(m->opener[below(r, FUZZ_OPENERS)], SIGUSR1);
}

static void *serve(void *arg)
{
	/*
	 * In pages of its own: the kernel looks a page up and copies the request to it later. If a
	 * task is forked in between and another thread writes to that page, it gets a copy of it.
	 */
	unsigned char *buf = aligned_alloc(PAGE, BUFFER), *body = calloc(1, BODY_MAX);
	const struct fuse_in_header *in = (void *)buf;
	struct fuzz_mount *m = arg;
	bool attached = false;
	int idle = 0;

	while (!m->dying) {
		struct pollfd p = { .fd = m->fd, .events = POLLIN };
		ssize_t n = poll(&p, 1, 1);

		if (n > 0 && p.revents & POLLIN) {
			n = read(m->fd, buf, BUFFER);
			if (n >= (ssize_t)sizeof(*in)) {
				attached = true;
				idle = 0;
				handle(m, in, in + 1, body);
				continue;
			}
			if (n < 0 && (errno == EINTR || errno == EAGAIN || errno == ENOENT))
				continue;
			if (attached)
				break;		/* unmounted or aborted */
		}
		if (n > 0 && attached && p.revents & (POLLERR | POLLHUP))
			break;
		if (m->ending && !attached && !m->nr_held)
			break;
		/* No request comes: send a withheld answer, but not that to INIT. */
		if (m->nr_held && !(m->init_withheld && !m->ending) &&
		    (m->ending || ++idle > 1))
			answer_held(m, body);
		else if (n > 0)
			usleep(500);
	}
	/* INIT has allowed requests that the server cannot read, or it was aborted. */
	m->over = true;
	free(buf);
	free(body);
	__atomic_sub_fetch(&m->running, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

/* ---- notifications ---- */

static unsigned int make_notification(struct fuzz_mount *m, struct rng *r, int code,
				      unsigned char *body)
{
	uint64_t nodeid = chance(r, 20) ? odd_number(r) :
			  chance(r, 30) ? STABLE + below(r, 8) :
			  chance(r, 10) ? FUSE_ROOT_ID : m->next_nodeid - 1 - below(r, 4);
	char name[8] = { chance(r, 50) ? 'u' : 's', '0' + below(r, 6) };
	unsigned int len = chance(r, 90) ? 2 : below(r, 7);
	uint64_t offset = chance(r, 70) ? below(r, FUZZ_FILE_SIZE) : odd_number(r);
	uint32_t size = chance(r, 80) ? below(r, 8192) : chance(r, 50) ? odd_number(r) : 65536;
	union {
		struct fuse_notify_poll_wakeup_out poll;
		struct fuse_notify_inval_inode_out inode;
		struct fuse_notify_inval_entry_out entry;
		struct fuse_notify_delete_out del;
		struct fuse_notify_store_out store;
		struct fuse_notify_retrieve_out retrieve;
		struct notify_prune_out prune;
	} *u = (void *)body;

	memset(u, 0, sizeof(*u));
	switch (code) {
	case FUSE_NOTIFY_POLL:
		u->poll.kh = odd_number(r);
		return sizeof(u->poll);
	case FUSE_NOTIFY_INVAL_INODE:
		u->inode.ino = nodeid;
		u->inode.off = chance(r, 50) ? 0 : offset;
		u->inode.len = chance(r, 50) ? 0 : odd_number(r);
		return sizeof(u->inode);
	case FUSE_NOTIFY_INVAL_ENTRY:
		u->entry.parent = chance(r, 90) ? FUSE_ROOT_ID : nodeid;
		u->entry.namelen = len;
		u->entry.flags = below(r, 3);
		memcpy(&u->entry + 1, name, len + 1);
		return sizeof(u->entry) + len + 1;
	case FUSE_NOTIFY_DELETE:
		u->del.parent = chance(r, 90) ? FUSE_ROOT_ID : nodeid;
		u->del.child = nodeid;
		u->del.namelen = len;
		memcpy(&u->del + 1, name, len + 1);
		return sizeof(u->del) + len + 1;
	case FUSE_NOTIFY_STORE:
		u->store.nodeid = nodeid;
		u->store.offset = offset;
		u->store.size = size;
		size = size < 64 * KIB ? size : 64 * KIB;
		memset(&u->store + 1, 's', size);
		return sizeof(u->store) + size;
	case FUSE_NOTIFY_RETRIEVE:
		u->retrieve.notify_unique = rnd(r);
		u->retrieve.nodeid = nodeid;
		u->retrieve.offset = offset;
		u->retrieve.size = size;
		return sizeof(u->retrieve);
	case NOTIFY_PRUNE:
		u->prune.count = chance(r, 80) ? 1 : odd_number(r);
		memcpy(&u->prune + 1, &nodeid, 8);
		return sizeof(u->prune) + 8;
	default:
		return 0;
	}
}

static void *notify(void *arg)
{
	unsigned char *body = calloc(1, 128 * KIB);
	struct fuzz_mount *m = arg;
	struct rng *r = &m->notify_rng;

	while (!m->ending && !m->dying) {
		int code = chance(r, 95) ? 1 + below(r, 9) : below(r, 16);
		struct fuse_out_header out = { .error = code };
		struct iovec iov[2] = { { &out, sizeof(out) }, { body, 0 } };
		struct timespec until;

		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += 20 * 1000 * 1000;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		if (sem_timedwait(&m->notify, &until))
			continue;
		iov[1].iov_len = make_notification(m, r, code, body);
		if (chance(r, 10))
			iov[1].iov_len = fuzz_damage(r, body, iov[1].iov_len, 128 * KIB);
		out.len = sizeof(out) + iov[1].iov_len;
		if (writev(m->fd, iov, 2) < 0)
			m->notify_refused[code]++;
		m->notified[code]++;
		m->sent++;
	}
	free(body);
	__atomic_sub_fetch(&m->running, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

/* ---- begin and end of a server ---- */

int fuzz_server_start(struct fuzz_mount *m, const struct fuzz_run *run, const char *device0,
		      const char *device1)
{
	struct rng *r = &m->rng;

	m->rng = fuzz_rng(run, 1);
	m->notify_rng = fuzz_rng(run, 2);
	m->sync_init = chance(r, 40);
	m->permissions = chance(r, 50);
	m->format = below(r, NR_FORMATS);
	m->valid = chance(r, 70) ? 0 : 3600;
	m->next_nodeid = FRESH;
	m->device[0] = device0;
	m->device[1] = device1;
	m->ending = m->dying = m->over = m->init_withheld = m->bound = false;
	m->nr_held = 0;
	m->sent = 0;
	memset(m->opener, 0, sizeof(m->opener));
	sem_init(&m->notify, 0, 0);
	strcpy(m->dir, "/tmp/fuzz.XXXXXX");
	if (!mkdtemp(m->dir))
		return -errno;
	m->fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (m->fd < 0)
		return -errno;
	if (m->sync_init && ioctl(m->fd, FUSE_DEV_IOC_SYNC_INIT))
		m->sync_init = false;
	m->running = 2;
	if (pthread_create(&m->thread, NULL, serve, m) ||
	    pthread_create(&m->notifier, NULL, notify, m))
		return -EAGAIN;
	return 0;
}

void fuzz_server_die(struct fuzz_mount *m)
{
	m->dying = true;
	for (int ms = 0; m->running && ms < 2000; ms++)
		usleep(1000);
	close(m->fd);
	m->fd = -1;
}

bool fuzz_server_stop(struct fuzz_mount *m, int ms)
{
	m->ending = true;
	for (; m->running && ms; ms--) {
		usleep(1000);
		/* The mount was never initialized: the server does not wait for its end. */
		if (m->init_withheld)
			m->dying = true;
	}
	if (m->running)
		return false;
	pthread_join(m->thread, NULL);
	pthread_join(m->notifier, NULL);
	if (m->fd >= 0)
		close(m->fd);
	m->fd = -1;
	rmdir(m->dir);
	return true;
}

static uint64_t sum(const uint64_t *n, unsigned int nr)
{
	uint64_t all = 0;

	while (nr--)
		all += *n++;
	return all;
}

uint64_t fuzz_sent(const struct fuzz_mount *m)
{
	return sum(m->taken, FUZZ_OPCODES) + sum(m->refused, FUZZ_OPCODES) + sum(m->notified, 16);
}

void fuzz_server_print(const struct fuzz_mount *m)
{
	static const char *const names[FUZZ_OPCODES] = {
		[FUSE_LOOKUP] = "LOOKUP", [FUSE_GETATTR] = "GETATTR", [FUSE_SETATTR] = "SETATTR",
		[FUSE_OPEN] = "OPEN", [FUSE_READ] = "READ", [FUSE_WRITE] = "WRITE",
		[FUSE_STATFS] = "STATFS", [FUSE_RELEASE] = "RELEASE", [FUSE_FSYNC] = "FSYNC",
		[FUSE_FLUSH] = "FLUSH", [FUSE_INIT] = "INIT", [FUSE_OPENDIR] = "OPENDIR",
		[FUSE_READDIR] = "READDIR", [FUSE_CREATE] = "CREATE", [FUSE_UNLINK] = "UNLINK",
		[FUSE_INTERRUPT] = "INTERRUPT", [FUSE_GET_FMAP] = "GET_FMAP",
		[FUSE_GET_DAXDEV] = "GET_DAXDEV",
	};

	printf("# %-12s %9s %9s %9s %9s %9s\n", "replies to", "honest", "hostile", "taken",
	       "refused", "late");
	for (int op = 0; op < FUZZ_OPCODES; op++) {
		char number[16];

		if (!m->taken[op] && !m->refused[op])
			continue;
		snprintf(number, sizeof(number), "opcode %d", op);
		printf("# %-12s %9lu %9lu %9lu %9lu %9lu\n", names[op] ?: number, m->honest[op],
		       m->hostile[op], m->taken[op], m->refused[op], m->withheld[op]);
	}
	printf("# %-12s %9lu %9lu %9lu %9lu %9lu\n", "all", sum(m->honest, FUZZ_OPCODES),
	       sum(m->hostile, FUZZ_OPCODES), sum(m->taken, FUZZ_OPCODES),
	       sum(m->refused, FUZZ_OPCODES), sum(m->withheld, FUZZ_OPCODES));
	printf("# notifications: %lu, of them refused: %lu\n", sum(m->notified, 16),
	       sum(m->notify_refused, 16));
}
