// SPDX-License-Identifier: GPL-2.0
/*
 * First opens while other tasks hold VFS locks, waiting for the server.
 *
 * A task that waits for an answer of the server may hold the lock of an inode or a
 * directory, and a notification that waits for such a lock blocks all later ones. A server
 * may need a notification, or the open, to complete before it answers the other request. If
 * the first open took these locks, that would be a deadlock. So it must complete, mapped or
 * plain, while they are held, and must not block a notification.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "first_open.h"

enum { FILE_MAPPED, FILE_OTHER, FILE_PLAIN, NR_FILES };

static const char *const name_of[NR_FILES] = { "file", "other", "plain" };

/* Answer SETXATTR and UNLINK with success, and do nothing. */
static void agree(struct fuse_server *s, const struct fuse_in_header *in, const void *arg)
{
	fs_reply(s, in, 0, NULL, 0);
}

/* A server with all three files, mounted; their names are known. */
static struct fuse_server *mounted(struct scripted map[2])
{
	struct fuse_server *s = server_of(&map[0]);
	struct stat st;

	if (!s)
		return NULL;
	map[1] = fmap_linear(1, 0, SIZE);
	fs_add(s, name_of[FILE_OTHER], SIZE, &map[1], sizeof(map[1]));
	fs_add(s, name_of[FILE_PLAIN], SIZE, NULL, 0);
	s->hook[FUSE_SETXATTR] = agree;
	s->hook[FUSE_UNLINK] = agree;
	s->error[FUSE_MKDIR] = -EPERM;
	s->error[FUSE_LINK] = -EPERM;
	if (fs_mount(s)) {
		fs_stop(s);
		return NULL;
	}
	for (int i = 0; i < NR_FILES; i++)
		if (stat(fs_path(s, name_of[i]), &st)) {
			fs_stop(s);
			return NULL;
		}
	return s;
}

/* A child that opens and closes file @i. */
static pid_t opener_of(struct fuse_server *s, int i)
{
	return fs_try_in_child(s, name_of[i]);
}

/* ---- notifications ---- */

static int tell_inode(struct fuse_server *s, int file)
{
	struct fuse_notify_inval_inode_out head = { .ino = s->file[file].nodeid };

	return fs_notify(s, FUSE_NOTIFY_INVAL_INODE, &head, sizeof(head), NULL, 0);
}

static int tell_entry(struct fuse_server *s, const char *name)
{
	struct fuse_notify_inval_entry_out head = {
		.parent = FUSE_ROOT_ID,
		.namelen = strlen(name),
	};

	return fs_notify(s, FUSE_NOTIFY_INVAL_ENTRY, &head, sizeof(head), name,
			 strlen(name) + 1);
}

static int tell_page(struct fuse_server *s, int file)
{
	static const char page[PAGE];
	struct fuse_notify_store_out head = {
		.nodeid = s->file[file].nodeid,
		.size = sizeof(page),
	};

	return fs_notify(s, FUSE_NOTIFY_STORE, &head, sizeof(head), page, sizeof(page));
}

/* A thread of the server that sends a notification. */
struct teller {
	struct fuse_server *s;
	int (*tell)(struct fuse_server *s);
	pthread_t thread;
	volatile pid_t tid;
	volatile int told;	/* -1: not complete yet */
};

static void *teller_thread(void *arg)
{
	struct teller *t = arg;

	t->tid = gettid();
	t->told = t->tell(t->s);
	return NULL;
}

static int teller_start(struct teller *t, struct fuse_server *s, int (*tell)(struct fuse_server *s))
{
	*t = (struct teller){ .s = s, .tell = tell, .told = -1 };
	return pthread_create(&t->thread, NULL, teller_thread, t);
}

/* What the kernel returned, or -1 on timeout. */
static int teller_done(const struct teller *t)
{
	for (int ms = 0; ms < FS_PATIENCE && t->told < 0; ms++)
		usleep(1000);
	return t->told;
}

static int tell_of_this_inode(struct fuse_server *s)
{
	return tell_inode(s, FILE_MAPPED);
}

static int tell_of_another_inode(struct fuse_server *s)
{
	return tell_inode(s, FILE_OTHER);
}

static int tell_of_this_entry(struct fuse_server *s)
{
	return tell_entry(s, name_of[FILE_MAPPED]);
}

static int tell_of_another_entry(struct fuse_server *s)
{
	return tell_entry(s, name_of[FILE_PLAIN]);
}

static int tell_of_no_entry(struct fuse_server *s)
{
	return tell_entry(s, "nothing");
}

static int tell_this_page(struct fuse_server *s)
{
	return tell_page(s, FILE_MAPPED);
}

static int (*const tellings[])(struct fuse_server *s) = {
	tell_of_this_inode, tell_of_another_inode, tell_of_this_entry, tell_of_another_entry,
	tell_this_page,
};

/* ---- a task whose request is not answered holds the lock of an inode ---- */

FIXTURE(inode_lock) {
	struct fuse_server *s;
	struct scripted map[2];
	int idle;
	pid_t holder;
	long refs;
};

FIXTURE_VARIANT(inode_lock) {
	int opcode;
};

FIXTURE_VARIANT_ADD(inode_lock, chmod) {
	.opcode = FUSE_SETATTR,
};

FIXTURE_VARIANT_ADD(inode_lock, setxattr) {
	.opcode = FUSE_SETXATTR,
};

FIXTURE_VARIANT_ADD(inode_lock, link) {
	.opcode = FUSE_LINK,
};

/* Through a no_rw descriptor, which does not count as the first open. */
FIXTURE_VARIANT_ADD(inode_lock, fsync) {
	.opcode = FUSE_FSYNC,
};

FIXTURE_SETUP(inode_lock)
{
	FMAP_REQUIRE();
	self->refs = module_refs();
	self->idle = -1;
	self->s = mounted(self->map);
	ASSERT_NE(NULL, self->s);
	self->s->hold[variant->opcode] = true;
}

FIXTURE_TEARDOWN(inode_lock)
{
	if (self->idle >= 0)
		close(self->idle);
	EXPECT_EQ(0, fs_stop(self->s));
	EXPECT_TRUE(module_refs_wait(self->refs));
}

/* The holder's system call: 0 or the errno. The server answers some with EPERM. */
static int hold_lock_of(struct fuse_server *s, int opcode, const char *name, int idle)
{
	char to[128];
	int ret;

	switch (opcode) {
	case FUSE_SETATTR:
		ret = chmod(fs_path(s, name), 0600);
		break;
	case FUSE_SETXATTR:
		ret = setxattr(fs_path(s, name), "user.x", "x", 1, 0);
		break;
	case FUSE_LINK:
		strcpy(to, fs_path(s, "linked"));
		ret = link(fs_path(s, name), to);
		break;
	default:
		ret = fsync(idle);
	}
	return ret ? errno : 0;
}

#define start_holder(file) do {						\
	if (variant->opcode == FUSE_FSYNC) {				\
		self->idle = fs_open(self->s, name_of[file], O_ACCMODE);	\
		ASSERT_LE(0, self->idle);				\
	}								\
	self->holder = fork();						\
	ASSERT_LE(0, self->holder);					\
	if (!self->holder)						\
		_exit(hold_lock_of(self->s, variant->opcode, name_of[file], self->idle)); \
	ASSERT_TRUE(fs_wait(self->s, variant->opcode, 1));		\
	EXPECT_TRUE(asleep(self->holder));				\
} while (0)

#define end_holder() do {						\
	int _status;							\
									\
	fs_release(self->s, variant->opcode);				\
	_status = ended(self->holder);					\
	EXPECT_EQ(variant->opcode == FUSE_LINK ? W_EXITCODE(EPERM, 0) : 0, _status); \
} while (0)

/* The first open of file @i ends while the lock of file @locked is held. */
#define expect_open(locked, i) do {					\
	pid_t _opener;							\
	int _status;							\
									\
	start_holder(locked);						\
	_opener = opener_of(self->s, i);				\
	ASSERT_LE(0, _opener);						\
	_status = ended(_opener);					\
	EXPECT_EQ(0, _status) {						\
		TH_LOG("status %x, state %c", _status, task_state(_opener) ?: '-'); \
	}								\
	end_holder();							\
	if (_status < 0)						\
		EXPECT_EQ(0, ended(_opener));				\
} while (0)

TEST_F(inode_lock, mapped_file)
{
	expect_open(FILE_MAPPED, FILE_MAPPED);
	EXPECT_EQ(0, fs_fill(self->s, "file", 'm', SIZE));
	EXPECT_EQ(1, fs_counter(self->s, "files"));
}

TEST_F(inode_lock, plain_file)
{
	expect_open(FILE_PLAIN, FILE_PLAIN);
	EXPECT_EQ(0, fs_counter(self->s, "files"));
}

TEST_F(inode_lock, other_file)
{
	expect_open(FILE_MAPPED, FILE_OTHER);
	EXPECT_EQ(0, fs_fill(self->s, "other", 'o', SIZE));
}

/*
 * The server sends notifications about this inode and others before it answers. They
 * complete, and the opener either completes or can be killed.
 */
TEST_F(inode_lock, notifications)
{
	struct teller t[ARRAY_SIZE(tellings)];
	unsigned int hung = 0;
	int status;
	pid_t pid;

	start_holder(FILE_MAPPED);
	pid = opener_of(self->s, FILE_MAPPED);
	ASSERT_LE(0, pid);
	EXPECT_TRUE(fs_wait(self->s, FUSE_GET_DAXDEV, 1));
	EXPECT_TRUE(at_rest(pid));
	for (int i = 0; i < ARRAY_SIZE(tellings); i++)
		/* On any FUSE mount, LINK holds the directory that a name's notification needs. */
		t[i].told = variant->opcode == FUSE_LINK &&
			    (tellings[i] == tell_of_this_entry ||
			     tellings[i] == tell_of_another_entry) ? -2 : -1;
	for (int i = 0; i < ARRAY_SIZE(tellings); i++)
		if (t[i].told == -1)
			ASSERT_EQ(0, teller_start(&t[i], self->s, tellings[i]));
	for (int i = 0; i < ARRAY_SIZE(tellings) && !hung; i++) {
		if (t[i].told == -2)
			continue;
		status = teller_done(&t[i]);
		/* ENOENT: the name was invalidated before, or the file has been evicted. */
		EXPECT_TRUE(!status || status == ENOENT) {
			TH_LOG("notification %d: %d, state %c", i, status, task_state(t[i].tid));
			hung++;
		}
	}
	if (task_state(pid) != 'Z')
		kill(pid, SIGKILL);
	status = ended(pid);
	EXPECT_TRUE(!status || status == SIGKILL) {
		TH_LOG("opener: status %x, state %c", status, task_state(pid) ?: '-');
	}
	end_holder();
	if (status < 0)
		EXPECT_EQ(SIGKILL, ended(pid));
	for (int i = 0; i < ARRAY_SIZE(tellings); i++)
		if (t[i].told != -2)
			EXPECT_EQ(0, pthread_join(t[i].thread, NULL));
	EXPECT_EQ(0, fs_fill(self->s, "file", 'n', SIZE));
}

/* ---- a notification waits for a directory ---- */

FIXTURE(slow_notification) {
	struct fuse_server *s;
	struct scripted map[2];
	struct teller teller;
	pid_t holder;
	long refs;
};

FIXTURE_SETUP(slow_notification)
{
	FMAP_REQUIRE();
	self->refs = module_refs();
	self->s = mounted(self->map);
	ASSERT_NE(NULL, self->s);
	self->s->hold[FUSE_MKDIR] = true;
	self->holder = fork();
	ASSERT_LE(0, self->holder);
	if (!self->holder)
		_exit(mkdir(fs_path(self->s, "slow"), 0755) ? errno : 0);
	ASSERT_TRUE(fs_wait(self->s, FUSE_MKDIR, 1));
	ASSERT_EQ(0, teller_start(&self->teller, self->s, tell_of_no_entry));
	while (!self->teller.tid)
		usleep(1000);
	EXPECT_TRUE(asleep(self->teller.tid));
	ASSERT_EQ(-1, self->teller.told);
}

FIXTURE_TEARDOWN(slow_notification)
{
	EXPECT_EQ(0, fs_stop(self->s));
	EXPECT_TRUE(module_refs_wait(self->refs));
}

/* The notification must still have been waiting; let it complete. */
#define end_notification() do {						\
	EXPECT_EQ(-1, self->teller.told);				\
	fs_release(self->s, FUSE_MKDIR);				\
	EXPECT_EQ(W_EXITCODE(EPERM, 0), ended(self->holder));		\
	EXPECT_EQ(ENOENT, teller_done(&self->teller));			\
	EXPECT_EQ(0, pthread_join(self->teller.thread, NULL));		\
} while (0)

/*
 * Two tasks open each file; after two seconds those that still wait are killed. Each must
 * have opened its file, or be killable.
 */
TEST_F(slow_notification, first_opens)
{
	pid_t pid[2 * NR_FILES];
	int status;

	for (int i = 0; i < ARRAY_SIZE(pid); i++) {
		pid[i] = opener_of(self->s, i % NR_FILES);
		ASSERT_LE(0, pid[i]);
	}
	sleep(2 * fs_slowness());
	for (int i = 0; i < ARRAY_SIZE(pid); i++) {
		if (task_state(pid[i]) != 'Z')
			kill(pid[i], SIGKILL);
		status = ended(pid[i]);
		EXPECT_TRUE(!status || status == SIGKILL) {
			TH_LOG("open of %s: status %x", name_of[i % NR_FILES], status);
		}
	}
	end_notification();
	EXPECT_EQ(0, fs_fill(self->s, "file", 'f', SIZE));
	EXPECT_EQ(0, fs_fill(self->s, "other", 'o', SIZE));
	EXPECT_EQ(2, fs_counter(self->s, "files"));
}

/* The opener maps the memory, and not FUSE's page cache. */
TEST_F(slow_notification, opened_meanwhile)
{
	volatile int *opened = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
				    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int status;
	pid_t pid;

	ASSERT_NE(MAP_FAILED, opened);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		unsigned char *p = fs_map(self->s, "file", SIZE, PROT_READ | PROT_WRITE);

		if (p == MAP_FAILED)
			_exit(errno);
		*opened = 1;
		for (size_t at = 0; at < SIZE; at += 64 * PAGE)
			if (touch(p + at, 'w'))
				_exit(EFAULT);
		_exit(msync(p, SIZE, MS_SYNC) ? errno : 0);
	}
	EXPECT_TRUE(at_rest(pid));
	end_notification();
	status = ended(pid);
	EXPECT_EQ(0, status);
	EXPECT_EQ(1, *opened);
	EXPECT_EQ(0, self->s->count[FUSE_READ] + self->s->count[FUSE_WRITE]);
}

/* A second notification, which needs no lock, must complete as on any FUSE mount. */
TEST_F(slow_notification, next_notification)
{
	struct teller next;
	pid_t pid = opener_of(self->s, FILE_MAPPED);

	ASSERT_LE(0, pid);
	EXPECT_TRUE(fs_wait(self->s, FUSE_GET_DAXDEV, 1));
	EXPECT_TRUE(at_rest(pid));
	ASSERT_EQ(0, teller_start(&next, self->s, tell_of_another_inode));
	EXPECT_EQ(0, teller_done(&next));
	end_notification();
	EXPECT_EQ(0, pthread_join(next.thread, NULL));
	EXPECT_EQ(0, ended(pid));
	EXPECT_EQ(0, fs_fill(self->s, "file", 'n', SIZE));
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
