// SPDX-License-Identifier: GPL-2.0
/*
 * A mount is unmounted while the module walks its files, because a device is unbound. Then the
 * module drops the last reference to the superblock, and has to shut it down.
 *
 * The shutdown of a FUSE mount waits until the server is done with its requests. This server never
 * is: it reads a request into memory that is not there (userfaultfd). That may delay the end of
 * its own mount. It must not delay the unbinding, which holds locks of all DAX devices: they can
 * still be unbound and used.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <string.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define SIZE		(64 * MIB)
#define READ_SIZE	(2 * MIB)	/* a request may be this long */
#define ROUNDS		12

static sem_t go_on;

/* The server stops at this request. */
static void stay(struct fuse_server *s, const struct fuse_in_header *in, const void *arg)
{
	sem_wait(&go_on);
}

static struct {
	int fd;
	char *buf;
} reader;

static void *read_request(void *unused)
{
	/* The header of the request crosses the page boundary. */
	return (void *)(long)read(reader.fd, reader.buf + PAGE - 8, READ_SIZE);
}

FIXTURE(last_user) {
	struct scripted map;
	int uffd;
	long refs;
};

FIXTURE_SETUP(last_user)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };

	FMAP_REQUIRE();
	self->uffd = syscall(SYS_userfaultfd, O_CLOEXEC);
	if (self->uffd < 0 || ioctl(self->uffd, UFFDIO_API, &api))
		SKIP(return, "no userfaultfd for faults in the kernel: %s", strerror(errno));
	self->refs = module_refs();
	reader.buf = mmap(NULL, PAGE + READ_SIZE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, reader.buf);
	ASSERT_EQ(0, madvise(reader.buf, PAGE + READ_SIZE, MADV_NOHUGEPAGE));
	reader.buf[0] = 1;
	reg.range = (struct uffdio_range){ (uintptr_t)reader.buf + PAGE, READ_SIZE };
	ASSERT_EQ(0, ioctl(self->uffd, UFFDIO_REGISTER, &reg));
	sem_init(&go_on, 0, 0);
	/* PTE entries, so that flushing all of the file takes a while. */
	self->map = fmap_linear(0, PAGE, SIZE);
}

/* In the parent: the devices have to be bound again even if the test died. */
FIXTURE_TEARDOWN_PARENT(last_user)
{
	for (int i = 0; i < 2 && !fmap_missing(); i++)
		EXPECT_EQ(0, daxdev_bind(&daxdev[i]));
}

/* A mount whose file is dirty, and whose server hangs in a read(2). NULL if that fails. */
static struct fuse_server *stuck_mount(struct scripted *map, int uffd, pthread_t *thread)
{
	struct fuse_server *s = fmap_server(SCRIPTED_OPS_NAME);
	struct uffd_msg msg;
	int fd[2];
	char *p;

	if (!s)
		return NULL;
	fs_add(s, "file", SIZE, map, sizeof(*map));
	fs_add(s, "plain", FS_PLAIN, NULL, 0);
	s->open_flags = FOPEN_NOFLUSH;
	if (fs_mount(s))
		goto stop;
	p = fs_map(s, "file", SIZE, PROT_READ | PROT_WRITE);
	if (p == MAP_FAILED)
		goto stop;
	for (size_t at = 0; at < SIZE; at += PAGE)
		p[at] = 1;
	munmap(p, SIZE);
	fd[0] = fs_open(s, "plain", O_RDONLY);
	fd[1] = fs_open(s, "plain", O_RDONLY);
	s->hook[FUSE_RELEASE] = stay;
	s->count[FUSE_RELEASE] = 0;
	close(fd[0]);
	if (!fs_wait(s, FUSE_RELEASE, 1))
		goto stop;
	reader.fd = s->fd;
	if (pthread_create(thread, NULL, read_request, NULL))
		goto stop;
	close(fd[1]);
	if (read(uffd, &msg, sizeof(msg)) == sizeof(msg))
		return s;
stop:
	sem_post(&go_on);
	fs_stop(s);
	return NULL;
}

TEST_F_TIMEOUT(last_user, unbinding, 240)
{
	struct uffdio_zeropage zero = { { (uintptr_t)reader.buf + PAGE, READ_SIZE } };

	for (int round = 0; round < ROUNDS; round++) {
		pthread_t thread;
		struct fuse_server *s = stuck_mount(&self->map, self->uffd, &thread);
		pid_t pid, umounter;

		ASSERT_NE(NULL, s);
		pid = daxdev_unbind_begin(&daxdev[0]);
		ASSERT_LE(0, pid);
		usleep(round * 4000);
		/* If umount(2) is the last user itself, it waits, as for any FUSE mount. */
		umounter = fork();
		ASSERT_LE(0, umounter);
		if (!umounter)
			_exit(umount2(s->dir, MNT_DETACH) ? errno : 0);
		s->mounted = false;
		EXPECT_EQ(0, ended(pid))
			TH_LOG("round %d", round);
		EXPECT_EQ(0, daxdev_unbind(&daxdev[1]));
		EXPECT_EQ(0, daxdev_bind(&daxdev[1]));

		ASSERT_EQ(0, ioctl(self->uffd, UFFDIO_ZEROPAGE, &zero));
		ASSERT_EQ(0, pthread_join(thread, NULL));
		sem_post(&go_on);
		EXPECT_EQ(0, ended(umounter));
		EXPECT_EQ(0, fs_stop(s));
		ASSERT_EQ(0, daxdev_bind(&daxdev[0]));
		/* The pages are missing again in the next round. */
		ASSERT_EQ(0, madvise(reader.buf + PAGE, READ_SIZE, MADV_DONTNEED));
	}
	EXPECT_TRUE(module_refs_wait(self->refs));
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
