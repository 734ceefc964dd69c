/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests share besides the server: the module, its ops, the devices,
 * and ways to look at the kernel from outside.
 *
 * A test program registers its ops once, in main(), and holds their links as
 * long as it runs; the tests, which are its children, find them registered. Where
 * something is missing, tests are skipped with a sentence:
 *
 *	int main(int argc, char **argv)
 *	{
 *		fmap_register("scripted.bpf.o");
 *		return test_harness_run(argc, argv);
 *	}
 *
 *	FIXTURE_SETUP(x)
 *	{
 *		FMAP_REQUIRE();
 *
 * Environment: DAX_DEVICES (two paths of devices bound to fsdev_dax; all such
 * devices of the machine unless set), FMAP_BPF_DIR (the reference programs),
 * FMAP_MODULE (the module, for tests that reload it).
 */
#ifndef FMAP_TEST_H
#define FMAP_TEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <bpf/libbpf.h>

#include "fuse_server.h"
#include "bpf/scripted.h"

#define KIB		1024UL
#define MIB		(1024UL * KIB)
#define PAGE		4096UL
#define HUGE		(2 * MIB)

#define MODULE_NAME	"fuse_dax_fmap"
#define LOG_PREFIX	MODULE_NAME ": "

/* Of newer headers. */
#ifndef MAP_SYNC
#define MAP_SYNC		0x80000
#endif
#ifndef MAP_SHARED_VALIDATE
#define MAP_SHARED_VALIDATE	0x03
#endif

/* The driver of devices that files may be in. */
#define FSDEV		"/sys/bus/dax/drivers/fsdev_dax"

/* Devices. */
struct daxdev {
	char		path[32];
	char		name[16];
	uint64_t	size;
	uint64_t	phys;		/* 0 if unknown */
};

extern struct daxdev daxdev[2];

/* Find them: NULL, or why tests cannot run. */
const char *daxdev_find(void);

/* Unbind the driver, in a child process: the caller need not wait if it hangs. */
pid_t daxdev_unbind_begin(const struct daxdev *d);
/* The same, and wait for it: 0 or errno. */
int daxdev_unbind(const struct daxdev *d);
/* Bind the device to the driver again, unless it is bound: 0 or -errno. */
int daxdev_bind(const struct daxdev *d);

/* Why tests cannot run here, or NULL. Looks for root, module, devices. */
const char *fmap_missing(void);

/* At the beginning of a fixture or a test: skips it where tests cannot run. */
#define FMAP_REQUIRE() do {						\
	if (fmap_missing())						\
		SKIP(return, "%s", fmap_missing());			\
} while (0)

/* End the program: @what was tried with @name, and errno says why it failed. */
void __attribute__((noreturn)) fmap_bail_out(const char *name, const char *what);

/* Open @object (beside the test, else in FMAP_BPF_DIR); NULL and errno. */
struct bpf_object *fmap_open(const char *object);

/* Open and load it. */
struct bpf_object *fmap_load(const char *object);

/* The same, and register its only ops. Ends the program if that fails. */
struct bpf_object *fmap_register(const char *object);

/* The link of the last fmap_register(). */
extern struct bpf_link *fmap_link;

/* The struct_ops map that a link has registered: its id, 0 if there is none. */
uint32_t fmap_map_id(const struct bpf_link *link);

/* The map id in the line of a mount in debugfs; 0 if there is none. */
uint32_t fmap_map_id_of(const struct fuse_server *s);

/* What the scripted ops saw; valid in children of the process that registered them. */
struct scripted_seen *fmap_seen(void);

/* What libbpf and the verifier said last. */
const char *fmap_bpf_log(void);

/* A path of an object or a program beside this one. */
const char *fmap_beside(const char *name);

/* A map of the scripted ops: @length bytes at @addr of device @dev. */
struct scripted fmap_linear(uint32_t dev, uint64_t addr, uint64_t length);

/* A server with both devices whose INIT names @ops. */
struct fuse_server *fmap_server(const char *ops);

/*
 * For a FIXTURE_SETUP: mounts a server, self->s, with one mapped file, "file", whose @size
 * bytes are at @address of the first device; self->map is its map.
 */
#define FMAP_MOUNT_ONE_FILE(address, size) do {				\
	self->map = fmap_linear(0, address, size);			\
	self->s = fmap_server(SCRIPTED_OPS_NAME);			\
	ASSERT_NE(NULL, self->s);					\
	fs_add(self->s, "file", size, &self->map, sizeof(self->map));	\
	ASSERT_EQ(0, fs_mount(self->s));				\
} while (0)

/* Bytes of a device, read without the file system. 0 or -errno. */
void dax_peek_init(void);
int dax_peek(const struct daxdev *d, uint64_t offset, void *buf, size_t len);

/* The .bss of a BPF object whose programs are attached from here on, for main(). */
void *bpf_attach(const char *object);

/*
 * True if lockdep checks the kernel's locks. A write that FUSE passes through to FUSE takes
 * sb_writers of both superblocks. That is in order, but they are of one lock class: lockdep reports
 * a recursion, and turns itself off.
 */
bool kernel_has_lockdep(void);

/* The kernel log from here on; -errno where there is none. */
int klog_open(void);
/* Wait for a line that has both strings. */
bool klog_wait(int fd, const char *a, const char *b);
/* An errno as the log has it: by name, or Error(N) of a kernel without CONFIG_SYMBOLIC_ERRNAME. */
const char *klog_errno(int error);
/* Count lines with @what from here on, without waiting. */
unsigned int klog_count(int fd, const char *what);

/* Small files, mostly of sysfs: 0 or -errno. */
int write_file(const char *path, const char *text);
int read_file(const char *path, char *buf, size_t size);
long read_long(const char *path);

/* The users of the module, as lsmod shows them; -1 if it is not loaded. */
long module_refs(void);
bool module_refs_wait(long refs);
int module_load(const char *params);
/* -EAGAIN if it is in use. */
int module_unload(void);
/* Unload it as soon as it has no users. */
int module_unload_wait(void);
int module_set(const char *param, const char *value);

/* Does a PMD entry of this task map @p? 1, 0 or -errno. */
int mapped_as_huge(const volatile void *p);

/*
 * Count a tracepoint of this task: faults by their size. The counter is a
 * descriptor, or -errno.
 */
int trace_count_open(const char *event, const char *filter);
/* The same of another task or of all (-1), on one CPU or on all (-1). */
int trace_count_open_at(const char *event, const char *filter, pid_t pid, int cpu);
uint64_t trace_count(int fd);

/* How child @pid ended: its wait status, or -1 if it does not end. */
int ended(pid_t pid);

/* The state of a task as in /proc: 'R', 'S', 'D', 'T', 'Z' and others; 0 if there is none. */
char task_state(pid_t pid);

/* Wait until a task sleeps and stays asleep: it waits for another task. */
bool asleep(pid_t pid);

/* A child that opens and closes @name, and exits with the errno. -1 if there is none. */
pid_t fs_try_in_child(struct fuse_server *s, const char *name);

/* Make the kernel forget unused files and their pages. */
void drop_caches(void);

/* cachestat(2) of all of a file, which no header of the C library has. */
struct fmap_cachestat {
	uint64_t	cache;
	uint64_t	dirty;
	uint64_t	writeback;
	uint64_t	evicted;
	uint64_t	recently_evicted;
};

int fmap_cachestat(int fd, struct fmap_cachestat *cs);

/*
 * Make the kernel forget an unused file of @s. The RELEASE of its last close holds the
 * inode until the server has answered, so one attempt may not be enough.
 */
bool fs_forget(struct fuse_server *s);

/*
 * The same, if the kernel may already have forgotten the file: fs_forgets() is called
 * while the file is still in use, and its result passed to fs_forget_since().
 */
unsigned int fs_forgets(const struct fuse_server *s);
bool fs_forget_since(struct fuse_server *s, unsigned int before);

/* The byte at @pos, or -errno. */
int byte_at(int fd, off_t pos);

/*
 * Fill a mapped file, and so the device, in steps of 64 KiB. 0 or -errno, which
 * is -ENXIO if the server saw a WRITE.
 */
int fs_fill(struct fuse_server *s, const char *name, int byte, size_t len);

/*
 * Does opening @name give a mapped file? Its first byte is @on_device in memory, and
 * another one if the server is asked.
 */
bool fs_is_mapped(struct fuse_server *s, const char *name, char on_device);

/* Where page frames are made to fail; loads the module for it until this process ends. */
#define HWPOISON_INJECT	"/sys/kernel/debug/hwpoison/corrupt-pfn"
void hwpoison_load(void);

/*
 * Make the page at @phys fail, in a child that does not map it: the kernel treats the task
 * that handles a failure as its consumer. 0 or the status of the child.
 */
int hwpoison_inject(uint64_t phys);

/* Open, map shared, close. MAP_FAILED and errno. */
void *fs_map(struct fuse_server *s, const char *name, size_t len, int prot);

/* An address range of @len bytes that begins @within bytes behind an aligned 2 MiB. */
void *address_range(size_t within, size_t len);

/*
 * Mounts fusectl in the test's own mount namespace; false where there is none. Another way
 * than fs_abort() to abort a connection, for a mount that stays: 0 or -errno.
 */
#define FUSECTL	"/sys/fs/fuse/connections"
bool fusectl_mount(void);
int fusectl_abort(struct fuse_server *s);

/* A counter of the mount in the module's list of mounts; -1 if it has none. */
long fs_counter(struct fuse_server *s, const char *name);

/*
 * A number of a part of the mount: in the line of the module's @list, "devices" or "files",
 * that has the word @part, such as "device=dax0.0" or "file=/name". -1 if there is none.
 */
long fs_number_of(struct fuse_server *s, const char *list, const char *part, const char *name);

/*
 * The signal that touching @p causes: 0, SIGBUS or SIGSEGV. Stores @value if it is not
 * negative.
 */
int touch(volatile unsigned char *p, int value);

#endif /* FMAP_TEST_H */
