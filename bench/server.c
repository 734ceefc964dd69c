// SPDX-License-Identifier: GPL-2.0
/*
 * server [OPTION]... DIR: the smallest FUSE server that the benchmarks need, with threads.
 * Returns as soon as DIR is mounted; the server ends with the mount.
 *
 *	-o OPS		what INIT names; none: plain FUSE
 *	-d DEVICE	of the maps; may be repeated
 *	-n FILES	how many files there are, "f0" and so on (1)
 *	-s SIZE		bytes of each
 *	-e EXTENTS	of a file's map (1)
 *	-i		interleaved over two devices instead of linear
 *	-w STRIPS	over so many ranges of the two
 *	-m FORMAT	of the map: striped, famfs, or unrolled: that of famfs, as the list of
 *			all chunks
 *	-g		see below
 *	-t THREADS	(1)
 *	-a		the reply to OPEN has no map: the kernel sends GET_FMAP
 *	-z		OPEN gets ENOSYS: FUSE sends no OPEN from then on
 *
 * Maps have the format of bpf/striped.h, or of bpf/famfs.h. Each file has its own memory,
 * one behind the other. SIZE is divided into EXTENTS equal extents; chunks of interleaved
 * ones are half an extent, at most 2 MiB.
 *
 * A large file that consists of small extents cannot have 2 MiB pages, and the devices
 * have no room for 2,048 large extents. So -g makes groups: an extent for pages of 2 MiB
 * (one page; interleaved: two), and small extents that take 2 MiB together. There are
 * EXTENTS of them in all, in GROUPS groups; SIZE is what it comes to. The pages are
 * found with the options -b and -g of measure.c.
 *
 * The contents of files do not matter: plain READs get zeros, WRITEs are dropped.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#include <linux/fuse.h>
#include <linux/fuse_dax_fmap.h>

#include "famfs.h"
#include "fuse_wire.h"
#include "striped.h"

#define HUGE		(2UL << 20)
#define PAGE		4096UL
#define FIRST_NODEID	2
#define FOREVER		3600		/* validity of names and attributes, s */
#define MAX_WRITE	(1UL << 20)
#define GROUPS		32
#define DEVICES		2

static struct {
	const char *ops;
	const char *device[DEVICES];
	unsigned int devices;
	uint64_t files;
	uint64_t size;
	unsigned int extents;
	bool interleaved;
	unsigned int strips;
	enum { STRIPED, FAMFS, UNROLLED } format;
	bool groups;
	unsigned int threads;
	bool asked;
	bool zero_message;
} config = { .files = 1, .extents = 1, .threads = 1, .strips = DEVICES };

static int fuse_fd;
static const char zeros[MAX_WRITE];

/* ---- maps ---- */

/* The map of the first file; that of file n is the same, n * size further on. */
static struct {
	struct striped_header header;
	unsigned char rest[FUSE_DAX_FMAP_BLOB_MAX];
} map;
static size_t map_len;

/* The map in the format of famfs, which is sent instead. */
static struct {
	struct famfs_header header;
	union {
		struct famfs_iext extent;
		unsigned char rest[FUSE_DAX_FMAP_BLOB_MAX];
	};
} famfs_map;

static struct striped_extent *extent;
static struct striped_strip *strip;

/* Free space on the devices: for pages of 2 MiB, and behind it for smaller ones. */
static uint64_t large_room[DEVICES], small_room[DEVICES];

static void add_extent(uint64_t length, uint64_t chunk, bool large)
{
	struct striped_extent *e = &extent[map.header.nr_extents++];
	unsigned int n = chunk ? config.strips : 1;
	uint64_t row = chunk * n;

	e->length = length;
	e->chunk_size = chunk;
	e->nr_strips = n;
	for (unsigned int i = 0; i < n; i++) {
		struct striped_strip *s = &strip[map.header.nr_strips++];
		uint64_t *room = large ? &large_room[i % DEVICES] : &small_room[i % DEVICES];

		s->dev_index = i % DEVICES;
		s->length = chunk ? (length + row - 1) / row * chunk : length;
		s->offset = *room;
		*room += s->length;
	}
	map.header.file_size += length;
}

static int by_place(const void *a, const void *b)
{
	const struct striped_strip *x = &strip[*(const uint32_t *)a];
	const struct striped_strip *y = &strip[*(const uint32_t *)b];

	if (x->dev_index != y->dev_index)
		return x->dev_index < y->dev_index ? -1 : 1;
	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Link the strips in the order in which they lie on the devices. */
static void link_strips(void)
{
	static uint32_t order[DEVICES * 4096];
	uint32_t n = map.header.nr_strips;

	for (uint32_t i = 0; i < n; i++)
		order[i] = i;
	qsort(order, n, sizeof(*order), by_place);
	map.header.first_strip = n ? order[0] : STRIPED_END;
	for (uint32_t i = 0; i < n; i++)
		strip[order[i]].next = i + 1 < n ? order[i + 1] : STRIPED_END;
}

static void make_map(void)
{
	unsigned int strips = config.extents * (config.interleaved ? config.strips : 1);
	uint64_t length = config.size / config.extents, chunk = 0;

	extent = (void *)map.rest;
	strip = (void *)(extent + config.extents);
	map_len = sizeof(map.header) + config.extents * sizeof(*extent) + strips * sizeof(*strip);
	if (map_len > sizeof(map))
		errx(1, "too many extents");
	map.header.magic = STRIPED_MAGIC;
	map.header.version = STRIPED_VERSION;

	if (config.groups) {
		unsigned int small = config.extents / GROUPS - 1;
		uint64_t large = config.interleaved ? 2 * HUGE : HUGE;
		uint64_t each = config.interleaved ? 2 * PAGE : PAGE;

		for (unsigned int i = 0; i < DEVICES; i++)
			small_room[i] = GROUPS * HUGE;
		for (unsigned int g = 0; g < GROUPS; g++) {
			add_extent(large, config.interleaved ? HUGE : 0, true);
			for (unsigned int i = 0; i < small; i++)
				add_extent(i + 1 < small ? each : HUGE - (small - 1) * each,
					   config.interleaved ? PAGE : 0, false);
		}
		config.size = map.header.file_size;
	} else {
		if (config.interleaved)
			chunk = length / 2 < HUGE ? length / 2 : HUGE;
		for (unsigned int i = 0; i < config.extents; i++)
			add_extent(length, chunk, true);
	}
	link_strips();
}

static void add_to_list(uint64_t offset, uint64_t len, uint32_t device)
{
	struct famfs_simple_ext *e = (void *)((unsigned char *)&famfs_map + map_len);

	map_len += sizeof(*e);
	if (map_len > FUSE_DAX_FMAP_BLOB_MAX)
		errx(1, "too many chunks");
	*e = (struct famfs_simple_ext){ .devindex = device, .offset = offset, .len = len };
}

/* The only extent of the map, as famfs has it. */
static void make_famfs_map(void)
{
	struct famfs_header *h = &famfs_map.header;
	unsigned int n = extent->nr_strips;

	h->fmap_version = FAMFS_FMAP_VERSION;
	h->file_size = config.size;
	map_len = sizeof(*h);
	if (config.format == FAMFS) {
		h->ext_type = FAMFS_EXT_INTERLEAVE;
		h->nextents = 1;
		famfs_map.extent = (struct famfs_iext){
			.nstrips = n, .chunk_size = extent->chunk_size, .nbytes = extent->length,
		};
		map_len += sizeof(famfs_map.extent);
		for (unsigned int i = 0; i < n; i++)
			add_to_list(strip[i].offset, strip[i].length, strip[i].dev_index);
	} else {
		h->ext_type = FAMFS_EXT_SIMPLE;
		h->nextents = extent->length / extent->chunk_size;
		for (unsigned int i = 0; i < h->nextents; i++)
			add_to_list(strip[i % n].offset + i / n * extent->chunk_size,
				    extent->chunk_size, strip[i % n].dev_index);
	}
	h->fmap_size = map_len;
}

/* ---- requests ---- */

static void reply(const struct fuse_in_header *in, int error, const void *data, size_t len)
{
	/* It fails if the task that waited is gone. */
	fuse_wire_reply(fuse_fd, in, error, data, len);
}

static void fill_attr(struct fuse_attr *a, uint64_t nodeid)
{
	bool root = nodeid == FUSE_ROOT_ID;

	memset(a, 0, sizeof(*a));
	a->ino = nodeid;
	a->mode = root ? S_IFDIR | 0755 : S_IFREG | 0644;
	a->nlink = root ? 2 : 1;
	a->size = root ? 0 : config.size;
	a->blocks = a->size / 512;
	a->blksize = PAGE;
}

static void reply_init(const struct fuse_in_header *in, const struct fuse_init_in *arg)
{
	struct fuse_init_out out = {
		.major = FUSE_KERNEL_VERSION,
		.minor = FUSE_KERNEL_MINOR_VERSION,
		.max_readahead = arg->max_readahead,
		.flags = arg->flags & (FUSE_MAX_PAGES | FUSE_BIG_WRITES | FUSE_ASYNC_READ |
				       FUSE_PARALLEL_DIROPS),
		.max_background = 16,
		.congestion_threshold = 12,
		.max_write = MAX_WRITE,
		.max_pages = MAX_WRITE / PAGE,
	};
	uint32_t flags = FUSE_DAX_FMAP_MAP_IN_OPEN;

	if (config.ops && !config.asked)
		memcpy((char *)&out + FUSE_DAX_FMAP_INIT_OUT_FLAGS, &flags, sizeof(flags));
	if (config.ops)
		memcpy((char *)&out + FUSE_DAX_FMAP_INIT_OUT_NAME, config.ops,
		       strnlen(config.ops, FUSE_DAX_FMAP_OPS_NAME_LEN - 1));
	reply(in, 0, &out, sizeof(out));
}

static void reply_lookup(const struct fuse_in_header *in, const char *name)
{
	struct fuse_entry_out out = { .entry_valid = FOREVER, .attr_valid = FOREVER };
	uint64_t n = strtoull(name + 1, NULL, 10);

	if (name[0] != 'f' || n >= config.files) {
		reply(in, -ENOENT, NULL, 0);
		return;
	}
	out.nodeid = FIRST_NODEID + n;
	fill_attr(&out.attr, out.nodeid);
	reply(in, 0, &out, sizeof(out));
}

static void reply_attr(const struct fuse_in_header *in)
{
	struct fuse_attr_out out = { .attr_valid = FOREVER };

	fill_attr(&out.attr, in->nodeid);
	reply(in, 0, &out, sizeof(out));
}

static void reply_read(const struct fuse_in_header *in, const struct fuse_read_in *arg)
{
	uint64_t left = arg->offset < config.size ? config.size - arg->offset : 0;

	if (left > arg->size)
		left = arg->size;
	reply(in, 0, zeros, left < MAX_WRITE ? left : MAX_WRITE);
}

/* Write the map of a file to @to, at most @room bytes. Its size, or -ERANGE. */
static int map_of(uint64_t nodeid, void *to, size_t room)
{
	struct {
		struct striped_header header;
		struct striped_extent extent;
		struct striped_strip strip;
	} __attribute__((packed)) *small = to;

	if (map_len > room)
		return -ERANGE;
	memcpy(to, config.format == STRIPED ? (void *)&map : (void *)&famfs_map, map_len);
	if (config.files > 1)
		small->strip.offset += (nodeid - FIRST_NODEID) * small->strip.length;
	return map_len;
}

static void reply_get_fmap(const struct fuse_in_header *in, const struct fuse_get_fmap_in *arg)
{
	static __thread unsigned char blob[sizeof(map)];
	int len = map_of(in->nodeid, blob, arg->size < sizeof(blob) ? arg->size : sizeof(blob));

	if (len < 0)
		reply(in, len, NULL, 0);
	else
		reply(in, 0, blob, len);
}

static void reply_open(const struct fuse_in_header *in, const struct fuse_open_in *arg)
{
	struct {
		struct fuse_open_out open;
		struct fuse_open_fmap_out fmap;
	} out = { .open.fh = 0 };

	if (config.zero_message) {
		reply(in, -ENOSYS, NULL, 0);
	} else if (arg->open_flags & FUSE_DAX_FMAP_OPEN_MAP) {
		out.fmap.size = map_of(in->nodeid, out.fmap.map, sizeof(out.fmap.map));
		reply(in, 0, &out, sizeof(out));
	} else {
		reply(in, 0, &out.open, sizeof(out.open));
	}
}

static void reply_get_daxdev(const struct fuse_in_header *in, const struct fuse_get_daxdev_in *arg)
{
	struct fuse_get_daxdev_out out = { .index = arg->index };

	if (arg->index >= config.devices) {
		reply(in, -ENODEV, NULL, 0);
		return;
	}
	snprintf(out.name, sizeof(out.name), "%s", config.device[arg->index]);
	reply(in, 0, &out, sizeof(out));
}

static void handle(const struct fuse_in_header *in, const void *arg)
{
	struct fuse_open_out open = { 0 };
	struct fuse_write_out written = { 0 };
	struct fuse_statfs_out statfs = { .st = { .bsize = PAGE, .namelen = 31 } };

	switch (in->opcode) {
	case FUSE_INIT:
		reply_init(in, arg);
		break;
	case FUSE_LOOKUP:
		reply_lookup(in, arg);
		break;
	case FUSE_GETATTR:
	case FUSE_SETATTR:
		reply_attr(in);
		break;
	case FUSE_OPEN:
		reply_open(in, arg);
		break;
	case FUSE_OPENDIR:
		reply(in, 0, &open, sizeof(open));
		break;
	case FUSE_READ:
		reply_read(in, arg);
		break;
	case FUSE_WRITE:
		written.size = ((const struct fuse_write_in *)arg)->size;
		reply(in, 0, &written, sizeof(written));
		break;
	case FUSE_STATFS:
		reply(in, 0, &statfs, sizeof(statfs));
		break;
	case FUSE_READDIR:	/* an empty directory */
	case FUSE_RELEASE:
	case FUSE_RELEASEDIR:
	case FUSE_FSYNC:
	case FUSE_DESTROY:
		reply(in, 0, NULL, 0);
		break;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT:
		break;		/* have no answer */
	case FUSE_GET_FMAP:
		reply_get_fmap(in, arg);
		break;
	case FUSE_GET_DAXDEV:
		reply_get_daxdev(in, arg);
		break;
	default:		/* FLUSH among others: not asked again */
		reply(in, -ENOSYS, NULL, 0);
	}
}

static void *serve(void *unused)
{
	size_t size = MAX_WRITE + 2 * PAGE;
	char *buf = aligned_alloc(PAGE, size);

	(void)unused;
	for (;;) {
		ssize_t n = read(fuse_fd, buf, size);

		if (n < 0 && (errno == EINTR || errno == EAGAIN || errno == ENOENT))
			continue;
		if (n < (ssize_t)sizeof(struct fuse_in_header))
			exit(0);	/* unmounted */
		handle((const void *)buf, buf + sizeof(struct fuse_in_header));
	}
	return NULL;
}

int main(int argc, char **argv)
{
	char opts[128], path[256];
	struct stat st;
	int c;

	while ((c = getopt(argc, argv, "o:d:n:s:e:iw:m:gt:az")) != -1) {
		switch (c) {
		case 'o':
			config.ops = optarg;
			break;
		case 'd':
			if (config.devices < DEVICES)
				config.device[config.devices++] = optarg;
			break;
		case 'n':
			config.files = strtoull(optarg, NULL, 0);
			break;
		case 's':
			config.size = strtoull(optarg, NULL, 0);
			break;
		case 'e':
			config.extents = strtoul(optarg, NULL, 0);
			break;
		case 'i':
			config.interleaved = true;
			break;
		case 'w':
			config.strips = strtoul(optarg, NULL, 0);
			break;
		case 'm':
			config.format = !strcmp(optarg, "famfs") ? FAMFS :
					!strcmp(optarg, "unrolled") ? UNROLLED : STRIPED;
			break;
		case 'g':
			config.groups = true;
			break;
		case 't':
			config.threads = strtoul(optarg, NULL, 0);
			break;
		case 'a':
			config.asked = true;
			break;
		case 'z':
			config.zero_message = true;
			break;
		default:
			return 2;
		}
	}
	if (optind + 1 != argc || !config.extents)
		errx(2, "see the top of server.c");
	if (config.files > 1 && (config.extents != 1 || config.interleaved))
		errx(2, "many files are linear");
	if (config.format != STRIPED &&
	    (config.files != 1 || config.extents != 1 || !config.interleaved))
		errx(2, "a map of famfs's is of one file, with one interleaved extent");
	make_map();
	if (config.format != STRIPED)
		make_famfs_map();

	fuse_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	snprintf(opts, sizeof(opts),
		 "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions",
		 fuse_fd);
	if (fuse_fd < 0 || mount("bench", argv[optind], "fuse", 0, opts))
		err(1, "mount");
	switch (fork()) {
	case -1:
		err(1, "fork");
	case 0:
		for (unsigned int i = 1; i < config.threads; i++) {
			pthread_t thread;

			if (pthread_create(&thread, NULL, serve, NULL))
				err(1, "thread");
		}
		serve(NULL);
	}
	close(fuse_fd);
	snprintf(path, sizeof(path), "%s/f0", argv[optind]);
	if (stat(path, &st))
		err(1, "%s", path);
	return 0;
}
