/* SPDX-License-Identifier: GPL-2.0 */
/* How the servers of the tests and the benchmark write to /dev/fuse. */
#ifndef FUSE_WIRE_H
#define FUSE_WIRE_H

#include <errno.h>
#include <sys/uio.h>
#include <linux/fuse.h>

/* Answer @in. The error of writev(2), 0 if the kernel took it: the opener may be gone. */
static inline int fuse_wire_reply(int fd, const struct fuse_in_header *in, int error,
				  const void *data, size_t len)
{
	struct fuse_out_header out = {
		.len = sizeof(out) + len,
		.error = error,
		.unique = in->unique,
	};
	struct iovec iov[2] = {
		{ &out, sizeof(out) }, { (void *)data, len },
	};

	return writev(fd, iov, len ? 2 : 1) < 0 ? errno : 0;
}

/* FUSE_NOTIFY_@code, with what follows its header in at most two pieces. As above. */
static inline int fuse_wire_notify(int fd, int code, const void *head, size_t head_len,
				   const void *data, size_t len)
{
	struct fuse_out_header out = {
		.len = sizeof(out) + head_len + len,
		.error = code,
	};
	struct iovec iov[3] = {
		{ &out, sizeof(out) }, { (void *)head, head_len }, { (void *)data, len },
	};

	return writev(fd, iov, len ? 3 : head_len ? 2 : 1) < 0 ? errno : 0;
}

#endif /* FUSE_WIRE_H */
