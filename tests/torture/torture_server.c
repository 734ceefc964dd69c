// SPDX-License-Identifier: GPL-2.0
/*
 * The servers of torture, except for their answers. All about them is random: how long an
 * answer takes, which notifications they send, which generation of a nodeid a name has,
 * what OPEN and INIT return.
 *
 * What they do would not deadlock a mount of plain FUSE: each answer takes less than 4 s,
 * and at most two of their threads are in a notification at any time, besides one that
 * does nothing else.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "fuse_wire.h"
#include "torture_server.h"

#define THREADS		6
#define REQUEST		(MAX_WRITE + 8 * KIB)
#define IN_NOTICES	2

/* Newer than the header that this is built with. */
#define NOTIFY_INC_EPOCH	8
#define NOTIFY_PRUNE		9

struct notify_prune_out {
	uint32_t	count;
	uint32_t	padding;
	uint64_t	spare;
	uint64_t	nodeid[4];
};

struct served s;
__thread struct rng rng_of_thread;

static void sleep_ms(unsigned int ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000L };

	nanosleep(&t, NULL);
}

/* ---- what it tells by itself ---- */

static int notify(int code, const void *head, size_t head_len, const void *data, size_t len)
{
	int err = fuse_wire_notify(s.fd, code, head, head_len, data, len);

	w->notices++;
	if (err)
		w->refused_notices++;
	return err;
}

/* Some nodeid, mostly one that is in use. */
static uint64_t some_nodeid(void)
{
	uint64_t nodeid = s.entry[below(DICE, ENTRIES)].nodeid;

	return chance(DICE, 95) ? nodeid : nodeid - 0x100;
}

static void tell_of_an_inode(void)
{
	struct fuse_notify_inval_inode_out head = {
		.ino = some_nodeid(),
		.len = chance(DICE, 50) ? 0 : below(DICE, 64) * PAGE,
	};

	if (chance(DICE, 30))
		head.off = -1;
	else if (chance(DICE, 50))
		head.off = below(DICE, 64) * PAGE;

	notify(FUSE_NOTIFY_INVAL_INODE, &head, sizeof(head), NULL, 0);
}

static void tell_of_a_name(void)
{
	struct fuse_notify_inval_entry_out inval = { .parent = FUSE_ROOT_ID };
	struct fuse_notify_delete_out gone = { .parent = FUSE_ROOT_ID };
	unsigned int e = below(DICE, ENTRIES);
	char name[16];

	name_of(e, s.entry[e].renamed, name, sizeof(name));
	if (chance(DICE, 70)) {
		inval.namelen = strlen(name);
		inval.flags = chance(DICE, 30) ? FUSE_EXPIRE_ONLY : 0;
		notify(FUSE_NOTIFY_INVAL_ENTRY, &inval, sizeof(inval), name, strlen(name) + 1);
	} else {
		gone.child = s.entry[e].nodeid;
		gone.namelen = strlen(name);
		notify(FUSE_NOTIFY_DELETE, &gone, sizeof(gone), name, strlen(name) + 1);
	}
}

static void give_or_take_pages(void)
{
	static __thread char buf[MAX_WRITE];
	uint64_t nodeid = some_nodeid();
	int e = entry_of(nodeid);
	uint64_t size, at, len;

	if (e < 0)
		return;
	size = size_of_id(id_of_entry(e));
	at = below(DICE, size / PAGE) * PAGE;
	len = (1 + below(DICE, 16)) * PAGE;
	if (len > size - at)
		len = size - at;
	if (chance(DICE, 60)) {
		struct fuse_notify_store_out store = { nodeid, at, len };

		stamps_fill(buf, len, id_of_entry(e), at);
		notify(FUSE_NOTIFY_STORE, &store, sizeof(store), buf, len);
	} else {
		struct fuse_notify_retrieve_out take = { ++s.unique, nodeid, at, len };

		notify(FUSE_NOTIFY_RETRIEVE, &take, sizeof(take), NULL, 0);
	}
}

static void tell_something(void)
{
	struct notify_prune_out prune = { .count = 4 };
	struct fuse_notify_poll_wakeup_out poll = { below(DICE, 100) };

	switch (below(DICE, 16)) {
	case 0 ... 5:
		tell_of_an_inode();
		break;
	case 6 ... 8:
		tell_of_a_name();
		break;
	case 9 ... 12:
		give_or_take_pages();
		break;
	case 13:
		notify(FUSE_NOTIFY_POLL, &poll, sizeof(poll), NULL, 0);
		break;
	case 14:
		for (int i = 0; i < 4; i++)
			prune.nodeid[i] = some_nodeid();
		notify(NOTIFY_PRUNE, &prune, offsetof(struct notify_prune_out, nodeid),
		       prune.nodeid, sizeof(prune.nodeid));
		break;
	default:
		notify(chance(DICE, 50) ? FUSE_NOTIFY_RESEND : NOTIFY_INC_EPOCH, NULL, 0, NULL, 0);
	}
}

/* ---- threads ---- */

static void slow_down(void)
{
	bool other = s.place == OTHER;

	if (!w->on[K_SLOW] || !s.inited)
		return;
	if (chance(DICE, other ? 25 : 5))
		sleep_ms(below(DICE, other ? 200 : 40));
	else if (chance(DICE, 1) && chance(DICE, other ? 90 : 40))
		sleep_ms(below(DICE, other ? 3000 : 1500));
}

/* Send a notification while a request is pending, in most cases about another file. */
static void tell_beside(const struct fuse_in_header *in)
{
	switch (in->opcode) {
	case FUSE_GETATTR:
	case FUSE_SETATTR:
	case FUSE_OPEN:
	case FUSE_GET_FMAP:
	case FUSE_GET_DAXDEV:
		break;
	default:
		return;
	}
	if (!w->on[K_NOTIFY] || !chance(DICE, in->opcode == FUSE_SETATTR ? 30 : 5))
		return;
	if (s.in_notices++ < IN_NOTICES)
		tell_of_an_inode();
	s.in_notices--;
}

static void *serve(void *arg)
{
	char *buf = aligned_alloc(PAGE, REQUEST);
	const struct fuse_in_header *in = (void *)buf;

	DICE->state = s.streams + (uintptr_t)arg;
	for (;;) {
		ssize_t n = read(s.fd, buf, REQUEST);

		if (n < 0 && (errno == EINTR || errno == EAGAIN || errno == ENOENT))
			continue;
		if (n < 0 && errno == EPERM && !s.inited) {
			sleep_ms(1);	/* not mounted yet */
			continue;
		}
		if (n < (ssize_t)sizeof(*in))
			break;
		w->requests++;
		slow_down();
		tell_beside(in);
		answer(in, in + 1);
	}
	s.over = true;
	return NULL;
}

static void *tell(void *arg)
{
	DICE->state = s.streams + 100;
	while (!s.over) {
		sleep_ms(below(DICE, 30));
		if (s.inited)
			tell_something();
	}
	return NULL;
}

/* Register the backing files of the x. */
static void *open_backing(void *arg)
{
	char path[80];

	for (int i = 0; i < 4; i++) {
		struct fuse_backing_map map = { 0 };

		snprintf(path, sizeof(path), "%s/b%d", w->place[OTHER].dir, i);
		while (!s.inited && !s.over)
			sleep_ms(10);
		map.fd = open(path, O_RDWR | O_CLOEXEC);
		if (map.fd < 0)
			continue;
		s.backing[i] = ioctl(s.fd, FUSE_DEV_IOC_BACKING_OPEN, &map);
		close(map.fd);
	}
	return NULL;
}

void torture_serve(unsigned int n, int fd, struct rng *r)
{
	pthread_t thread;

	s.place = n;
	s.fd = fd;
	rng_of_thread = *r;
	for (unsigned int e = 0; e < ENTRIES; e++) {
		s.entry[e].there = exists(e);
		s.entry[e].mode = S_IFREG | 0666;
		s.entry[e].nodeid = 0x100 | (e + 2);
	}
	s.last = 1;
	s.map_in_open = w->on[K_INOPEN] && chance(DICE, 60);
	s.writeback = n != OTHER && chance(DICE, 25);
	s.valid = chance(DICE, 30) ? 0 : chance(DICE, 50) ? 50 : 5000;
	s.streams = rnd(DICE);
	if (w->on[K_NOTIFY] && pthread_create(&thread, NULL, tell, NULL))
		_exit(1);
	if (w->on[K_PASS] && n != OTHER && pthread_create(&thread, NULL, open_backing, NULL))
		_exit(1);
	for (uintptr_t i = 1; i < THREADS; i++)
		if (pthread_create(&thread, NULL, serve, (void *)i))
			_exit(1);
	serve(NULL);
	_exit(0);
}
