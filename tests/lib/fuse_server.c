// SPDX-License-Identifier: GPL-2.0
/* The server of fuse_server.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fmap_test.h"
#include "fuse_server.h"
#include "fuse_wire.h"

int fs_slowness(void)
{
	const char *env = getenv("FMAP_SLOW");
	int times = env ? atoi(env) : 1;

	return times > 0 ? times : 1;
}

#define MAX_WRITE	(64 * 1024)
#define BUFFER		(MAX_WRITE + 8192)
#define FOREVER		3600		/* validity of names and attributes, s */
#define FIRST_NODEID	2

int fs_reply(struct fuse_server *s, const struct fuse_in_header *in, int error,
	     const void *data, size_t len)
{
	int err = s->send ? s->send(s, in, error, data, len) :
			    fuse_wire_reply(s->fd, in, error, data, len);

	if (err)
		s->refused++;
	return err;
}

int fs_notify(struct fuse_server *s, int code, const void *head, size_t head_len,
	      const void *data, size_t len)
{
	return fuse_wire_notify(s->fd, code, head, head_len, data, len);
}

static struct fs_file *file_of(struct fuse_server *s, uint64_t nodeid)
{
	for (unsigned int i = 0; i < s->nr_files; i++)
		if (s->file[i].nodeid == nodeid)
			return &s->file[i];
	return NULL;
}

static struct fs_file *file_named(struct fuse_server *s, const char *name)
{
	for (unsigned int i = 0; i < s->nr_files; i++)
		if (!strcmp(s->file[i].name, name))
			return &s->file[i];
	return NULL;
}

static void fill_attr(struct fuse_attr *a, const struct fs_file *f)
{
	memset(a, 0, sizeof(*a));
	a->ino = f ? f->nodeid : FUSE_ROOT_ID;
	a->mode = f ? f->mode : S_IFDIR | 0755;
	a->nlink = f ? 1 : 2;
	a->size = f ? f->size : 0;
	a->blocks = (a->size + 511) / 512;
	a->mtime = f ? f->mtime : 0;
	a->blksize = 4096;
}

static void reply_init(struct fuse_server *s, const struct fuse_in_header *in,
		       const struct fuse_init_in *arg)
{
	struct fuse_init_out out = {
		.major = FUSE_KERNEL_VERSION,
		.minor = s->init_minor,
		.max_readahead = arg->max_readahead,
		.flags = arg->flags & s->init_flags,
		.max_background = 16,
		.congestion_threshold = 12,
		.max_write = MAX_WRITE,
		.max_pages = MAX_WRITE / 4096,
		.flags2 = arg->flags2 & s->init_flags2,
		.max_stack_depth = s->max_stack_depth,
	};

	memcpy((char *)&out + FUSE_DAX_FMAP_INIT_OUT_FLAGS, &s->fmap_flags,
	       sizeof(s->fmap_flags));
	memcpy((char *)&out + FUSE_DAX_FMAP_INIT_OUT_NAME, s->ops_name,
	       sizeof(s->ops_name));
	/* Like a server whose INIT takes some time: the mounter waits by then. */
	if (s->sync_init && !s->eager)
		asleep(s->mounter);
	fs_reply(s, in, 0, &out, s->init_len);
}

static void reply_attr(struct fuse_server *s, const struct fuse_in_header *in,
		       const struct fs_file *f)
{
	struct fuse_attr_out out = { .attr_valid = FOREVER };

	fill_attr(&out.attr, f);
	fs_reply(s, in, 0, &out, sizeof(out));
}

static void fill_entry(struct fuse_server *s, struct fuse_entry_out *out, const struct fs_file *f)
{
	s->known++;
	memset(out, 0, sizeof(*out));
	out->nodeid = f->nodeid;
	out->entry_valid = FOREVER;
	out->attr_valid = FOREVER;
	fill_attr(&out->attr, f);
}

static void reply_setattr(struct fuse_server *s, const struct fuse_in_header *in,
			  const struct fuse_setattr_in *arg)
{
	struct fs_file *f = file_of(s, in->nodeid);

	if (f && (arg->valid & FATTR_MODE))
		f->mode = arg->mode;
	if (f && (arg->valid & FATTR_MTIME))
		f->mtime = arg->mtime;
	if (f && (arg->valid & FATTR_SIZE))
		f->size = arg->size;
	reply_attr(s, in, f);
}

static void reply_create(struct fuse_server *s, const struct fuse_in_header *in,
			 const struct fuse_create_in *arg)
{
	struct {
		struct fuse_entry_out entry;
		struct fuse_open_out open;
	} out = { 0 };
	struct fs_file *f = file_named(s, (const char *)(arg + 1));

	if (!f) {
		fs_reply(s, in, -EPERM, NULL, 0);
		return;
	}
	fill_entry(s, &out.entry, f);
	out.open.open_flags = s->open_flags;
	fs_reply(s, in, 0, &out, sizeof(out));
}

static void reply_read(struct fuse_server *s, const struct fuse_in_header *in,
		       const struct fuse_read_in *arg)
{
	struct fs_file *f = file_of(s, in->nodeid);
	uint64_t end = f && f->size < FS_PLAIN ? f->size : FS_PLAIN;
	uint32_t len = arg->size;

	if (!f || arg->offset >= end)
		len = 0;
	else if (len > end - arg->offset)
		len = end - arg->offset;
	fs_reply(s, in, 0, len ? f->plain + arg->offset : NULL, len);
}

static void reply_write(struct fuse_server *s, const struct fuse_in_header *in,
			const struct fuse_write_in *arg)
{
	struct fs_file *f = file_of(s, in->nodeid);
	struct fuse_write_out out = { .size = arg->size };

	if (!f || arg->offset > FS_PLAIN || arg->size > FS_PLAIN - arg->offset) {
		fs_reply(s, in, -EFBIG, NULL, 0);
		return;
	}
	memcpy(f->plain + arg->offset, arg + 1, arg->size);
	if (f->size < arg->offset + arg->size)
		f->size = arg->offset + arg->size;
	fs_reply(s, in, 0, &out, sizeof(out));
}

static void reply_get_fmap(struct fuse_server *s, const struct fuse_in_header *in,
			   const struct fuse_get_fmap_in *arg)
{
	struct fs_file *f = file_of(s, in->nodeid);

	if (!f || !f->map)
		fs_reply(s, in, f ? -ENODATA : -ENOENT, NULL, 0);
	else if (f->map_len > arg->size)
		fs_reply(s, in, -ERANGE, NULL, 0);
	else
		fs_reply(s, in, 0, f->map, f->map_len);
}

static void reply_get_daxdev(struct fuse_server *s,
			     const struct fuse_in_header *in,
			     const struct fuse_get_daxdev_in *arg)
{
	struct fuse_get_daxdev_out out = { .index = arg->index };

	if (arg->index >= FUSE_DAX_FMAP_DEVICES_MAX || !s->devices[arg->index]) {
		fs_reply(s, in, -ENODEV, NULL, 0);
		return;
	}
	snprintf(out.name, sizeof(out.name), "%s", s->devices[arg->index]);
	fs_reply(s, in, 0, &out, sizeof(out));
}

static void reply_open(struct fuse_server *s, const struct fuse_in_header *in,
		       const struct fuse_open_in *arg)
{
	struct fs_file *f = file_of(s, in->nodeid);
	struct {
		struct fuse_open_out open;
		struct fuse_open_fmap_out fmap;
		char more[8];
	} out = { .open.open_flags = s->open_flags };
	size_t len = sizeof(out.open);

	if (in->opcode == FUSE_OPEN && (arg->open_flags & FUSE_DAX_FMAP_OPEN_MAP)) {
		out.fmap.size = !f || !f->map ? -ENODATA :
				f->map_len > sizeof(out.fmap.map) ? -ERANGE : (int)f->map_len;
		if (out.fmap.size > 0)
			memcpy(out.fmap.map, f->map, out.fmap.size);
		if (s->open_map_told)
			out.fmap.size = s->open_map_size;
		len += s->open_map_told ? s->open_map_len : sizeof(out.fmap);
	}
	fs_reply(s, in, 0, &out, len);
}

void fs_default(struct fuse_server *s, const struct fuse_in_header *in,
		const void *arg)
{
	struct fuse_entry_out entry;
	struct fuse_statfs_out statfs = { .st = { .bsize = 4096, .namelen = 31 } };
	const struct fuse_batch_forget_in *batch;
	const struct fuse_forget_in *forget;
	const struct fuse_forget_one *one;
	struct fs_file *f;

	switch (in->opcode) {
	case FUSE_INIT:
		reply_init(s, in, arg);
		break;
	case FUSE_LOOKUP:
		f = file_named(s, arg);
		if (!f) {
			fs_reply(s, in, -ENOENT, NULL, 0);
			break;
		}
		fill_entry(s, &entry, f);
		fs_reply(s, in, 0, &entry, sizeof(entry));
		break;
	case FUSE_GETATTR:
		reply_attr(s, in, file_of(s, in->nodeid));
		break;
	case FUSE_SETATTR:
		reply_setattr(s, in, arg);
		break;
	case FUSE_CREATE:
		reply_create(s, in, arg);
		break;
	case FUSE_OPEN:
	case FUSE_OPENDIR:
		reply_open(s, in, arg);
		break;
	case FUSE_READ:
		reply_read(s, in, arg);
		break;
	case FUSE_WRITE:
		reply_write(s, in, arg);
		break;
	case FUSE_STATFS:
		fs_reply(s, in, 0, &statfs, sizeof(statfs));
		break;
	case FUSE_READDIR:	/* an empty directory */
	case FUSE_FLUSH:
	case FUSE_RELEASE:
	case FUSE_RELEASEDIR:
	case FUSE_FSYNC:
	case FUSE_ACCESS:
	case FUSE_DESTROY:
		fs_reply(s, in, 0, NULL, 0);
		break;
	case FUSE_FORGET:
		forget = arg;
		s->known -= forget->nlookup;
		break;
	case FUSE_BATCH_FORGET:
		batch = arg;
		one = (const struct fuse_forget_one *)(batch + 1);
		for (uint32_t i = 0; i < batch->count; i++)
			s->known -= one[i].nlookup;
		break;
	case FUSE_INTERRUPT:
		break;		/* have no answer */
	case FUSE_GET_FMAP:
		reply_get_fmap(s, in, arg);
		break;
	case FUSE_GET_DAXDEV:
		reply_get_daxdev(s, in, arg);
		break;
	default:
		fs_reply(s, in, -ENOSYS, NULL, 0);
	}
}

static void answer(struct fuse_server *s, const struct fuse_in_header *in,
		   const void *arg)
{
	unsigned int op = in->opcode % FS_OPCODES;

	if (s->error[op])
		fs_reply(s, in, s->error[op], NULL, 0);
	else if (s->hook[op])
		s->hook[op](s, in, arg);
	else
		fs_default(s, in, arg);
}

/* The UAPI header fixes what requests of the module look like. */
static void inspect(struct fuse_server *s, const struct fuse_in_header *in,
		    const void *arg)
{
	size_t len = in->len - sizeof(*in);

	if (in->opcode == FUSE_INIT) {
		memcpy(&s->init, arg, len < sizeof(s->init) ? len : sizeof(s->init));
	} else if (in->opcode == FUSE_OPEN) {
		const struct fuse_open_in *open = arg;

		if (open->open_flags & FUSE_DAX_FMAP_OPEN_MAP) {
			s->maps_wanted++;
			if (!(s->fmap_flags & FUSE_DAX_FMAP_MAP_IN_OPEN))
				s->malformed++;
		}
	} else if (in->opcode == FUSE_GET_FMAP) {
		const struct fuse_get_fmap_in *fmap = arg;

		if (len != sizeof(*fmap) || fmap->reserved ||
		    fmap->size < FUSE_DAX_FMAP_BLOB_MIN ||
		    fmap->size > FUSE_DAX_FMAP_BLOB_MAX)
			s->malformed++;
		else if (s->nr_rooms < FS_ROOMS)
			s->room[s->nr_rooms++] = fmap->size;
	} else if (in->opcode == FUSE_GET_DAXDEV) {
		const struct fuse_get_daxdev_in *dev = arg;

		if (len != sizeof(*dev) || dev->reserved ||
		    dev->index != in->nodeid ||
		    dev->index >= FUSE_DAX_FMAP_DEVICES_MAX)
			s->malformed++;
	}
}

static bool hold(struct fuse_server *s, const struct fuse_in_header *in,
		 const void *arg)
{
	size_t len = in->len - sizeof(*in);
	bool held;

	pthread_mutex_lock(&s->lock);
	held = s->hold[in->opcode % FS_OPCODES] && s->nr_held < FS_HELD;
	if (held) {
		s->held[s->nr_held].in = *in;
		memcpy(s->held[s->nr_held].arg, arg, len < FS_ARG ? len : FS_ARG);
		s->nr_held++;
	}
	pthread_mutex_unlock(&s->lock);
	return held;
}

void fs_release(struct fuse_server *s, int opcode)
{
	pthread_mutex_lock(&s->lock);
	s->hold[opcode] = false;
	for (unsigned int i = 0; i < s->nr_held; i++)
		if ((int)s->held[i].in.opcode == opcode) {
			answer(s, &s->held[i].in, s->held[i].arg);
			s->held[i].in.opcode = 0;
		}
	pthread_mutex_unlock(&s->lock);
}

void fs_handle(struct fuse_server *s, const struct fuse_in_header *in, const void *arg)
{
	bool held;

	inspect(s, in, arg);
	held = hold(s, in, arg);
	s->count[in->opcode % FS_OPCODES]++;
	if (!held)
		answer(s, in, arg);
}

static void serve(struct fuse_server *s)
{
	static __thread char buf[BUFFER] __attribute__((aligned(8)));
	const struct fuse_in_header *in = (void *)buf;
	ssize_t n;

	for (;;) {
		n = read(s->fd, buf, sizeof(buf));
		if (n < 0 && (errno == EINTR || errno == EAGAIN || errno == ENOENT))
			continue;
		if (n < (ssize_t)sizeof(*in))
			return;		/* unmounted or aborted */
		fs_handle(s, in, in + 1);
	}
}

static void *serve_thread(void *s)
{
	serve(s);
	return NULL;
}

struct fuse_server *fs_new(void)
{
	static bool private_mounts;
	pthread_mutexattr_t attr;
	struct fuse_server *s;

	if (!private_mounts) {
		if (unshare(CLONE_NEWNS) ||
		    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
			return NULL;
		private_mounts = true;
	}
	s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (s == MAP_FAILED)
		return NULL;
	s->fd = -1;
	s->init_len = sizeof(struct fuse_init_out);
	s->init_minor = FUSE_KERNEL_MINOR_VERSION;
	s->init_flags = FUSE_MAX_PAGES | FUSE_BIG_WRITES;
	/*
	 * A test that dies ends the server, too, and would wait for the answer to the
	 * FLUSH of its own files.
	 */
	s->open_flags = FOPEN_NOFLUSH;
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
	pthread_mutex_init(&s->lock, &attr);
	strcpy(s->dir, "/tmp/fmap.XXXXXX");
	if (!mkdtemp(s->dir)) {
		munmap(s, sizeof(*s));
		return NULL;
	}
	return s;
}

struct fs_file *fs_add(struct fuse_server *s, const char *name, uint64_t size,
		       const void *map, uint32_t map_len)
{
	struct fs_file *f = &s->file[s->nr_files];

	if (s->nr_files == FS_FILES)
		return NULL;
	snprintf(f->name, sizeof(f->name), "%s", name);
	f->nodeid = FIRST_NODEID + s->nr_files;
	f->size = size;
	f->mode = S_IFREG | 0644;
	f->map = map;
	f->map_len = map_len;
	memset(f->plain, 'a' + s->nr_files, sizeof(f->plain));
	s->nr_files++;
	return f;
}

static struct fuse_attr attr_of_any(const struct fuse_server *s, uint64_t nodeid)
{
	return (struct fuse_attr){
		.ino = nodeid,
		.mode = S_IFREG | 0644,
		.nlink = 1,
		.size = s->any_size,
		.blksize = 4096,
	};
}

static void lookup_any(struct fuse_server *s, const struct fuse_in_header *in,
		       const void *arg)
{
	const char *name = arg;
	struct fuse_entry_out entry = {
		.nodeid = FS_ANY + atoi(name + 1),
		.entry_valid = FOREVER,
		.attr_valid = FOREVER,
	};

	entry.attr = attr_of_any(s, entry.nodeid);
	if (name[0] == 'f' && name[1] >= '0' && name[1] <= '9')
		fs_reply(s, in, 0, &entry, sizeof(entry));
	else
		fs_default(s, in, arg);
}

/* GETATTR, and SETATTR of times. */
static void reply_attr_of_any(struct fuse_server *s, const struct fuse_in_header *in,
			      const void *arg)
{
	struct fuse_attr_out out = {
		.attr_valid = FOREVER,
		.attr = attr_of_any(s, in->nodeid),
	};

	if (in->nodeid >= FS_ANY)
		fs_reply(s, in, 0, &out, sizeof(out));
	else
		fs_default(s, in, arg);
}

static void map_of_any(struct fuse_server *s, const struct fuse_in_header *in,
		       const void *arg)
{
	if (in->nodeid >= FS_ANY)
		fs_reply(s, in, 0, s->file[0].map, s->file[0].map_len);
	else
		fs_default(s, in, arg);
}

void fs_any(struct fuse_server *s, uint64_t size)
{
	s->any_size = size;
	s->hook[FUSE_LOOKUP] = lookup_any;
	s->hook[FUSE_GETATTR] = reply_attr_of_any;
	s->hook[FUSE_SETATTR] = reply_attr_of_any;
	s->hook[FUSE_GET_FMAP] = map_of_any;
}

static int start(struct fuse_server *s)
{
	pid_t pid;

	if (!s->forked) {
		s->running = !pthread_create(&s->thread, NULL, serve_thread, s);
		return s->running ? 0 : -EAGAIN;
	}
	pid = fork();
	if (pid < 0)
		return -errno;
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		/* Until the mount exists, there is nothing to read. */
		while (!s->mounted && !s->sync_init)
			usleep(1000);
		serve(s);
		_exit(0);
	}
	s->pid = pid;
	return 0;
}

int fs_mount(struct fuse_server *s)
{
	char opts[160];
	int err = 0;

	s->fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (s->fd < 0)
		return -errno;
	if (s->sync_init && ioctl(s->fd, FUSE_DEV_IOC_SYNC_INIT))
		err = -errno;
	s->mounter = gettid();
	/* Synchronous: mount(2) waits for the answer. */
	if (!err && (s->sync_init || s->forked))
		err = start(s);
	snprintf(opts, sizeof(opts),
		 "fd=%d,rootmode=40000,user_id=%u,group_id=0,allow_other,default_permissions%s",
		 s->fd, s->owner, s->more_opts ?: "");
	if (!err && mount(s->source ?: "fmap-test", s->dir, s->type ?: "fuse", 0, opts))
		err = -errno;
	s->mounted = !err;
	if (!err && !s->sync_init && !s->forked)
		err = start(s);
	if (err) {
		/* A server that waits for a mount in read(2) has to be killed. */
		if (s->forked)
			fs_kill(s);
		else if (s->running && s->sync_init && !s->count[FUSE_INIT])
			pthread_cancel(s->thread);
		close(s->fd);
		s->fd = -1;
		return err;
	}
	if (s->forked)
		close(s->fd);		/* the child's is the last one */
	return 0;
}

int fs_serve(struct fuse_server *s, int fd)
{
	s->fd = fd;
	s->mounted = true;
	return start(s);
}

void fs_kill(struct fuse_server *s)
{
	if (!s->forked || s->pid <= 0)
		return;
	kill(s->pid, SIGKILL);
	waitpid(s->pid, NULL, 0);
	s->pid = 0;
}

/*
 * umount -f aborts the connection and then unmounts the mount if it is unused. Tasks that
 * wait for the server keep the mount busy, but may be gone by then, so @busy holds it.
 */
int fs_abort(struct fuse_server *s)
{
	int busy = open(s->dir, O_PATH | O_CLOEXEC);
	int err;

	if (busy < 0)
		return -errno;
	err = umount2(s->dir, MNT_FORCE) ? errno : 0;
	s->mounted = err;
	close(busy);
	return err == EBUSY ? 0 : -EINVAL;
}

static void join(struct fuse_server *s)
{
	if (s->running)
		pthread_join(s->thread, NULL);
	s->running = false;
	if (s->pid > 0) {
		waitpid(s->pid, NULL, 0);
		s->pid = 0;
	}
	if (!s->forked && s->fd >= 0)	/* else it is the other process's */
		close(s->fd);
	s->fd = -1;
}

int fs_umount(struct fuse_server *s)
{
	int err = 0;

	if (!s->mounted)
		return 0;
	if (umount2(s->dir, 0)) {
		err = -errno;
		umount2(s->dir, MNT_FORCE);
		umount2(s->dir, MNT_DETACH);
	}
	s->mounted = false;
	join(s);
	return err;
}

int fs_stop(struct fuse_server *s)
{
	int err;

	if (!s)
		return 0;
	err = fs_umount(s);
	join(s);
	rmdir(s->dir);
	munmap(s, sizeof(*s));
	return err;
}

const char *fs_path(struct fuse_server *s, const char *name)
{
	static __thread char path[128];

	snprintf(path, sizeof(path), "%s/%s", s->dir, name);
	return path;
}

int fs_open(struct fuse_server *s, const char *name, int flags)
{
	int fd = open(fs_path(s, name), flags | O_CLOEXEC, 0644);

	return fd < 0 ? -errno : fd;
}

int fs_try(struct fuse_server *s, const char *name)
{
	int fd = fs_open(s, name, O_RDWR);

	if (fd < 0)
		return fd;
	close(fd);
	return 0;
}

bool fs_wait(struct fuse_server *s, int opcode, unsigned int n)
{
	for (int ms = 0; ms < FS_PATIENCE; ms++) {
		if (s->count[opcode] >= n)
			return true;
		usleep(1000);
	}
	return false;
}
