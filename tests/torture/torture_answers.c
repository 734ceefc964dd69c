// SPDX-License-Identifier: GPL-2.0
/*
 * What the servers of torture answer. They keep no bytes: READ gets the stamps that belong
 * there, and what comes with WRITE is compared with them.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "fuse_wire.h"
#include "torture_server.h"

/* ---- names and numbers ---- */

bool exists(unsigned int e)
{
	bool area = e < E_P;

	if (s.place == OTHER)
		return area ? e < E_T && e % AREAS != SECRET : true;
	if (area)
		return e % AREAS != SECRET &&
		       w->place[s.place].devices >> (id_of_entry(e) / AREAS) & 1;
	return e < E_X || w->on[K_PASS];
}

void name_of(unsigned int e, bool renamed, char *name, size_t size)
{
	static const struct {
		unsigned int from;
		char letter[2];		/* of a mount with maps, and of the other */
	} first[] = { { E_A, "am" }, { E_T, "tm" }, { E_P, "pm" }, { E_X, "xb" } };
	unsigned int i = 3;

	while (e < first[i].from)
		i--;
	snprintf(name, size, "%c%u%s", first[i].letter[s.place == OTHER],
		 e - first[i].from + (s.place == OTHER && i < 3 ? first[i].from : 0),
		 renamed ? "r" : "");
}

/* The entry that may have this name, or -1. */
static int entry_named(const char *name, bool *renamed)
{
	char other[16];

	for (unsigned int e = 0; e < ENTRIES; e++)
		for (int i = 0; i < 2; i++) {
			name_of(e, i, other, sizeof(other));
			if (exists(e) && !strcmp(name, other)) {
				*renamed = i;
				return e;
			}
		}
	return -1;
}

static void new_nodeid(struct entry *e)
{
	e->nodeid = ++s.last << 8 | (e - s.entry + 2);
	e->generation = 0;
}

/* A new file for a name that was unlinked, with the memory of the file before. */
static void create_entry(struct entry *e, bool renamed)
{
	if (!w->on[K_REUSE] || chance(DICE, 50))
		new_nodeid(e);
	else
		e->generation++;
	e->renamed = renamed;
	e->there = true;
}

/* The entry that is there by this name, or -1. */
static int entry_there(const char *name)
{
	bool renamed;
	int e = entry_named(name, &renamed);

	return e >= 0 && s.entry[e].there && s.entry[e].renamed == renamed ? e : -1;
}

int entry_of(uint64_t nodeid)
{
	unsigned int e = (nodeid & 0xff) - 2;

	return nodeid > 0xff && e < ENTRIES ? (int)e : -1;
}

/* ---- answers ---- */

static void reply(const struct fuse_in_header *in, int error, const void *data, size_t len)
{
	/* The task that waited may be gone. */
	if (fuse_wire_reply(s.fd, in, error, data, len) == EINVAL && !s.over)
		broken("an answer to request %u is refused", in->opcode);
}

static void set_attr(struct fuse_attr *attr, int e)
{
	memset(attr, 0, sizeof(*attr));
	attr->blksize = PAGE;
	if (e < 0) {
		attr->ino = FUSE_ROOT_ID;
		attr->mode = S_IFDIR | 0777;
		attr->nlink = 2;
		return;
	}
	if (chance(DICE, 20))
		s.entry[e].mtime++;
	attr->ino = s.entry[e].nodeid;
	attr->size = size_of_id(id_of_entry(e));
	attr->blocks = attr->size / 512;
	attr->mode = s.entry[e].mode;
	attr->nlink = 1;
	attr->mtime = s.entry[e].mtime;
}

static void set_valid(uint64_t *sec, uint32_t *nsec)
{
	unsigned int ms = chance(DICE, 50) ? s.valid : 0;

	*sec = ms / 1000;
	*nsec = ms % 1000 * 1000000;
}

static void set_entry(struct fuse_entry_out *out, int e)
{
	memset(out, 0, sizeof(*out));
	/* Reuse the nodeid: for the kernel, this is another file. */
	if (w->on[K_REUSE] && chance(DICE, 2))
		s.entry[e].generation++;
	out->nodeid = s.entry[e].nodeid;
	out->generation = s.entry[e].generation;
	set_valid(&out->entry_valid, &out->entry_valid_nsec);
	set_valid(&out->attr_valid, &out->attr_valid_nsec);
	set_attr(&out->attr, e);
}

static void reply_attr(const struct fuse_in_header *in, int e)
{
	struct fuse_attr_out out = { 0 };

	set_valid(&out.attr_valid, &out.attr_valid_nsec);
	set_attr(&out.attr, e);
	/* It is not a regular file any more: FUSE marks such an inode bad. */
	if (e >= 0 && w->on[K_REUSE] && in->opcode == FUSE_GETATTR && chance(DICE, 1) &&
	    chance(DICE, 20))
		out.attr.mode = S_IFIFO | 0644;
	reply(in, 0, &out, sizeof(out));
}

static void reply_init(const struct fuse_in_header *in, const struct fuse_init_in *arg)
{
	struct fuse_init_out out = {
		.major = FUSE_KERNEL_VERSION,
		.minor = FUSE_KERNEL_MINOR_VERSION,
		.max_readahead = arg->max_readahead,
		.max_background = 16,
		.congestion_threshold = 12,
		.max_write = MAX_WRITE,
		.max_pages = MAX_WRITE / PAGE,
		.max_stack_depth = 1,
	};
	uint64_t flags = FUSE_MAX_PAGES | FUSE_BIG_WRITES | FUSE_INIT_EXT | FUSE_ASYNC_READ |
			 FUSE_ASYNC_DIO | FUSE_DO_READDIRPLUS | FUSE_PARALLEL_DIROPS |
			 FUSE_HAS_RESEND | FUSE_HAS_EXPIRE_ONLY;
	uint32_t bits = s.map_in_open ? FUSE_DAX_FMAP_MAP_IN_OPEN : 0;

	if (chance(DICE, 70))
		flags |= FUSE_AUTO_INVAL_DATA;
	if (chance(DICE, 50))
		flags |= FUSE_READDIRPLUS_AUTO;
	if (chance(DICE, 50))
		flags |= FUSE_EXPORT_SUPPORT;
	if (s.writeback)
		flags |= FUSE_WRITEBACK_CACHE;
	else if (w->on[K_PASS] && s.place != OTHER)
		flags |= FUSE_PASSTHROUGH;
	out.flags = flags;
	out.flags2 = flags >> 32;
	if (s.place != OTHER) {
		memcpy((char *)&out + FUSE_DAX_FMAP_INIT_OUT_FLAGS, &bits, sizeof(bits));
		strcpy((char *)&out + FUSE_DAX_FMAP_INIT_OUT_NAME, SCRIPTED_OPS_NAME);
	}
	reply(in, 0, &out, sizeof(out));
	s.inited = true;
}

/* The map of an entry: -ENODATA, or its size. */
static int map_of(int e, struct scripted *map)
{
	static const uint32_t alloc[] = { sizeof(struct scripted), PAGE, 20000 };
	const struct area *area;

	if (e < 0)
		return -ENOENT;
	if (e >= E_P)
		return -ENODATA;
	area = &w->area[id_of_entry(e)];
	*map = fmap_linear(area->dev, area->addr, area->size);
	map->alloc = PICK(DICE, alloc);
	if (chance(DICE, 25)) {
		map->flags |= SCRIPTED_STEPS;
		map->step = PAGE << below(DICE, 10);
	}
	return sizeof(*map);
}

static void reply_get_fmap(const struct fuse_in_header *in)
{
	struct scripted map;
	int size = map_of(entry_of(in->nodeid), &map);

	reply(in, size < 0 ? size : 0, &map, size < 0 ? 0 : size);
}

static bool may_pass_through(const struct fuse_open_in *arg)
{
	return (arg->flags & O_ACCMODE) == O_RDONLY || !kernel_has_lockdep();
}

/* The map that a server without ops sends: of memory that no file has. */
static int map_of_a_stranger(struct scripted *map)
{
	const struct area *area = &w->area[SECRET + below(DICE, 2) * AREAS];

	*map = fmap_linear(area->dev, area->addr, area->size);
	return sizeof(*map);
}

static void reply_open(const struct fuse_in_header *in, const struct fuse_open_in *arg)
{
	struct {
		struct fuse_entry_out entry;
		struct fuse_open_out open;
		struct fuse_open_fmap_out fmap;
	} out = { 0 };
	bool wanted = in->opcode == FUSE_OPEN && (arg->open_flags & FUSE_DAX_FMAP_OPEN_MAP);
	int e = entry_of(in->nodeid), backing;
	struct scripted map;
	void *from = &out.open;

	if (in->opcode == FUSE_CREATE) {
		bool renamed;

		e = entry_named((const char *)arg + sizeof(struct fuse_create_in), &renamed);
		if (e < 0) {
			reply(in, -EPERM, NULL, 0);
			return;
		}
		if (!s.entry[e].there || s.entry[e].renamed != renamed)
			create_entry(&s.entry[e], renamed);
		set_entry(&out.entry, e);
		from = &out.entry;
	}
	out.open.fh = e + 1;
	if (chance(DICE, 50))
		out.open.open_flags |= FOPEN_NOFLUSH;
	if (chance(DICE, 30))
		out.open.open_flags |= FOPEN_KEEP_CACHE;
	if (e >= 0 && s.place == OTHER && e < E_X)
		out.open.open_flags |= FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES;
	backing = e >= E_X && s.place != OTHER ? s.backing[e - E_X] : 0;
	if (backing > 0 && !may_pass_through(arg)) {
		reply(in, -EACCES, NULL, 0);
		return;
	}
	if (backing > 0) {
		out.open.open_flags |= FOPEN_PASSTHROUGH;
		out.open.backing_id = backing;
	}
	if (wanted) {
		if (s.place == OTHER)
			out.fmap.size = map_of_a_stranger(&map);
		else
			out.fmap.size = chance(DICE, 10) ? -ERANGE : map_of(e, &map);
		if (out.fmap.size > 0)
			memcpy(out.fmap.map, &map, out.fmap.size);
	}
	reply(in, 0, from, (char *)(wanted ? (void *)(&out + 1) : &out.fmap) - (char *)from);
}

static void reply_readdir(const struct fuse_in_header *in, const struct fuse_read_in *arg)
{
	char buf[16 * KIB], *p = buf, *end = buf + (arg->size < sizeof(buf) ? arg->size :
						   sizeof(buf));
	bool plus = in->opcode == FUSE_READDIRPLUS;

	memset(buf, 0, sizeof(buf));
	for (unsigned int e = arg->offset; e < ENTRIES; e++) {
		size_t head = plus ? offsetof(struct fuse_direntplus, dirent) : 0, len;
		struct fuse_dirent *d = (void *)(p + head);
		char name[16];

		if (!exists(e) || !s.entry[e].there)
			continue;
		name_of(e, s.entry[e].renamed, name, sizeof(name));
		len = FUSE_DIRENT_ALIGN(head + FUSE_NAME_OFFSET + strlen(name));
		if (p + len > end)
			break;
		if (plus)
			set_entry((struct fuse_entry_out *)p, e);
		d->ino = s.entry[e].nodeid;
		d->off = e + 1;
		d->type = S_IFREG >> 12;
		d->namelen = strlen(name);
		memcpy(d->name, name, strlen(name));
		p += len;
	}
	reply(in, 0, buf, p - buf);
}

static void reply_read(const struct fuse_in_header *in, const struct fuse_read_in *arg)
{
	static __thread char buf[MAX_WRITE];
	unsigned int id = id_of_entry(arg->fh - 1);
	uint64_t size = size_of_id(id), len = arg->size < sizeof(buf) ? arg->size : sizeof(buf);

	if (arg->offset >= size)
		len = 0;
	else if (len > size - arg->offset)
		len = size - arg->offset;
	stamps_fill(buf, len, id, arg->offset);
	reply(in, 0, buf, len);
}

/* Check the bytes that the kernel sends with WRITE or for RETRIEVE. */
static void compare(const char *what, int e, const void *data, size_t len, uint64_t at)
{
	uint64_t size;
	ssize_t bad;

	if (e < 0)
		return;
	size = size_of_id(id_of_entry(e));
	if (at >= size)
		return;
	if (len > size - at)
		len = size - at;
	bad = stamps_differ(data, len, id_of_entry(e), at);
	if (bad >= 0) {
		struct stamp was;

		memcpy(&was, (const char *)data + bad / sizeof(was) * sizeof(was), sizeof(was));
		broken("%s of id %u at %#lx: byte %zd is wrong (there is id %u, page %u)", what,
		       id_of_entry(e), (unsigned long)at, bad, was.id, was.page);
	}
}

static void reply_write(const struct fuse_in_header *in, const struct fuse_write_in *arg)
{
	struct fuse_write_out out = { .size = arg->size };

	compare("WRITE", arg->fh - 1, arg + 1, arg->size, arg->offset);
	reply(in, 0, &out, sizeof(out));
}

static void reply_setattr(const struct fuse_in_header *in, const struct fuse_setattr_in *arg)
{
	int e = entry_of(in->nodeid);

	if (e >= 0 && (arg->valid & FATTR_MODE))
		s.entry[e].mode = arg->mode;
	if (e >= 0 && (arg->valid & FATTR_MTIME))
		s.entry[e].mtime = arg->mtime;
	reply_attr(in, e);
}

/* A name becomes another one of the same file. */
static int rename_entry(const char *from, const char *to)
{
	bool renamed;
	int e = entry_there(from), f = entry_named(to, &renamed);

	if (e < 0)
		return -ENOENT;
	if (f != e)
		return -EXDEV;
	s.entry[e].renamed = renamed;
	return 0;
}

static void reply_get_daxdev(const struct fuse_in_header *in,
			     const struct fuse_get_daxdev_in *arg)
{
	struct fuse_get_daxdev_out out = { .index = arg->index };

	if (arg->index > 1 || !(w->place[s.place].devices >> arg->index & 1)) {
		reply(in, -ENODEV, NULL, 0);
		return;
	}
	snprintf(out.name, sizeof(out.name), "%s", daxdev[arg->index].path);
	reply(in, 0, &out, sizeof(out));
}

void answer(const struct fuse_in_header *in, const void *arg)
{
	struct fuse_statfs_out statfs = { .st = { .bsize = PAGE, .namelen = 31 } };
	struct fuse_entry_out entry;
	bool renamed;
	int e;

	switch (in->opcode) {
	case FUSE_INIT:
		reply_init(in, arg);
		break;
	case FUSE_LOOKUP:
		/* As if another client of this server had created it. */
		e = entry_named(arg, &renamed);
		if (e >= 0 && !s.entry[e].there && chance(DICE, 50))
			create_entry(&s.entry[e], renamed);
		e = entry_there(arg);
		if (e < 0) {
			reply(in, -ENOENT, NULL, 0);
			break;
		}
		set_entry(&entry, e);
		reply(in, 0, &entry, sizeof(entry));
		break;
	case FUSE_GETATTR:
		reply_attr(in, entry_of(in->nodeid));
		break;
	case FUSE_SETATTR:
		reply_setattr(in, arg);
		break;
	case FUSE_OPEN:
	case FUSE_OPENDIR:
	case FUSE_CREATE:
		reply_open(in, arg);
		break;
	case FUSE_READ:
		reply_read(in, arg);
		break;
	case FUSE_WRITE:
		reply_write(in, arg);
		break;
	case FUSE_READDIR:
	case FUSE_READDIRPLUS:
		reply_readdir(in, arg);
		break;
	case FUSE_UNLINK:
		e = entry_there(arg);
		if (e >= 0)
			s.entry[e].there = false;
		reply(in, e < 0 ? -ENOENT : 0, NULL, 0);
		break;
	case FUSE_RENAME2:
		arg = (const char *)arg + sizeof(uint64_t);
		__attribute__((fallthrough));
	case FUSE_RENAME:
		arg = (const char *)arg + sizeof(uint64_t);
		reply(in, rename_entry(arg, (const char *)arg + strlen(arg) + 1), NULL, 0);
		break;
	case FUSE_STATFS:
		reply(in, 0, &statfs, sizeof(statfs));
		break;
	case FUSE_FLUSH:
	case FUSE_RELEASE:
	case FUSE_RELEASEDIR:
	case FUSE_FSYNC:
	case FUSE_ACCESS:
	case FUSE_DESTROY:
		reply(in, 0, NULL, 0);
		break;
	case FUSE_NOTIFY_REPLY: {
		const struct fuse_notify_retrieve_in *got = arg;

		compare("RETRIEVE", entry_of(in->nodeid), got + 1, got->size, got->offset);
		break;
	}
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT:
		break;		/* have no answer */
	case FUSE_GET_FMAP:
		reply_get_fmap(in);
		break;
	case FUSE_GET_DAXDEV:
		reply_get_daxdev(in, arg);
		break;
	default:
		reply(in, -ENOSYS, NULL, 0);
	}
}
