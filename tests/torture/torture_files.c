// SPDX-License-Identifier: GPL-2.0
/*
 * What the tasks of torture that use files have in common: opening and mapping files, and
 * checking their bytes and page tables.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "torture.h"

unsigned char *buffer;
struct actor *me;
pid_t my_pid;

/* ---- faults ---- */

static sigjmp_buf env;
static volatile sig_atomic_t armed;

static void on_signal(int sig, siginfo_t *info, void *context)
{
	if (armed)
		siglongjmp(env, sig);
	/* This task has mapped memory that has failed, but has not touched it. */
	if (sig == SIGBUS && info->si_code == BUS_MCEERR_AO)
		return;
	signal(sig, SIG_DFL);
}

void guard_signals(void)
{
	struct sigaction sa = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_NODEFER };

	sigaction(SIGBUS, &sa, NULL);
	sigaction(SIGSEGV, &sa, NULL);
	signal(SIGPIPE, SIG_IGN);
	buffer = aligned_alloc(PAGE, BUFFER);
}

/* 0, or the signal that the load got. */
static int load(const volatile unsigned char *p, struct stamp *to)
{
	int sig = sigsetjmp(env, 1);

	if (!sig) {
		armed = true;
		memcpy(to, (const void *)p, sizeof(*to));
	}
	armed = false;
	return sig;
}

static int store(volatile unsigned char *p, const struct stamp *from)
{
	int sig = sigsetjmp(env, 1);

	if (!sig) {
		armed = true;
		memcpy((void *)p, from, sizeof(*from));
	}
	armed = false;
	return sig;
}

/* ---- files ---- */

void which_inode(struct file *f)
{
	struct {
		struct file_handle h;
		unsigned char bytes[32];
	} fh = { .h.handle_bytes = 32 };
	struct statx stx;
	int mount;

	memset(f->inode, 0, sizeof(f->inode));
	if (statx(f->fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &stx))
		return;
	f->inode[0] = makedev(stx.stx_dev_major, stx.stx_dev_minor);
	if (!name_to_handle_at(f->fd, "", &fh.h, &mount, AT_EMPTY_PATH))
		memcpy(&f->inode[1], fh.h.f_handle, 2 * sizeof(uint64_t));
}

/* The path of a file: @letters, one of which it begins with. */
void some_path(struct rng *r, struct file *f, const char *letters)
{
	char letter = letters[below(r, strlen(letters))];
	unsigned int n = below(r, letter == 'a' || letter == 't' ? 2 * AREAS : 4);
	unsigned int place = below(r, SLOTS), first = 0;

	switch (letter) {
	case 'a':
		first = E_A;
		break;
	case 't':
		first = E_T;
		break;
	case 'p':
		first = E_P;
		break;
	case 'x':
		first = E_X;
		break;
	}
	/* Mostly one that exists. */
	if (first < E_P && n % AREAS == SECRET)
		n--;
	if (first < E_P && !(w->place[place].devices >> n / AREAS & 1))
		place = !place;
	f->id = id_of_entry(first + n);
	f->size = size_of_id(f->id);
	snprintf(f->path, sizeof(f->path), "%s/%c%u%s", w->place[place].dir, letter, n,
		 chance(r, 10) ? "r" : "");
}

bool open_path(struct file *f, int flags)
{
	f->fd = open(f->path, flags | O_CLOEXEC, 0666);
	w->opens++;
	if (f->fd < 0) {
		w->refused_opens[errno < ERRNOS ? errno : 0]++;
		usleep(1000);
		return false;
	}
	return true;
}

bool open_some(struct rng *r, struct file *f, const char *letters, int flags)
{
	some_path(r, f, letters);
	return open_path(f, flags);
}

void check(const char *what, const struct file *f, const void *buf, ssize_t n, uint64_t at)
{
	ssize_t bad;
	struct stamp was;

	if (n <= 0)
		return;
	w->bytes_checked += n;
	bad = stamps_differ(buf, n, f->id, at);
	if (bad < 0)
		return;
	memset(&was, 0, sizeof(was));
	memcpy(&was, (const char *)buf + bad, n - bad < sizeof(was) ? n - bad : sizeof(was));
	broken("%s of %s at %#lx: %zd bytes, byte %zd is not id %u's (%08x %08x %08x %08x)", what,
	       f->path, (unsigned long)at, n, bad, f->id, was.id, was.page, was.nr, was.sum);
}

/* An inode stays bad once FUSE has marked it bad, and reads of it have to fail. */
void check_bad(struct file *f)
{
	struct stat st;
	char c;

	if (fstat(f->fd, &st) != -1 || errno != EIO)
		return;
	if (pread(f->fd, &c, 1, 0) == 1)
		broken("%s is a bad inode, and is read", f->path);
}

/* ---- page tables ---- */

static bool entry_of(pid_t pid, uint64_t addr, uint64_t *frame)
{
	char path[32];
	uint64_t e = 0;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	if (pread(fd, &e, 8, addr / PAGE * 8) != 8)
		e = 0;
	close(fd);
	*frame = e & ((1ULL << 55) - 1);
	return e >> 63 && *frame;
}

static bool of_a_device(uint64_t frame)
{
	for (int i = 0; i < 2; i++)
		if (daxdev[i].phys && frame * PAGE - daxdev[i].phys < daxdev[i].size)
			return true;
	return false;
}

static struct hold *my_hold(void)
{
	return &w->hold[me - w->actor];
}

void let_go(void)
{
	struct hold *h = my_hold();

	if (h->seq % 2)
		h->seq++;
}

/* Record the page that this task has mapped; report it if another file has it mapped. */
static void claim(const struct map *m, uint64_t addr, uint64_t frame)
{
	struct hold *h = my_hold();
	uint64_t other, now;

	for (int i = 0; i < MAX_ACTORS; i++) {
		struct hold *o = &w->hold[i];
		uint32_t seq = o->seq;
		uint64_t inode[3];
		pid_t pid = o->pid;

		if (seq % 2 == 0 || o->frame != frame || pid == my_pid)
			continue;
		memcpy(inode, o->inode, sizeof(inode));
		if (!memcmp(inode, m->f.inode, sizeof(inode)) || !inode[1] || !m->f.inode[1])
			continue;
		if (!entry_of(pid, o->addr, &other) || other != frame || o->seq != seq)
			continue;
		/* This task still has it, so both have had it at the same time. */
		if (!entry_of(my_pid, addr, &now) || now != frame)
			continue;
		broken("frame %#lx is mapped through %s (%lx:%lx:%lx) and by task %d (%lx:%lx:%lx)",
		       frame, m->f.path, m->f.inode[0], m->f.inode[1], m->f.inode[2], pid, inode[0],
		       inode[1], inode[2]);
	}
	if (my_pid != me->pid)
		return;		/* a forked child has no record */
	let_go();
	h->pid = my_pid;
	h->addr = addr;
	h->frame = frame;
	memcpy(h->inode, m->f.inode, sizeof(h->inode));
	h->seq++;
}

/* Touch a page of a mapping: false if that was a signal. */
bool look(struct rng *r, const struct map *m, uint64_t page)
{
	uint64_t within = page * PAGE + below(r, STAMPS) * sizeof(struct stamp), frame;
	unsigned char *p = m->p + within;
	struct stamp stamp;
	int sig;

	if (m->off + within + sizeof(stamp) > m->f.size || within >= m->len)
		return false;
	if (m->writable && chance(r, 50)) {
		stamps_fill(&stamp, sizeof(stamp), m->f.id, m->off + within);
		sig = store(p, &stamp);
	} else {
		sig = load(p, &stamp);
		if (!sig)
			check("mapping", &m->f, &stamp, sizeof(stamp), m->off + within);
	}
	if (sig) {
		w->sigbus++;
		return false;
	}
	if (!m->shared || !entry_of(my_pid, (uintptr_t)p, &frame) || !of_a_device(frame))
		return true;
	w->frames_checked++;
	if (m->f.id >= 2 * AREAS) {
		broken("%s, a plain file, has frame %#lx of a device", m->f.path, frame);
	} else {
		const struct area *a = &w->area[m->f.id];

		if (frame * PAGE != daxdev[a->dev].phys + a->addr + m->off + page * PAGE)
			broken("%s: page %lu is mapped to frame %#lx", m->f.path,
			       (m->off + within) / PAGE, frame);
		claim(m, (uintptr_t)p, frame);
	}
	return true;
}

void look_around(struct rng *r, const struct map *m, int times)
{
	for (int i = 0; i < times; i++)
		look(r, m, below(r, (m->len + PAGE - 1) / PAGE));
}

/* ---- mappings ---- */

bool map_file(struct rng *r, struct map *m)
{
	uint64_t pages = (m->f.size + PAGE - 1) / PAGE, first = 0, nr = pages;
	int flags = chance(r, 15) ? MAP_POPULATE : 0;

	if (chance(r, 40)) {
		first = below(r, pages);
		nr = 1 + below(r, pages - first);
	}
	m->off = first * PAGE;
	m->len = nr * PAGE;
	m->shared = chance(r, 80);
	m->writable = (fcntl(m->f.fd, F_GETFL) & O_ACCMODE) == O_RDWR;
	m->p = mmap(NULL, m->len, PROT_READ | (m->writable ? PROT_WRITE : 0),
		    (m->shared ? MAP_SHARED : MAP_PRIVATE) | flags, m->f.fd, m->off);
	return m->p != MAP_FAILED;
}

bool map_some(struct rng *r, struct map *m, const char *letters)
{
	if (!open_some(r, &m->f, letters, chance(r, 70) ? O_RDWR : O_RDONLY))
		return false;
	which_inode(&m->f);
	if (!map_file(r, m)) {
		close(m->f.fd);
		return false;
	}
	return true;
}

void unmap(struct map *m)
{
	if (!m->p)
		return;
	let_go();
	munmap(m->p, m->len);
	if (m->f.fd >= 0)
		close(m->f.fd);
	m->p = NULL;
}

void maybe_close(struct rng *r, struct map *m, unsigned int percent)
{
	if (!chance(r, percent))
		return;
	close(m->f.fd);
	m->f.fd = -1;
}
