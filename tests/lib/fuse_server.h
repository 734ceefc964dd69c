/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A FUSE server for tests: no library, one flat directory, everything scripted.
 *
 * A test fills a struct fuse_server, mounts it, and uses the files like any other program
 * would. The server counts the requests of each opcode, so a test can check which requests
 * the kernel sent, and which it did not send.
 *
 *	struct fuse_server *s = fs_new();
 *	fs_add(s, "file", size, map, map_len);
 *	strcpy(s->ops_name, "scripted");
 *	fs_mount(s);
 *	...
 *	fs_stop(s);
 *
 * What is answered to an opcode, first match wins:
 *
 *	hold[op]	nothing, until fs_release()
 *	error[op]	this error
 *	hook[op]	whatever the test's function sends
 *	otherwise	what a well-behaved server says
 *
 * The server is a thread of the test, or a process of its own (@forked) where the
 * test wants to kill it. All of it lies in shared memory, so both look the same.
 *
 * Nothing outlives the process of a test: fs_new() moves it to a private mount
 * namespace, and the server goes away with it.
 */
#ifndef FUSE_SERVER_H
#define FUSE_SERVER_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <linux/fuse.h>
#include <linux/fuse_dax_fmap.h>

#ifndef FUSE_DEV_IOC_SYNC_INIT
#define FUSE_DEV_IOC_SYNC_INIT	_IO(FUSE_DEV_IOC_MAGIC, 3)
#endif

#define FS_FILES	16	/* files of a server */
#define FS_OPCODES	64	/* opcodes that are counted */
#define FS_HELD		32	/* requests without an answer */
#define FS_ROOMS	16	/* buffer sizes of GET_FMAP that are remembered */
#define FS_PLAIN	8192	/* bytes of a file that READ and WRITE see */
#define FS_ARG		128	/* bytes of a held request's body */

/* How many times slower than a stock kernel this one may be: FMAP_SLOW, or 1. */
int fs_slowness(void);

/* How long a test waits for something that has to happen, in ms. */
#define FS_PATIENCE	(8000 * fs_slowness())

struct fs_file {
	char		name[32];
	uint64_t	nodeid;
	uint64_t	size;		/* as in its attributes */
	uint32_t	mode;
	uint64_t	mtime;
	const void	*map;		/* what GET_FMAP gets; NULL: ENODATA */
	uint32_t	map_len;
	unsigned char	plain[FS_PLAIN];
};

struct fuse_server;

/* Answers @in, whose body is @arg, with fs_reply(), or leaves it. */
typedef void (*fs_hook)(struct fuse_server *s, const struct fuse_in_header *in,
			const void *arg);

/* Sends a reply in another way than write(2): its error, or 0. */
typedef int (*fs_sender)(struct fuse_server *s, const struct fuse_in_header *in,
			 int error, const void *data, size_t len);

struct fuse_server {
	/* The script. Set before fs_mount(), or while no request is pending. */
	bool		forked;
	bool		sync_init;
	bool		eager;		/* answers INIT before mount(2) can wait */
	char		ops_name[FUSE_DAX_FMAP_OPS_NAME_LEN];
	const char	*type;		/* of the mount: fuse unless told */
	const char	*source;
	const char	*more_opts;	/* ",..." */
	uid_t		owner;		/* user_id= */
	uint32_t	init_len;	/* of the INIT reply, 64 unless told */
	uint32_t	init_minor;
	uint32_t	init_flags;
	uint32_t	init_flags2;	/* with FUSE_INIT_EXT in the others */
	uint32_t	max_stack_depth;
	uint32_t	open_flags;
	uint32_t	fmap_flags;	/* FUSE_DAX_FMAP_MAP_IN_OPEN */
	bool		open_map_told;	/* @size and bytes of what comes with OPEN: */
	int32_t		open_map_size;
	uint32_t	open_map_len;
	const char	*devices[FUSE_DAX_FMAP_DEVICES_MAX];
	bool		hold[FS_OPCODES];
	int		error[FS_OPCODES];
	fs_hook		hook[FS_OPCODES];
	fs_sender	send;
	struct fs_file	file[FS_FILES];
	unsigned int	nr_files;
	uint64_t	any_size;	/* fs_any() */

	/* What the server has seen. */
	_Atomic unsigned int count[FS_OPCODES];
	_Atomic uint64_t known;		/* lookups that the kernel has not forgotten */
	_Atomic unsigned int refused;	/* replies the kernel did not take */
	_Atomic unsigned int malformed;	/* requests that break the protocol */
	struct fuse_init_in init;
	_Atomic unsigned int maps_wanted; /* OPENs that ask for a map */
	uint32_t	room[FS_ROOMS];
	unsigned int	nr_rooms;

	/* Its own. */
	int		fd;
	char		dir[64];
	bool		mounted;
	pid_t		mounter;	/* the task that calls mount(2) */
	pid_t		pid;
	pthread_t	thread;
	bool		running;
	pthread_mutex_t	lock;
	struct {
		struct fuse_in_header in;
		unsigned char arg[FS_ARG];
	} held[FS_HELD];
	unsigned int	nr_held;
};

/* A server without files; NULL where FUSE cannot be used. */
struct fuse_server *fs_new(void);

/* A file. Its nodeid is chosen, unless the test overwrites it. */
struct fs_file *fs_add(struct fuse_server *s, const char *name, uint64_t size,
		       const void *map, uint32_t map_len);

/*
 * Any number of files besides: "f" and a number, which is added to FS_ANY for the nodeid. They
 * have @size bytes, and their map is that of the first file, unless the test hooks GET_FMAP.
 */
#define FS_ANY		1000
void fs_any(struct fuse_server *s, uint64_t size);

/* 0 or -errno of mount(2). An asynchronous INIT may still be under way then. */
int fs_mount(struct fuse_server *s);

/* Serve a connection that another process mounts on @dir: 0 or -errno. */
int fs_serve(struct fuse_server *s, int fd);

/* 0 or -errno of umount(2). The server ends in any case. */
int fs_umount(struct fuse_server *s);

/* fs_umount() if it is mounted, and undo what fs_new() did. */
int fs_stop(struct fuse_server *s);

/* Kill the process of a @forked server. */
void fs_kill(struct fuse_server *s);

/* Abort the connection, as umount -f does, and leave the mount: 0 or -errno. */
int fs_abort(struct fuse_server *s);

/* open(2) of a file of the server: a descriptor or -errno. */
int fs_open(struct fuse_server *s, const char *name, int flags);

/* open(2) and close(2): 0 or -errno. */
int fs_try(struct fuse_server *s, const char *name);

/* Wait until at least @n requests of @opcode came. */
bool fs_wait(struct fuse_server *s, int opcode, unsigned int n);

/* Stop holding @opcode and answer what was held. */
void fs_release(struct fuse_server *s, int opcode);

/* Send an answer. The error of write(2), 0 if the kernel took it. */
int fs_reply(struct fuse_server *s, const struct fuse_in_header *in, int error,
	     const void *data, size_t len);

/*
 * Tell the kernel something unasked: FUSE_NOTIFY_@code with what follows its header, in one
 * or two pieces. The error of write(2), 0 if the kernel took it.
 */
int fs_notify(struct fuse_server *s, int code, const void *head, size_t head_len,
	      const void *data, size_t len);

/* Handle one request; for tests that receive requests in another way than read(2). */
void fs_handle(struct fuse_server *s, const struct fuse_in_header *in,
	       const void *arg);

/* What a well-behaved server says; for hooks that only watch. */
void fs_default(struct fuse_server *s, const struct fuse_in_header *in,
		const void *arg);

/* The path of @name below the mount point, in a static buffer. */
const char *fs_path(struct fuse_server *s, const char *name);

#endif /* FUSE_SERVER_H */
