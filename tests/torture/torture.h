/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the files of torture share; torture.c tells the story.
 *
 * The bytes of a page depend on the file that it belongs to and on its place there, and on
 * nothing else: see struct stamp. Tasks write no other bytes, so a reader knows what to
 * expect, in whatever order things happen.
 */
#ifndef TORTURE_H
#define TORTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "fmap_test.h"
#include "fuzz.h"

/* ---- the cast ---- */

/* What may be switched on and off by its name: see kinds[] in torture.c. */
enum kind {
	/* Tasks that use files. */
	K_READ, K_WRITE, K_MAP, K_MEMORY, K_FORK, K_THIEF, K_META, K_NAMES, K_PIPE, K_DIRECT,
	K_AIO, K_SYNC,
	/* Tasks that work on the kernel. */
	K_CACHES, K_RECLAIM, K_POISON, K_UNBIND, K_OPS, K_HOG, K_IDLE, K_KILLER, K_UPROBE,
	/* What servers do. */
	K_NOTIFY, K_SLOW, K_PASS, K_REUSE, K_INOPEN,
	/* How mounts end, besides umount. */
	K_DETACH, K_FORCE, K_KILL, K_STOP,
	KINDS
};

#define K_FIRST_KERNEL	K_CACHES
#define K_FIRST_SERVER	K_NOTIFY
#define K_FIRST_END	K_DETACH

/* ---- files ---- */

#define SLOTS		2		/* mounts with maps */
#define OTHER		SLOTS		/* the place of the plain server */
#define PLACES		(SLOTS + 1)

#define AREAS		8		/* of a device */
#define SECRET		7		/* the one that no file of an honest server has */
#define IDS		64
#define PLAIN_SIZE	(32 * PAGE)

/*
 * The entries of a mount with maps, by their numbers. a: a file of each area; t: another
 * file with the same memory; p: a plain one; x: one that is passed through to the plain
 * server, if that works. The plain server has m, with the bytes of each id, and b, which
 * the x are passed through to and which has the same number.
 */
#define E_A		0
#define E_T		(E_A + 2 * AREAS)
#define E_P		(E_T + 2 * AREAS)
#define E_X		(E_P + 4)
#define ENTRIES		(E_X + 4)

/* Where the bytes of an id are; ids from 2 * AREAS on are in no memory. */
struct area {
	uint32_t	dev;
	uint64_t	addr;
	uint64_t	size;
};

/* 16 bytes, 256 of them in a page. */
struct stamp {
	uint32_t	id;
	uint32_t	page;
	uint32_t	nr;
	uint32_t	sum;
};

#define STAMPS		(PAGE / sizeof(struct stamp))

/* The bytes of @id from @at on. */
void stamps_fill(void *buf, size_t len, unsigned int id, uint64_t at);
/* The index of the first wrong byte, or -1. */
ssize_t stamps_differ(const void *buf, size_t len, unsigned int id, uint64_t at);
/* The size of the file of an id, in bytes. */
uint64_t size_of_id(unsigned int id);
/* The id of an entry of a mount with maps. */
unsigned int id_of_entry(unsigned int entry);

/* ---- what all tasks see ---- */

#define MAX_ACTORS	40
#define ERRNOS		134
#define HOLDS		MAX_ACTORS

/* A task has a page of an area in its page tables. */
struct hold {
	_Atomic uint32_t seq;		/* odd while it is valid */
	_Atomic pid_t	pid;		/* 0: free */
	uint64_t	addr;		/* in that task */
	uint64_t	frame;
	uint64_t	inode[3];	/* device, nodeid, generation */
};

struct actor {
	enum kind	kind;
	_Atomic pid_t	pid;
	_Atomic unsigned int beat;	/* operations done */
};

struct place {
	char		dir[48];
	_Atomic unsigned int minor;	/* of the mount */
	_Atomic pid_t	server;
	unsigned int	devices;	/* bits: those it has */
};

struct world {
	uint64_t	seed;		/* of this round */
	bool		on[KINDS];
	volatile bool	stop;
	_Atomic unsigned int broken, messages;
	struct place	place[PLACES];
	struct area	area[2 * AREAS];
	struct actor	actor[MAX_ACTORS];
	unsigned int	nr_actors;
	struct hold	hold[HOLDS];
	_Atomic unsigned long done[KINDS];
	_Atomic unsigned long requests, notices, refused_notices, bytes_checked, frames_checked;
	_Atomic unsigned long ms_mounted, opens, refused_opens[ERRNOS];
	_Atomic unsigned long sigbus, mounted, aborted, thefts;
};

extern struct world *w;
extern const char *const kind_name[KINDS];

/* Report a defect, with what is needed to repeat it, and end the round. */
void __attribute__((format(printf, 1, 2))) broken(const char *fmt, ...);

/* How long a task may be stuck, in ms. */
unsigned int torture_patience(void);
double torture_now(void);
/* 1, or more on a slow kernel. */
unsigned int torture_slowness(void);

/* True if a round is longer than torture_patience(), with pages in use to its end. */
bool long_round(uint64_t seed);

/* Sleep for up to @ms, or until the round ends. */
void nap(struct rng *r, unsigned int ms);

/* ---- tasks that use files ---- */

#define BUFFER	(64 * KIB)

struct file {
	int		fd;
	unsigned int	id;
	uint64_t	size;
	uint64_t	inode[3];
	char		path[64];
};

struct map {
	struct file	f;
	unsigned char	*p;
	size_t		len;
	uint64_t	off;
	bool		shared, writable;
};

extern unsigned char *buffer;
extern struct actor *me;
extern pid_t my_pid;

/* The path of a file, which begins with one of @letters. */
void some_path(struct rng *r, struct file *f, const char *letters);
bool open_path(struct file *f, int flags);
bool open_some(struct rng *r, struct file *f, const char *letters, int flags);
void which_inode(struct file *f);

/* Bytes of a file that have been read by @what. */
void check(const char *what, const struct file *f, const void *buf, ssize_t n, uint64_t at);
void check_bad(struct file *f);

bool map_file(struct rng *r, struct map *m);
bool map_some(struct rng *r, struct map *m, const char *letters);
void maybe_close(struct rng *r, struct map *m, unsigned int percent);
void unmap(struct map *m);

/* Touch a page of a mapping: false if that was a signal. */
bool look(struct rng *r, const struct map *m, uint64_t page);
void look_around(struct rng *r, const struct map *m, int times);
/* Forget the page that this task has recorded as mapped. */
void let_go(void);

/* ---- tasks ---- */

/* One operation of a task; tasks call it again and again. */
typedef void (*actor_fn)(struct actor *a, struct rng *r);

void act_on_files(struct actor *a, struct rng *r);
void act_on_kernel(struct actor *a, struct rng *r);

/* Catch signals, for loads that may get SIGBUS. */
void guard_signals(void);

/* A mount that comes and goes, at w->place[@n]. Ends with the round. */
void keep_mounted(unsigned int n, uint64_t seed);

/* Serve @fd until its connection ends, and exit. */
void torture_serve(unsigned int n, int fd, struct rng *r);

/* Abort the connection of a mount. */
void abort_connection(unsigned int minor);

/* Watch all tasks and the kernel log until the round ends. */
void watch(void);
/* Read the kernel log since the last call. True if it has no report. */
bool log_is_good(void);
void log_begin(void);

/* Show where a task is; and all that are in state D. */
void show_stack(const char *who, pid_t pid);
void show_sleepers(void);

/* The link of the ops, and other ops for it. */
extern struct bpf_link *torture_link;

/* Bind a device to its driver, unless it is bound: 0 or -errno. */
int torture_rebind(const struct daxdev *d);

/* The name of a task that may wait for pages in use. */
#define WAITS_FOR_PAGES	"tt-waits"

#define CGROUP	"/sys/fs/cgroup/fmap-torture"

#endif /* TORTURE_H */
