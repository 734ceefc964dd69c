// SPDX-License-Identifier: GPL-2.0
/*
 * The tasks of torture that use files, as programs do, some of them as an ordinary user.
 * Any of their calls may fail with any error; but each byte that they get has to be the
 * right one, and each page in their page tables that of the right file.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/aio_abi.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "torture.h"

static void do_read(struct rng *r)
{
	static const int flags[] = {
		O_RDONLY, O_RDONLY, O_RDONLY, O_RDWR, O_RDWR, O_RDONLY | O_DIRECT,
		O_RDWR | O_NONBLOCK,
	};
	struct file f;

	if (!open_some(r, &f, "aaaaattpx", PICK(r, flags)))
		return;
	for (int i = 1 + below(r, 4); i; i--) {
		uint64_t at = below(r, f.size), len = chance(r, 60) ? below(r, 300) : BUFFER;
		struct iovec iov = { buffer, len };

		if (fcntl(f.fd, F_GETFL) & O_DIRECT)
			at &= ~511UL, iov.iov_len = (len + 511) & ~511UL;
		check("read", &f, buffer,
		      preadv2(f.fd, &iov, 1, at, chance(r, 20) ? RWF_NOWAIT : 0), at);
	}
	check_bad(&f);
	nap(r, chance(r, 10) ? 200 : 2);
	check_bad(&f);
	close(f.fd);
}

static void do_write(struct rng *r)
{
	static const int flags[] = {
		O_RDWR, O_RDWR, O_WRONLY, O_WRONLY | O_SYNC, O_RDWR | O_DSYNC, O_RDWR | O_DIRECT,
	};
	struct file f;

	if (!open_some(r, &f, "aaaaatpx", PICK(r, flags)))
		return;
	for (int i = 1 + below(r, 4); i; i--) {
		uint64_t at = below(r, f.size), len = chance(r, 60) ? below(r, 300) : BUFFER;
		struct iovec iov = { buffer, len };

		if (fcntl(f.fd, F_GETFL) & O_DIRECT)
			at &= ~4095UL, len = (len + 4095) & ~4095UL;
		/* A write of whole pages repairs memory that has failed. */
		if (chance(r, 20))
			at &= ~4095UL, len = PAGE;
		if (len > f.size - at)
			len = f.size - at;
		iov.iov_len = len;
		stamps_fill(buffer, len, f.id, at);
		pwritev2(f.fd, &iov, 1, at, chance(r, 20) ? RWF_NOWAIT : 0);
	}
	if (chance(r, 30))
		fsync(f.fd);
	close(f.fd);
}

static void do_map(struct rng *r)
{
	struct map m;

	if (!map_some(r, &m, "aaaaattpx"))
		return;
	maybe_close(r, &m, 30);
	look_around(r, &m, 1 + below(r, 6));
	nap(r, chance(r, 10) ? 300 : 3);
	look_around(r, &m, 1 + below(r, 3));
	if (chance(r, 10))
		msync(m.p, m.len, MS_SYNC);
	unmap(&m);
}

/* Use the memory that another task has mapped, through another file. */
static void do_thief(struct rng *r)
{
	struct hold *h = &w->hold[below(r, MAX_ACTORS)];
	uint64_t frame = h->frame, at = 0;
	struct map m = { .shared = true };
	unsigned int id;

	for (int i = 0; i < MAX_ACTORS && h->seq % 2 == 0; i++) {
		h = &w->hold[i];
		frame = h->frame;
	}
	if (h->seq % 2 == 0) {
		nap(r, 5);
		return;
	}
	for (id = 0; id < 2 * AREAS; id++) {
		const struct area *a = &w->area[id];

		at = frame * PAGE - daxdev[a->dev].phys - a->addr;
		if (at < a->size)
			break;
	}
	if (id == 2 * AREAS)
		return;
	m.f.id = id;
	m.f.size = size_of_id(id);
	snprintf(m.f.path, sizeof(m.f.path), "%s/%c%u", w->place[below(r, SLOTS)].dir,
		 "at"[below(r, 2)], id);
	if (!open_path(&m.f, O_RDWR))
		return;
	which_inode(&m.f);
	m.off = at & ~(chance(r, 50) ? PAGE - 1 : HUGE - 1);
	m.len = chance(r, 50) ? HUGE : PAGE;
	m.writable = true;
	m.p = mmap(NULL, m.len, PROT_READ | PROT_WRITE, MAP_SHARED, m.f.fd, m.off);
	if (m.p == MAP_FAILED) {
		close(m.f.fd);
		return;
	}
	if (at - m.off < m.len && look(r, &m, (at - m.off) / PAGE))
		w->thefts++;
	look_around(r, &m, 2);
	nap(r, 5);
	unmap(&m);
}

/* MADV_DONTNEED of a private mapping drops its stores: the bytes of the file come back. */
static void do_advice(struct rng *r, struct map *m)
{
	static const int advice[] = {
		MADV_DONTNEED, MADV_POPULATE_READ, MADV_POPULATE_WRITE, MADV_COLD, MADV_PAGEOUT,
		MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_WILLNEED, MADV_REMOVE, MADV_COLLAPSE,
		MADV_RANDOM, MADV_SEQUENTIAL, MADV_NORMAL, MADV_DONTFORK, MADV_DOFORK,
	};
	size_t at = below(r, m->len / PAGE) * PAGE;

	madvise(m->p + at, (1 + below(r, (m->len - at) / PAGE)) * PAGE, PICK(r, advice));
}

/* Move a mapping to an address that is aligned to 2 MiB as its offset is, or not. */
static void move(struct map *m, size_t within)
{
	size_t room = m->len + 2 * HUGE, at;
	unsigned char *p = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	void *to;

	if (p == MAP_FAILED)
		return;
	at = (-(uintptr_t)p & (HUGE - 1)) + m->off % HUGE % HUGE + within;
	if (at + m->len > room)
		at = 0;
	to = mremap(m->p, m->len, m->len, MREMAP_MAYMOVE | MREMAP_FIXED, p + at);
	if (to == MAP_FAILED) {
		munmap(p, room);
		return;
	}
	if (at)
		munmap(p, at);
	munmap(p + at + m->len, room - at - m->len);
	m->p = to;
}

/* Move and resize a mapping, and take pieces of it away; @m is what is left. */
static void do_memory(struct rng *r)
{
	struct map m;
	unsigned char vec[4096];
	void *p;

	if (!map_some(r, &m, "aaaaatpx"))
		return;
	maybe_close(r, &m, 30);
	for (int i = 2 + below(r, 8); i; i--) {
		size_t len = (1 + below(r, m.len / PAGE)) * PAGE;
		struct iovec to = { buffer, 64 }, from = { m.p, 64 };

		let_go();
		switch (below(r, 9)) {
		case 0:
			p = mremap(m.p, m.len, len, MREMAP_MAYMOVE);
			if (p != MAP_FAILED) {
				m.p = p;
				m.len = len;
			}
			break;
		case 1:
			move(&m, chance(r, 50) ? 0 : PAGE);
			break;
		case 2:
			if (len < m.len && chance(r, 50)) {
				munmap(m.p, len);
				m.p += len;
				m.off += len;
				m.len -= len;
			}
			break;
		case 3:
			mprotect(m.p, len, PROT_READ);
			look_around(r, &m, 1);
			mprotect(m.p, m.len, PROT_READ | (m.writable ? PROT_WRITE : 0));
			break;
		case 4:
			mlock(m.p, len);
			look_around(r, &m, 1);
			munlock(m.p, m.len);
			break;
		case 5:
			msync(m.p, len, chance(r, 50) ? MS_SYNC : MS_ASYNC | MS_INVALIDATE);
			break;
		case 6:
			if (process_vm_readv(my_pid, &to, 1, &from, 1, 0) == 64 &&
			    m.off + 64 <= m.f.size)
				check("process_vm_readv", &m.f, buffer, 64, m.off);
			mincore(m.p, m.len < 4096 * PAGE ? m.len : 4096 * PAGE, vec);
			break;
		default:
			do_advice(r, &m);
		}
		look_around(r, &m, 2);
	}
	unmap(&m);
}

static void do_fork(struct rng *r)
{
	struct map m;
	pid_t child;

	if (!map_some(r, &m, "aaaatp"))
		return;
	look_around(r, &m, 2);
	child = fork();
	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		prctl(PR_SET_NAME, "tt-child");
		my_pid = getpid();
		rnd(r);
		look_around(r, &m, 3);
		if (chance(r, 30))
			kill(my_pid, SIGKILL);
		_exit(0);
	}
	look_around(r, &m, 2);
	if (chance(r, 30))
		unmap(&m);
	if (child > 0)
		waitpid(child, NULL, 0);
	unmap(&m);
}

/* ---- names and attributes ---- */

static void list(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	struct stat st;

	while (d && (e = readdir(d)))
		fstatat(dirfd(d), e->d_name, &st, 0);
	if (d)
		closedir(d);
}

static void look_into(struct rng *r, int fd)
{
	struct fmap_cachestat cs;
	struct fiemap fm = { .fm_length = ~0ULL };

	switch (below(r, 6)) {
	case 0:
		fmap_cachestat(fd, &cs);
		break;
	case 1:
		ioctl(fd, FS_IOC_FIEMAP, &fm);
		break;
	case 2:
		lseek(fd, 0, chance(r, 50) ? SEEK_HOLE : SEEK_DATA);
		break;
	case 3:
		posix_fadvise(fd, 0, 0, below(r, 6));
		break;
	case 4:
		if (!fcntl(fd, F_SETLEASE, F_RDLCK))
			fcntl(fd, F_SETLEASE, F_UNLCK);
		break;
	default:
		fchmod(fd, 0666);
	}
}

static void do_meta(struct rng *r)
{
	struct timespec now[2] = { { .tv_nsec = UTIME_NOW }, { .tv_nsec = UTIME_NOW } };
	struct statfs fs;
	struct statx stx;
	struct file f;
	char c[16];

	some_path(r, &f, "aaaatpx");
	switch (below(r, 12)) {
	case 0 ... 2:
		statx(AT_FDCWD, f.path, chance(r, 70) ? AT_STATX_FORCE_SYNC : 0,
		      STATX_BASIC_STATS, &stx);
		break;
	case 3 ... 4:
		chmod(f.path, chance(r, 50) ? 0666 : 0646);
		break;
	case 5:
		utimensat(AT_FDCWD, f.path, now, 0);
		break;
	case 6:
		list(w->place[below(r, SLOTS)].dir);
		break;
	case 7:
		access(f.path, R_OK);
		break;
	case 8:
		statfs(w->place[below(r, SLOTS)].dir, &fs);
		break;
	case 9:
		getxattr(f.path, "user.x", c, sizeof(c));
		break;
	default:
		if (!open_path(&f, chance(r, 30) ? O_PATH : chance(r, 50) ? O_RDONLY : 3))
			break;
		look_into(r, f.fd);
		check_bad(&f);
		close(f.fd);
	}
}

/* Files that lose their name and get it, or another one, again. */
static void do_names(struct rng *r)
{
	struct file f, other;
	size_t len;

	some_path(r, &f, "aaatp");
	other = f;
	len = strlen(f.path);
	if (f.path[len - 1] == 'r')
		other.path[len - 1] = 0;
	else
		strcpy(other.path + len, "r");
	switch (below(r, 4)) {
	case 0:
		unlink(f.path);
		break;
	case 1:
		rename(f.path, other.path);
		break;
	default:
		if (!open_path(&f, O_RDWR | O_CREAT | (chance(r, 10) ? O_EXCL : 0)))
			return;
		check("read (created)", &f, buffer, pread(f.fd, buffer, 200, 0), 0);
		stamps_fill(buffer, 200, f.id, 64);
		pwrite(f.fd, buffer, 200, 64);
		nap(r, 20);
		check("read (created)", &f, buffer, pread(f.fd, buffer, 200, 0), 0);
		close(f.fd);
		return;
	}
	/* Whichever name it has now. */
	if (open_path(chance(r, 50) ? &f : &other, O_RDONLY)) {
		int fd = f.fd;

		close(fd);
	}
}

/* ---- pages in use by others ---- */

/*
 * How long until the pipe is read, in ms; in a long round perhaps beyond its end. Until
 * then the mount exists, and no other one can have its device.
 */
static unsigned int how_long(struct rng *r)
{
	if (long_round(w->seed) && chance(r, 3))
		return 60000;
	return chance(r, 5) ? 1500 : 20;
}

static void do_pipe(struct rng *r)
{
	struct iovec iov;
	struct map m;
	ssize_t n;
	uint64_t at;
	int p[2];

	if (!map_some(r, &m, "aaaaatp"))
		return;
	if (pipe2(p, O_CLOEXEC | O_NONBLOCK)) {
		unmap(&m);
		return;
	}
	at = below(r, m.len / PAGE) * PAGE;
	look(r, &m, at / PAGE);
	iov.iov_base = m.p + at;
	iov.iov_len = PAGE << below(r, 3);
	if (iov.iov_len > m.len - at)
		iov.iov_len = PAGE;
	if (chance(r, 70)) {
		n = vmsplice(p[1], &iov, 1, SPLICE_F_NONBLOCK);
		at += m.off;
	} else {
		loff_t pos = at += m.off;

		n = splice(m.f.fd, &pos, p[1], NULL, iov.iov_len, SPLICE_F_NONBLOCK);
	}
	if (chance(r, 30))
		unlink(m.f.path);
	if (chance(r, 50))
		unmap(&m);
	nap(r, how_long(r));
	if (n > 0) {
		n = read(p[0], buffer, BUFFER);
		if (n > 0 && at + n > size_of_id(m.f.id))
			n = size_of_id(m.f.id) - at;
		check("pipe", &m.f, buffer, n, at);
	}
	close(p[0]);
	close(p[1]);
	unmap(&m);
}

/* A mapping of an area, and the file of the plain server with the same bytes. */
static bool map_and_other(struct rng *r, struct map *m, int *other)
{
	char path[64];

	if (!map_some(r, m, "aaat"))
		return false;
	snprintf(path, sizeof(path), "%s/m%u", w->place[OTHER].dir, m->f.id);
	*other = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (*other < 0) {
		unmap(m);
		usleep(1000);
		return false;
	}
	return true;
}

/* Some pages of a mapping, that are in the file as a whole. */
static size_t some_pages(struct rng *r, const struct map *m, size_t *at)
{
	size_t pages = m->f.size > m->off ? (m->f.size - m->off) / PAGE : 0, n;

	if (pages > m->len / PAGE)
		pages = m->len / PAGE;
	if (!pages)
		return 0;
	*at = below(r, pages) * PAGE;
	n = 1 + below(r, 16);
	return (n < pages - *at / PAGE ? n : pages - *at / PAGE) * PAGE;
}

static void do_direct(struct rng *r)
{
	struct map m;
	size_t at, len;
	int other;

	if (!map_and_other(r, &m, &other))
		return;
	len = some_pages(r, &m, &at);
	if (len && (chance(r, 50) || !m.writable))
		pwrite(other, m.p + at, len, m.off + at);
	else if (len)
		pread(other, m.p + at, len, m.off + at);
	look_around(r, &m, 2);
	close(other);
	unmap(&m);
}

static void do_aio(struct rng *r)
{
	struct timespec limit = { .tv_sec = 4 };
	struct io_event event[4];
	struct iocb cb[4], *list[4];
	aio_context_t ctx = 0;
	struct map m;
	int other, n = 0;

	if (!map_and_other(r, &m, &other))
		return;
	if (!syscall(SYS_io_setup, 4, &ctx)) {
		for (int i = 1 + below(r, 4); i; i--) {
			size_t at, len = some_pages(r, &m, &at);

			if (!len)
				break;
			cb[n] = (struct iocb){
				.aio_lio_opcode = m.writable && chance(r, 50) ? IOCB_CMD_PREAD :
						  IOCB_CMD_PWRITE,
				.aio_fildes = other,
				.aio_buf = (uintptr_t)m.p + at,
				.aio_nbytes = len,
				.aio_offset = m.off + at,
			};
			list[n] = &cb[n];
			n++;
		}
		n = n ? syscall(SYS_io_submit, ctx, n, list) : 0;
		if (chance(r, 50))
			unlink(m.f.path);
		if (chance(r, 50))
			unmap(&m);
		if (chance(r, 10))
			_exit(0);
		if (n > 0)
			syscall(SYS_io_getevents, ctx, n, n, event, &limit);
		syscall(SYS_io_destroy, ctx);
	}
	close(other);
	if (m.p)
		look_around(r, &m, 2);
	unmap(&m);
}

static void do_sync(struct rng *r)
{
	struct file f;

	if (chance(r, 5)) {
		sync();
		return;
	}
	if (!open_some(r, &f, "aaaatpx", O_RDWR))
		return;
	switch (below(r, 4)) {
	case 0:
		syncfs(f.fd);
		break;
	case 1:
		sync_file_range(f.fd, 0, 0, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
				SYNC_FILE_RANGE_WAIT_AFTER);
		break;
	case 2:
		fdatasync(f.fd);
		break;
	default:
		fsync(f.fd);
	}
	close(f.fd);
}

void act_on_files(struct actor *a, struct rng *r)
{
	static void (*const act[K_FIRST_KERNEL])(struct rng *r) = {
		[K_READ] = do_read, [K_WRITE] = do_write, [K_MAP] = do_map,
		[K_MEMORY] = do_memory, [K_FORK] = do_fork, [K_THIEF] = do_thief,
		[K_META] = do_meta, [K_NAMES] = do_names, [K_PIPE] = do_pipe,
		[K_DIRECT] = do_direct, [K_AIO] = do_aio, [K_SYNC] = do_sync,
	};

	me = a;
	my_pid = getpid();
	act[a->kind](r);
}
