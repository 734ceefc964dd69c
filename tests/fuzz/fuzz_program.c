// SPDX-License-Identifier: GPL-2.0
/*
 * A BPF program that gives any answer.
 *
 * The test chooses each field that a program may fill in: the file's map contains what
 * dax_fmap_parse() reports, and each call of iomap_begin() takes the next answer of an array that
 * was filled just before (bpf/fuzz.h). Most answers are nearly right, some are another mapping of
 * the same page than before, some are junk.
 *
 * A model computes the right result. It has the rules of the UAPI header, and no code of the
 * kernel: which answers are valid (validate()), which page of a device belongs to which page of a
 * file (entry, owner_of), and what is on the devices (shadow, read with a BPF program). It checks
 * the arguments that the program was called with. So it knows the result of each access: data, and
 * from where; the program's errno; EIO; or SIGBUS.
 *
 * 1,000,000 mappings by hand: FUZZ_COUNT=1000000 ./fuzz_program; see fuzz.h.
 *
 * The file is long because every access changes the model.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"
#include "rounds.h"
#include "bpf/fuzz.h"

#define COUNT		20000		/* mappings, in make check */
#define PER_ROUND	1500		/* mappings of one mount, about */
#define FILES		8
#define WINDOW		4096		/* pages of a file that are used */
#define WINDOW_BYTES	(WINDOW * PAGE)
#define HUGE_PAGES	(HUGE / PAGE)
#define RW_PAGES	100
#define POKES		4
/*
 * Calls in one touch: for 2 MiB, fast and through DAX, before and after a collapse, which calls,
 * too; then for the page, fast and through DAX.
 */
#define CALLS_MAX	6

static struct fuzz_calls *calls;
static struct rng rng, *r = &rng;
static int zero;

/* ---- the model ---- */

/* A page of a device: the device in bit 31, and the page's number plus 1. */
typedef uint32_t spot;
#define SPOT_DEV	0x80000000U
#define SPOTS		(1U << 18)	/* 1 GiB of each device */

struct file {
	char		name[8];
	struct fuzz_parse map;
	uint64_t	size;		/* in its attributes */
	uint64_t	base;		/* where the window begins */
	uint64_t	home;		/* the byte of the device for offset 0; may wrap */
	uint32_t	home_dev;
	int		fd;		/* -1: not open */
	bool		huge;		/* mostly mapped by PMD entries */
	spot		entry[WINDOW];	/* where a fault has mapped it; 0: not mapped */
	bool		is_huge[WINDOW / HUGE_PAGES];	/* by a PMD entry */
	bool		dirty[WINDOW];	/* of a PMD entry: its first page */
};

static struct file file[FILES];
static uint8_t owner_of[2][SPOTS];		/* number of the file, plus 1 */
static unsigned char *shadow[2][SPOTS];

static struct {
	uint64_t reads, writes, touches, opens, evictions;
	uint64_t good, refused, errors, sigbus, refused_opens, huge, collapses, holes, fast;
} seen;

/* The contents of a hole. */
static unsigned char zeros[PAGE];

static int dev_of(spot s)
{
	return !!(s & SPOT_DEV);
}

static uint32_t page_of(spot s)
{
	return (s & ~SPOT_DEV) - 1;
}

static spot spot_at(uint32_t dev, uint64_t addr)
{
	return (dev ? SPOT_DEV : 0) | (addr / PAGE + 1);
}

/* The contents of a page of a device. */
static unsigned char *content(spot s)
{
	unsigned char **page = &shadow[dev_of(s)][page_of(s)];

	if (!*page) {
		*page = malloc(PAGE);
		if (dax_peek(&daxdev[dev_of(s)], page_of(s) * PAGE, *page, PAGE))
			wrong("a page of the device cannot be read");
	}
	return *page;
}

static void compare_with_device(spot s)
{
	unsigned char now[PAGE];

	if (dax_peek(&daxdev[dev_of(s)], page_of(s) * PAGE, now, PAGE) ||
	    memcmp(now, content(s), PAGE))
		wrong("page %#x of device %d is not what it should be", page_of(s),
		      dev_of(s));
}

static uint64_t page_end(uint64_t byte)
{
	return (byte + PAGE - 1) & ~(PAGE - 1);
}

/* Where the data of a file end. */
static uint64_t end_of(const struct file *f)
{
	return f->size < f->map.file_size ? f->size : f->map.file_size;
}

static int user_errno(int ret)
{
	return ret < 0 && ret > -512 ? -ret : EIO;
}

/* A program cannot report failed memory, or a bad buffer: only the module can. */
static int begin_errno(int ret)
{
	return ret == -EHWPOISON || ret == -EFAULT ? EIO : user_errno(ret);
}

/* An answer, checked by the rules of the UAPI header. */
struct claim {
	int		error;		/* 0: data */
	bool		is_hole;
	spot		spot;		/* where file_offset is */
	uint64_t	addr;
	uint64_t	length;		/* cut at the end of the file */
};

static struct claim validate(const struct file *f, const struct fuzz_question *q,
			     const struct fuzz_answer *a)
{
	uint64_t addr = a->flags & FUZZ_ADDR ? a->addr : 0;
	uint64_t length = a->flags & FUZZ_LENGTH ? a->length : 0;
	uint32_t dev = a->flags & FUZZ_DEV ? a->dev_index : 0;
	uint16_t type = a->flags & FUZZ_TYPE ? a->type : FUSE_IOMAP_MAPPED;
	uint64_t left = page_end(f->map.file_size) - q->file_offset;
	struct claim c = { .error = EIO };

	if (a->flags & FUZZ_ADDR && a->flags & FUZZ_RELATIVE)
		addr += q->file_offset;
	if (a->ret) {
		c.error = begin_errno(a->ret);
		return c;
	}
	if (!length || length % PAGE)
		return c;
	c.length = length < left ? length : left;
	if (type == FUSE_IOMAP_HOLE) {
		c.is_hole = true;
		c.error = 0;
		return c;
	}
	if (type != FUSE_IOMAP_MAPPED || addr % PAGE)
		return c;
	if (dev > 1 || !(f->map.dev_bitmap >> dev & 1))
		return c;
	if (addr >= daxdev[dev].size || length > daxdev[dev].size - addr)
		return c;
	c.error = 0;
	c.spot = spot_at(dev, addr);
	c.addr = addr;
	return c;
}

/* Checks that the program was called with the arguments that the UAPI header promises. */
static void check_question(const struct file *f, const struct fuzz_question *q,
			   uint64_t offset, uint64_t wanted)
{
	uint32_t meta = f->map.alloc <= FUSE_DAX_FMAP_META_MAX ? f->map.alloc : 0;
	uint64_t left = page_end(f->map.file_size) - offset;

	if (wanted > left)
		wanted = left;
	if (q->file_offset != offset || q->length != wanted || q->io_offset != offset ||
	    q->file_size != f->map.file_size || q->meta_buf_size != meta ||
	    q->cookie != (meta < sizeof(q->cookie) ? FUZZ_NO_META : f->map.cookie) ||
	    q->type_flags)
		wrong("%s: asked for %#llx+%#llx of %#llx with %u bytes of metadata (%#x), "
		      "instead of %#lx+%#lx of %#llx with %u (%#x)",
		      f->name, q->file_offset, q->length, q->file_size, q->meta_buf_size,
		      q->cookie, offset, wanted, f->map.file_size, meta, f->map.cookie);
}

/* ---- answers ---- */

static uint64_t some_length(const struct file *f, uint64_t max)
{
	switch (below(r, 6)) {
	case 0:
		return PAGE;
	case 1:
		return PAGE * (1 + below(r, 16));
	case 2:
		return HUGE;
	case 3:
		return HUGE - PAGE + 2 * PAGE * below(r, 2);
	default:
		return max;
	}
}

static uint64_t edge(uint64_t size)
{
	const uint64_t edges[] = {
		0, 1, PAGE - 1, PAGE, PAGE + 1, 2048, size, size - PAGE, size - PAGE + 1,
		size + PAGE, LLONG_MAX, 1ULL << 63, -PAGE, ~0ULL,
	};

	return chance(r, 70) ? PICK(r, edges) : odd_number(r);
}

static struct fuzz_answer make_answer(const struct file *f)
{
	static const int rets[] = { 1, INT_MAX, INT_MIN, -512, -4095, -513, -511, -1 };
	static const uint32_t devs[] = { 0, 1, 2, 31, 32, 63, 64, 65, 1U << 31, ~0U };
	uint64_t size = daxdev[f->home_dev].size;
	struct fuzz_answer a = {
		.addr = f->home,
		.length = some_length(f, 8 * MIB),
		.dev_index = f->home_dev,
		.flags = FUZZ_ALL | FUZZ_RELATIVE,
	};

	if (chance(r, 80))
		return a;
	switch (below(r, 11)) {
	case 0:		/* moved a little */
		a.addr += PAGE * (below(r, 5) - 2);
		break;
	case 1:		/* moved by huge pages */
		a.addr += HUGE * (below(r, 5) - 2);
		break;
	case 2:		/* where another file is */
		a.addr = file[below(r, FILES)].home;
		break;
	case 3:
		a.length = edge(size);
		break;
	case 4:		/* one place for all offsets */
		a.flags &= ~FUZZ_RELATIVE;
		a.addr = edge(size);
		break;
	case 5:
		a.addr += edge(size);
		break;
	case 6:
		a.dev_index = chance(r, 80) ? PICK(r, devs) : rnd(r);
		break;
	case 7:
		a.ret = chance(r, 50) ? -1 - (int)below(r, 511) : PICK(r, rets);
		break;
	case 8:		/* not all is filled in; or everything is junk */
		a.flags = below(r, 32);
		if (chance(r, 50))
			a = (struct fuzz_answer){
				edge(size), edge(size), PICK(r, devs), 0, FUZZ_ALL, below(r, 3),
			};
		break;
	case 9:		/* a hole, of which only the length counts */
		a.type = FUSE_IOMAP_HOLE;
		if (chance(r, 50)) {
			a.addr = edge(size);
			a.dev_index = rnd(r);
		}
		break;
	case 10:
		a.type = chance(r, 50) ? below(r, 8) : rnd(r);
		break;
	}
	return a;
}

static void prepare(const struct file *f, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++)
		calls->answer[(calls->asked + i) % FUZZ_CALLS] = make_answer(f);
}

/* ---- read(2) and write(2) ---- */

static uint64_t some_offset(const struct file *f)
{
	uint64_t end = end_of(f), at = below(r, WINDOW_BYTES);

	if (chance(r, 30) && end > f->base && end - f->base < WINDOW_BYTES) {
		at = end - f->base + below(r, 3 * PAGE) - below(r, 3 * PAGE);
		at = at < WINDOW_BYTES ? at : 0;
	} else if (chance(r, 70)) {		/* where other accesses were */
		at = at % (3 * MIB);
	}
	return f->base + (chance(r, 30) ? at & ~(PAGE - 1) : at);
}

static void read_or_write(struct file *f, bool writes)
{
	static unsigned char buf[(RW_PAGES + 1) * PAGE], want[sizeof(buf)];
	uint64_t pos = some_offset(f), end = end_of(f), first = calls->asked;
	size_t len, done = 0, part;
	struct iovec iov[2];
	spot written = 0;
	int error = 0;
	ssize_t ret;

	len = chance(r, 60) ? below(r, 200) : chance(r, 80) ? below(r, 4 * PAGE) :
	      below(r, RW_PAGES * PAGE);
	if (len > LLONG_MAX - pos)
		len = LLONG_MAX - pos;
	prepare(f, len / PAGE + 3);
	for (size_t i = 0; i < len; i++)
		buf[i] = writes ? pos + i * 7 + first : 0xee;
	memcpy(want, buf, len);

	part = len ? below(r, len + 1) : 0;
	iov[0] = (struct iovec){ buf, part };
	iov[1] = (struct iovec){ buf + part, len - part };
	ret = writes ? pwritev(f->fd, iov, 2, pos) : preadv(f->fd, iov, 2, pos);
	if (ret < 0)
		error = errno;

	/* What should have happened, piece by piece. */
	if (len && pos >= end)
		error -= writes ? ENOSPC : 0;
	else if (len > end - pos)
		len = end - pos;
	for (; pos < end && done < len; first++) {
		const struct fuzz_question *q = &calls->question[first % FUZZ_CALLS];
		uint64_t at = pos + done, offset = at & ~(PAGE - 1);
		struct claim c;
		size_t n;

		if (first == calls->asked) {
			wrong("%s: %s at %#lx+%#lx: the program was not asked about %#lx",
			      f->name, writes ? "write" : "read", pos, len, at);
			return;
		}
		check_question(f, q, offset, page_end(at - offset + len - done));
		c = validate(f, q, &calls->answer[first % FUZZ_CALLS]);
		if (writes && !c.error && c.is_hole)
			c.error = ENOSPC;
		if (c.error) {
			seen.refused++;
			if (!done) {
				error -= c.error;
				seen.errors++;
			}
			first++;
			break;
		}
		seen.good++;
		n = c.length - (at - offset);
		n = n < len - done ? n : len - done;
		for (size_t i = 0, m; i < n; i += m) {
			uint64_t byte = at - offset + i;
			unsigned char *data = c.is_hole ? zeros :
					      content(c.spot + byte / PAGE);

			m = PAGE - byte % PAGE;
			m = m < n - i ? m : n - i;
			if (writes)
				memcpy(data + byte % PAGE, buf + done + i, m);
			else
				memcpy(want + done + i, data + byte % PAGE, m);
			if (writes && chance(r, 10))
				written = c.spot + byte / PAGE;
		}
		done += n;
	}
	/* Compared at the end, as one write may store to a page more than once. */
	if (written)
		compare_with_device(written);
	/* After no progress or a short write the kernel asks again: has memory failed? */
	if (done < len && pos < end && (writes || !done) && first != calls->asked)
		check_question(f, &calls->question[first++ % FUZZ_CALLS],
			       (pos + done) & ~(PAGE - 1), PAGE);
	if (first != calls->asked)
		wrong("%s: %s at %#lx+%#lx: %lu calls too many", f->name,
		      writes ? "write" : "read", pos, len, (long)(calls->asked - first));
	if (ret > 0 ? ret != done || error : done || error)
		wrong("%s: %s at %#lx+%#lx: %ld (%s) instead of %lu (off by %d)", f->name,
		      writes ? "write" : "read", pos, len, ret, strerror(errno), done, error);
	if (!writes && memcmp(buf, want, sizeof(buf) < len ? sizeof(buf) : len))
		wrong("%s: read at %#lx+%#lx: other data", f->name, pos, len);
}

/* ---- faults ---- */

static sigjmp_buf env;

static void on_signal(int sig)
{
	siglongjmp(env, sig);
}

/* Returns 0 or the signal. EFAULT of a system call counts as SIGBUS. */
static int poke(volatile unsigned char *p, int value, bool by_kernel)
{
	int sig;

	if (by_kernel)		/* writes a zero */
		return read(zero, (void *)p, 1) == 1 ? 0 : errno == EFAULT ? SIGBUS : -1;
	sig = sigsetjmp(env, 0);
	if (!sig) {
		if (value < 0)
			(void)*p;
		else
			*p = value;
	}
	return sig;
}

static unsigned int number(const struct file *f)
{
	return f - file + 1;
}

/* Returns true if @pages pages of @f, from @page on, may be mapped to those from @s on. */
static bool may_map(const struct file *f, uint64_t page, spot s, unsigned int pages)
{
	if (f->entry[page] && (pages == 1 || f->is_huge[page / HUGE_PAGES]))
		return f->entry[page] == s;
	for (unsigned int i = 0; i < pages; i++)
		/* Not while some of them are mapped by PTE entries either. */
		if (owner_of[dev_of(s)][page_of(s) + i] || f->entry[page + i])
			return false;
	return true;
}

/* The same for 2 MiB, after their PTE entries, if they map to the same place, are dropped. */
static bool may_collapse(const struct file *f, uint64_t page, spot s)
{
	for (unsigned int i = 0; i < HUGE_PAGES; i++) {
		unsigned int owner = owner_of[dev_of(s)][page_of(s) + i];

		if (owner && owner != number(f))
			return false;
		if (f->entry[page + i] && f->entry[page + i] != s + i)
			return false;
	}
	return !f->is_huge[page / HUGE_PAGES];
}

static void map(struct file *f, uint64_t page, spot s, unsigned int pages)
{
	for (unsigned int i = 0; i < pages; i++) {
		f->entry[page + i] = s + i;
		owner_of[dev_of(s)][page_of(s) + i] = number(f);
	}
	if (pages == HUGE_PAGES)
		f->is_huge[page / HUGE_PAGES] = true;
}

static void give_up(struct file *f, uint64_t page, unsigned int pages)
{
	for (unsigned int i = 0; i < pages; i++) {
		spot s = f->entry[page + i];

		if (s)
			owner_of[dev_of(s)][page_of(s)] = 0;
		f->entry[page + i] = 0;
		f->dirty[page + i] = false;
		f->is_huge[(page + i) / HUGE_PAGES] = false;
	}
}

struct copy {
	uint64_t	page;
	unsigned char	*data;
};

/* A place that is a hole. */
#define HOLE		(~0U)

/* Returns true if the fast fault can use the answer: the file is mapped there already. */
static bool is_fast(const struct file *f, const struct claim *c, uint64_t page,
		    unsigned int pages, bool stores, bool room)
{
	bool is_huge = f->is_huge[page / HUGE_PAGES];
	uint64_t start = page & ~(HUGE_PAGES - 1);

	if (c->error || c->is_hole || c->length < pages * PAGE || !f->entry[page] ||
	    f->entry[page] != c->spot || (stores && !f->dirty[is_huge ? start : page]))
		return false;
	/* A PTE fault uses a page of a PMD entry only where a PMD mapping does not fit. */
	return pages == 1 ? !is_huge || !room : is_huge;
}

/*
 * A PMD fault is one call of the program for all of the 2 MiB. If PTE entries are there, a good
 * answer has them dropped, and the program is called again. If no answer can be used, for whatever
 * reason, the program is called for the page alone, unless the page is beyond the end of the file.
 * The last answer counts. Each size begins with a call for the fast fault, which counts only if
 * the file is mapped to that place already, and is dirty there if the access is a store; for the
 * page of a private copy there is none. Returns the place, HOLE, or 0 for SIGBUS; and how many
 * pages it mapped there.
 *
 * @room: a mapping of 2 MiB would fit
 */
static spot fault(struct file *f, uint64_t page, bool stores, bool copies, bool room,
		  uint64_t first, unsigned int *pages)
{
	bool beyond = f->base + page * PAGE >= end_of(f);
	bool fast_huge = true, fast_page = !copies;
	uint64_t start = page & ~(HUGE_PAGES - 1);
	spot at = 0;

	for (; first != calls->asked; first++) {
		const struct fuzz_question *q = &calls->question[first % FUZZ_CALLS];
		struct claim c = validate(f, q, &calls->answer[first % FUZZ_CALLS]);
		bool is_last = first + 1 == calls->asked;
		bool is_huge = beyond || q->length > PAGE ||
			       q->file_offset != f->base + page * PAGE;
		bool *fast = is_huge ? &fast_huge : &fast_page;

		if (at)
			wrong("%s: page %#lx: asked again", f->name, page);
		*pages = is_huge ? HUGE_PAGES : 1;
		if (*fast) {
			*fast = false;
			check_question(f, q, f->base + (is_huge ? start : page) * PAGE,
				       *pages * PAGE);
			if (is_fast(f, &c, is_huge ? start : page, *pages, stores, room)) {
				at = f->entry[page];
				seen.fast++;
			}
			continue;
		}
		if (!c.error && c.is_hole) {
			check_question(f, q, f->base + (is_huge ? start : page) * PAGE,
				       *pages * PAGE);
			if (c.length < *pages * PAGE || (stores && !copies) ||
			    f->entry[is_huge ? start : page]) {
				seen.refused++;
			} else if (is_last) {
				at = HOLE;
				seen.holes++;
			}
			continue;
		}
		if (is_huge) {
			check_question(f, q, f->base + start * PAGE, HUGE);
			if (c.error || c.length < HUGE ||
			    (daxdev[dev_of(c.spot)].phys + c.addr) % HUGE) {
				seen.refused++;
				continue;
			}
			if (!is_last && may_collapse(f, start, c.spot)) {
				give_up(f, start, HUGE_PAGES);
				seen.collapses++;
				continue;
			}
			if (!may_map(f, start, c.spot, HUGE_PAGES)) {
				seen.refused++;
				continue;
			}
			map(f, start, c.spot, HUGE_PAGES);
			f->dirty[start] |= stores && !copies;
			seen.huge++;
			at = f->entry[page];
		} else {
			check_question(f, q, f->base + page * PAGE, PAGE);
			if (c.error || !may_map(f, page, c.spot, 1)) {
				seen.refused++;
				continue;
			}
			at = c.spot;
			if (!copies) {
				map(f, page, at, 1);
				f->dirty[f->is_huge[page / HUGE_PAGES] ? start : page] |= stores;
			}
		}
		seen.good++;
	}
	return at;
}

static void touch_pages(struct file *f)
{
	bool is_private = chance(r, 25), is_huge = chance(r, f->huge ? 95 : 10);
	uint64_t start = (some_offset(f) - f->base) / PAGE, pages, page;
	struct copy copy[POKES] = { 0 };
	bool hole[2 * HUGE_PAGES] = { 0 };	/* mapped as holes by these pokes */
	unsigned char *p;

	pages = is_huge ? HUGE_PAGES * (1 + below(r, 2)) : 1 + below(r, 8);
	if (is_huge)
		start &= ~(HUGE_PAGES - 1);
	if (start + pages > WINDOW)
		pages = WINDOW - start;
	p = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
		 is_private ? MAP_PRIVATE : MAP_SHARED, f->fd, f->base + start * PAGE);
	if (p == MAP_FAILED) {
		if (errno != EOVERFLOW || !f->base)
			wrong("%s: mmap: %s", f->name, strerror(errno));
		return;
	}

	page = start + below(r, pages);
	for (int i = 0; i < POKES && !broken; i++) {
		bool by_kernel = chance(r, 10);
		int value = by_kernel ? 0 : chance(r, 50) ? (int)below(r, 256) : -1;
		bool copies = is_private && value >= 0;
		unsigned int byte = below(r, PAGE), sig;
		unsigned char *at, *data = NULL;
		unsigned int mapped = 1;
		uint64_t huge_start;
		bool room;
		struct copy *own = copy;
		uint64_t first = calls->asked;
		spot s;

		if (chance(r, 40))
			page = start + below(r, pages);
		huge_start = page & ~(HUGE_PAGES - 1);
		room = huge_start >= start && huge_start + HUGE_PAGES <= start + pages &&
		       ((uintptr_t)p / PAGE - start) % HUGE_PAGES == 0;
		/* The file ends here: a call for the 2 MiB looks like one for the page. */
		if (room && page == huge_start &&
		    f->base + (page + 1) * PAGE >= page_end(f->map.file_size))
			continue;
		at = p + (page - start) * PAGE + byte;
		while (own->data && own->page != page)
			own++;
		prepare(f, CALLS_MAX + 1);
		sig = poke(at, value, by_kernel);
		if (calls->asked - first > CALLS_MAX)
			wrong("%s: page %#lx: %lu calls", f->name, page,
			      (long)(calls->asked - first));

		/* The byte is in a copy, where it was mapped before, or where it is mapped now. */
		if (own->data && first == calls->asked) {
			data = own->data;
		} else {
			if (first != calls->asked)
				s = fault(f, page, value >= 0, copies, room, first, &mapped);
			else
				s = f->entry[page] ?: hole[page - start] ? HOLE : 0;
			if (s == HOLE && mapped > 1)
				memset(hole + ((page - start) & ~(HUGE_PAGES - 1)), 1, HUGE_PAGES);
			else if (s == HOLE && !copies)
				hole[page - start] = true;
			data = s == HOLE ? zeros : s ? content(s) : NULL;
		}
		if (sig != (data ? 0 : SIGBUS))
			wrong("%s: page %#lx: signal %u instead of %d after %lu calls",
			      f->name, page, sig, data ? 0 : SIGBUS,
			      (long)(calls->asked - first));
		if (!data || broken) {
			seen.sigbus++;
			continue;
		}
		if (copies && !own->data) {
			own->page = page;
			own->data = malloc(PAGE);
			memcpy(own->data, data, PAGE);
			data = own->data;
		}
		if (value >= 0 && data != zeros)
			data[byte] = value;
		if (*at != data[byte] ||
		    (chance(r, 20) && memcmp(at - byte, data, PAGE)))
			wrong("%s: page %#lx: other data", f->name, page);
	}
	for (int i = 0; i < POKES; i++)
		free(copy[i].data);
	munmap(p, pages * PAGE);
}

/* ---- files ---- */

static uint64_t some_size(void)
{
	static const uint64_t sizes[] = {
		WINDOW_BYTES, WINDOW_BYTES - 1, 1, PAGE - 1, PAGE, PAGE + 1, HUGE - 1, HUGE,
		HUGE + 1, 5 * MIB + 3, 16 * MIB * MIB, 16 * MIB * MIB - 1, LLONG_MAX,
		LLONG_MAX - PAGE + 1, LLONG_MAX - 1,
	};

	switch (below(r, 4)) {
	case 0:
		return PICK(r, sizes);
	case 1:
		return 1 + below(r, WINDOW_BYTES);
	default:
		return WINDOW_BYTES - below(r, 2) * below(r, HUGE);
	}
}

static void make_map(struct file *f)
{
	static const uint32_t allocs[] = {
		0, 1, 3, 4, 8, 64, 4096, 4097, 65535, 65536, 65537, ~0U,
	};
	uint64_t last, home;

	f->map = (struct fuzz_parse){
		.alloc = chance(r, 50) ? 64 : PICK(r, allocs),
		.file_size = some_size(),
		.dev_bitmap = chance(r, 60) ? 3 : 1 + below(r, 2),
		.cookie = rnd(r) | 1,
	};
	switch (below(r, 20)) {
	case 0:
		f->map.ret = chance(r, 50) ? -1 - (int)below(r, 511) : (int)rnd(r);
		break;
	case 1:
		f->map.dev_bitmap = odd_number(r);
		break;
	case 2:
		f->map.file_size = odd_number(r);
		break;
	}
	f->size = chance(r, 70) ? f->map.file_size : some_size();
	if (f->size > LLONG_MAX)
		f->size = LLONG_MAX;
	last = f->map.file_size;
	f->base = 0;
	if (last > WINDOW_BYTES && last <= LLONG_MAX && chance(r, 90))
		f->base = (page_end(last) - WINDOW_BYTES) & ~(HUGE - 1);

	/* Most files have memory of their own. */
	f->home_dev = f->map.dev_bitmap & 1 ? f->map.dev_bitmap & 2 ? (f - file) % 2 : 0 : 1;
	home = (chance(r, 80) ? (f - file) / 2 : below(r, 4)) * WINDOW_BYTES;
	if (home == 3 * WINDOW_BYTES)
		home = daxdev[f->home_dev].size - WINDOW_BYTES;
	f->huge = chance(r, 60);
	if (!f->huge && chance(r, 60) && home < 3 * WINDOW_BYTES)
		home += PAGE * (1 + below(r, HUGE_PAGES));
	f->home = home - f->base;
}

static int expected_open(const struct fuzz_parse *m)
{
	if (m->ret)
		return -user_errno(m->ret);
	if (m->file_size > LLONG_MAX || (!m->dev_bitmap && m->file_size))
		return -EINVAL;
	return m->dev_bitmap >> 2 ? -ENODEV : 0;
}

static void open_file(struct fuse_server *s, struct file *f)
{
	int ret;

	f->fd = -1;
	for (int tries = 0; tries < 10 && f->fd < 0 && !broken; tries++) {
		struct fs_file *on_server = &s->file[f - file];

		/* A failed open leaves the inode with its size, but without a map. */
		make_map(f);
		if (tries)
			f->size = on_server->size;
		on_server->size = f->size;
		ret = fs_open(s, f->name, O_RDWR);
		seen.opens++;
		seen.refused_opens += ret < 0;
		if (ret >= 0)
			f->fd = ret;
		if ((ret < 0 ? ret : 0) != expected_open(&f->map))
			wrong("%s: open: %d instead of %d (ret %d, size %#llx, devices %#llx)",
			      f->name, ret, expected_open(&f->map), f->map.ret,
			      f->map.file_size, f->map.dev_bitmap);
	}
}

static long mapped_files(void)
{
	char buf[4096] = "", *at;

	read_file("/sys/kernel/debug/" MODULE_NAME "/mounts", buf, sizeof(buf));
	at = strstr(buf, "files=");
	return at ? strtol(at + 6, NULL, 10) : 0;
}

/* Evict the inode: the kernel keeps no entries of the file. */
static void evict(struct fuse_server *s, struct file *f)
{
	struct {
		struct fuse_out_header out;
		struct fuse_notify_inval_entry_out entry;
		char name[8];
	} msg = {
		.out = { .error = FUSE_NOTIFY_INVAL_ENTRY },
		.entry = { .parent = FUSE_ROOT_ID, .namelen = strlen(f->name) },
	};
	long files = mapped_files();

	strcpy(msg.name, f->name);
	msg.out.len = sizeof(msg.out) + sizeof(msg.entry) + msg.entry.namelen + 1;
	if (f->fd >= 0)
		close(f->fd);
	if (write(s->fd, &msg, msg.out.len) != (ssize_t)msg.out.len)
		wrong("INVAL_ENTRY: %s", strerror(errno));
	/* The inode is held until the server has answered RELEASE. */
	for (int ms = 0; f->fd >= 0 && mapped_files() >= files; ms++) {
		if (ms == FS_PATIENCE) {
			wrong("%s is not evicted", f->name);
			break;
		}
		usleep(1000);
	}
	f->fd = -1;
	give_up(f, 0, WINDOW);
	seen.evictions++;
}

static void one_round(void)
{
	struct fuse_server *s = fmap_server(FUZZ_OPS_NAME);
	uint64_t first = calls->asked;
	long refs = module_refs();
	int err;

	rng = fuzz_rng(&run, 0);
	if (!s) {
		wrong("there is no server");
		return;
	}
	for (int i = 0; i < FILES; i++) {
		snprintf(file[i].name, sizeof(file[i].name), "f%d", i);
		file[i].fd = -1;
		fs_add(s, file[i].name, 0, &file[i].map, sizeof(file[i].map));
	}
	err = fs_mount(s);
	if (err)
		wrong("mount: %s", strerror(-err));
	for (int i = 0; i < FILES && !broken; i++)
		open_file(s, &file[i]);
	for (int n = 0; n < 2 * PER_ROUND && calls->asked - first < PER_ROUND && !broken; n++) {
		struct file *f = &file[below(r, FILES)];

		if (f->fd < 0 || chance(r, 1)) {
			evict(s, f);
			open_file(s, f);
			continue;
		}
		switch (below(r, 4)) {
		case 0:
			seen.reads++;
			read_or_write(f, false);
			break;
		case 1:
			seen.writes++;
			read_or_write(f, true);
			break;
		default:
			seen.touches++;
			touch_pages(f);
		}
	}
	for (int i = 0; i < FILES; i++) {
		if (file[i].fd >= 0)
			close(file[i].fd);
		give_up(&file[i], 0, WINDOW);
	}
	if (s->count[FUSE_READ] + s->count[FUSE_WRITE] + s->malformed)
		wrong("the server was asked for data");
	err = fs_stop(s);
	if (err)
		wrong("umount: %s", strerror(-err));
	if (!module_refs_wait(refs))
		wrong("the module has %ld users instead of %ld", module_refs(), refs);
}

/* Compare all pages that the model knows with the devices. */
static void compare_all(void)
{
	for (uint32_t dev = 0; dev < 2; dev++)
		for (uint64_t page = 0; page < SPOTS && !broken; page++)
			if (shadow[dev][page])
				compare_with_device(spot_at(dev, page * PAGE));
}

static int patience(void)
{
	return 120 + fuzz_run(fuzz_count(COUNT)).count / 100;
}

FIXTURE(program) {
	struct fuzz_log log;
};

FIXTURE_SETUP(program)
{
	FMAP_REQUIRE();
	if (!daxdev[0].phys || daxdev[0].size / PAGE > SPOTS || daxdev[1].size / PAGE > SPOTS)
		SKIP(return, "the devices cannot be looked at from outside");
	ASSERT_EQ(0, fuzz_log_open(&self->log));
}

FIXTURE_TEARDOWN(program)
{
}

static uint64_t first;			/* number of calls before the run */

static uint64_t done(void)
{
	return calls->asked - first;
}

TEST_F_TIMEOUT(program, all_fields, patience())
{
	static const struct fuzzer fuzzer = { one_round, done, "mappings" };
	struct sigaction sa = { .sa_handler = on_signal, .sa_flags = SA_NODEFER };
	double start = fuzz_seconds();

	first = calls->asked;
	sigaction(SIGBUS, &sa, NULL);
	zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	run = fuzz_run(fuzz_count(COUNT));
	fuzz_rounds(&fuzzer, &self->log);
	compare_all();
	EXPECT_FALSE(broken);

	TH_LOG("seed %lu, %lu rounds, %lu mappings in %.0f s", run.seed, run.round, done(),
	       fuzz_seconds() - start);
	TH_LOG("%lu answers good (%lu of them 2 MiB faults, %lu collapses, %lu holes), %lu refused",
	       seen.good, seen.huge, seen.collapses, seen.holes, seen.refused);
	TH_LOG("%lu fast faults", seen.fast);
	TH_LOG("%lu reads and %lu writes, %lu with an error; %lu mappings touched, %lu SIGBUS",
	       seen.reads, seen.writes, seen.errors, seen.touches, seen.sigbus);
	TH_LOG("%lu opens, %lu refused; %lu evictions", seen.opens, seen.refused_opens,
	       seen.evictions);
	fuzz_log_print(&self->log);
}

int main(int argc, char **argv)
{
	dax_peek_init();
	fmap_register("fuzz.bpf.o");
	calls = (void *)fmap_seen();
	return test_harness_run(argc, argv);
}
