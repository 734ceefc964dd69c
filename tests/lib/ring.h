/* SPDX-License-Identifier: GPL-2.0 */
/* io_uring without a library: one request at a time. */
#ifndef RING_H
#define RING_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

struct ring {
	int fd;
	struct io_uring_params p;
	void *rings;
	struct io_uring_sqe *sqe;
};

static inline int ring_init(struct ring *r, unsigned int flags)
{
	memset(r, 0, sizeof(*r));
	r->p.flags = flags;
	r->fd = syscall(SYS_io_uring_setup, 8, &r->p);
	if (r->fd < 0)
		return -errno;
	r->rings = mmap(NULL, r->p.cq_off.cqes + r->p.cq_entries * sizeof(struct io_uring_cqe),
			PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, IORING_OFF_SQ_RING);
	r->sqe = mmap(NULL, r->p.sq_entries * sizeof(*r->sqe), PROT_READ | PROT_WRITE,
		      MAP_SHARED, r->fd, IORING_OFF_SQES);
	return r->rings == MAP_FAILED || r->sqe == MAP_FAILED ? -ENOMEM : 0;
}

static inline unsigned int *ring_at(struct ring *r, unsigned int offset)
{
	return (void *)((char *)r->rings + offset);
}

static inline void ring_submit(struct ring *r, struct io_uring_sqe sqe)
{
	unsigned int tail = *ring_at(r, r->p.sq_off.tail);
	unsigned int at = tail & *ring_at(r, r->p.sq_off.ring_mask);

	r->sqe[at] = sqe;
	ring_at(r, r->p.sq_off.array)[at] = at;
	__atomic_store_n(ring_at(r, r->p.sq_off.tail), tail + 1, __ATOMIC_RELEASE);
	syscall(SYS_io_uring_enter, r->fd, 1, 0, 0, NULL, 0);
}

/* Has a request completed? */
static inline bool ring_ready(struct ring *r)
{
	return *ring_at(r, r->p.cq_off.head) !=
		__atomic_load_n(ring_at(r, r->p.cq_off.tail), __ATOMIC_ACQUIRE);
}

static inline int ring_wait(struct ring *r)
{
	unsigned int *head = ring_at(r, r->p.cq_off.head);
	struct io_uring_cqe *cqe = (void *)ring_at(r, r->p.cq_off.cqes);
	int res;

	while (!ring_ready(r))
		if (syscall(SYS_io_uring_enter, r->fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0 &&
		    errno != EINTR)
			return -errno;
	res = cqe[*head & *ring_at(r, r->p.cq_off.ring_mask)].res;
	__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
	return res;
}

static inline int ring_do(struct ring *r, struct io_uring_sqe sqe)
{
	ring_submit(r, sqe);
	return ring_wait(r);
}

static inline void ring_free(struct ring *r)
{
	close(r->fd);
}

#define sqe(op, file, buf, length, offset, ...)				\
	((struct io_uring_sqe){ .opcode = op, .fd = file, .addr = (uintptr_t)(buf),	\
				.len = length, .off = offset, __VA_ARGS__ })

#endif /* RING_H */
