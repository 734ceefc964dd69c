/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Kernel headers that the module uses and the kernel crate does not bind.
 * bindgen reads this with the flags of the C compiler; Kbuild lists the items
 * to take from it.
 */
#include "../compat/kernel.h"

#include <linux/bpf.h>
#include <linux/bpf_verifier.h>
#include <linux/btf.h>
#include <linux/cred.h>
#include <linux/dax.h>
#include <linux/elf.h>
#include <linux/fadvise.h>
#include <linux/falloc.h>
#include <linux/fiemap.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/fs_struct.h>
#include <linux/fsnotify_backend.h>
#include <linux/hex.h>
#include <linux/iomap.h>
#include <linux/kernfs.h>
#include <linux/kobject.h>
#include <linux/leafops.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/percpu.h>
#include <linux/ratelimit.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/srcu.h>
#include <linux/sysfs.h>
#include <linux/tracepoint.h>
#include <linux/uaccess.h>
#include <linux/uio.h>
#include <asm/syscall.h>
#include <asm/unistd.h>
#include <uapi/linux/fuse.h>
#include <uapi/linux/fuse_dax_fmap.h>

#include "../fuse_dax_fmap_btf.h"

/* Exported, but declared in private headers only (drivers/dax, fs). */
struct dev_dax;
struct dax_device *inode_dax(struct inode *inode);
struct inode *dax_inode(struct dax_device *dax_dev);
phys_addr_t dax_pgoff_to_phys(struct dev_dax *dev_dax, pgoff_t pgoff, unsigned long size);
struct file *alloc_empty_backing_file(int flags, const struct cred *cred,
				      const struct file *user_file);
void backing_file_set_user_path(struct file *f, const struct path *path);

/* Macros with casts, which bindgen does not evaluate. Kbuild strips the prefix. */
const fmode_t RUST_CONST_HELPER_FMODE_BACKING = FMODE_BACKING;
const fmode_t RUST_CONST_HELPER_FMODE_CAN_ODIRECT = FMODE_CAN_ODIRECT;
const fmode_t RUST_CONST_HELPER_FMODE_CAN_READ = FMODE_CAN_READ;
const fmode_t RUST_CONST_HELPER_FMODE_FSNOTIFY_MASK = FMODE_FSNOTIFY_MASK;
const fmode_t RUST_CONST_HELPER_FMODE_NONOTIFY = FMODE_NONOTIFY;
const fmode_t RUST_CONST_HELPER_FMODE_OPENED = FMODE_OPENED;
const fmode_t RUST_CONST_HELPER_FMODE_READ = FMODE_READ;
const fmode_t RUST_CONST_HELPER_FMODE_WRITE = FMODE_WRITE;
const fmode_t RUST_CONST_HELPER_FMODE_NOWAIT = FMODE_NOWAIT;
const fop_flags_t RUST_CONST_HELPER_FOP_BUFFER_WASYNC = FOP_BUFFER_WASYNC;
const int RUST_CONST_HELPER_IOCB_DSYNC = IOCB_DSYNC;
const int RUST_CONST_HELPER_IOCB_NOWAIT = IOCB_NOWAIT;
const fop_flags_t RUST_CONST_HELPER_FOP_MMAP_SYNC = FOP_MMAP_SYNC;
const xa_mark_t RUST_CONST_HELPER_PAGECACHE_TAG_DIRTY = PAGECACHE_TAG_DIRTY;
const xa_mark_t RUST_CONST_HELPER_PAGECACHE_TAG_TOWRITE = PAGECACHE_TAG_TOWRITE;
const gfp_t RUST_CONST_HELPER_XA_FLAGS_ACCOUNT = XA_FLAGS_ACCOUNT;
const gfp_t RUST_CONST_HELPER_XA_FLAGS_MARK_DIRTY = XA_FLAGS_MARK(PAGECACHE_TAG_DIRTY);
const gfp_t RUST_CONST_HELPER_XA_FLAGS_MARK_WRITEBACK = XA_FLAGS_MARK(PAGECACHE_TAG_WRITEBACK);

/* A macro without arguments. */
static inline void fuse_dax_fmap_pmem_wmb(void)
{
	pmem_wmb();
}

/* Macros with casts. */
static inline struct page *fuse_dax_fmap_page(unsigned long pfn)
{
	return pfn_to_page(pfn);
}

/* Returns true if the current system call is a 64-bit umount(2) without MNT_DETACH. */
static inline bool fuse_dax_fmap_in_umount(void)
{
	unsigned long args[6];

	if (in_ia32_syscall() || syscall_get_nr(current, current_pt_regs()) != __NR_umount2)
		return false;
	syscall_get_arguments(current, current_pt_regs(), args);
	return !(args[1] & MNT_DETACH);
}

/* device_lock(), which does not wait once the task is being killed. */
static inline int fuse_dax_fmap_device_lock_killable(struct device *dev)
{
	return mutex_lock_killable(&dev->mutex);
}

/* Flushes one page of a device from the CPU's caches, as DAX does. */
static inline void fuse_dax_fmap_flush(struct dax_device *dax_dev, unsigned long pfn)
{
	dax_flush(dax_dev, page_address(pfn_to_page(pfn)), PAGE_SIZE);
}

/* SRCU with fast readers. Rust passes a reader's counter as an integer. */
static inline int fuse_dax_fmap_srcu_init(struct srcu_struct *srcu, const char *name,
					  struct lock_class_key *key)
{
#ifdef CONFIG_DEBUG_LOCK_ALLOC
	return __init_srcu_struct_fast(srcu, name, key);
#else
	return init_srcu_struct_fast(srcu);
#endif
}

static inline uintptr_t fuse_dax_fmap_srcu_read_lock(struct srcu_struct *srcu)
{
	return (uintptr_t)srcu_read_lock_fast(srcu);
}

static inline void fuse_dax_fmap_srcu_read_unlock(struct srcu_struct *srcu, uintptr_t counter)
{
	srcu_read_unlock_fast(srcu, (struct srcu_ctr __percpu *)counter);
}

/* Bytes that are copied by one SRCU reader, for which a memory failure waits. */
#define FUSE_DAX_FMAP_RW_STEP (1ul << 20)

/* dax_iomap_rw() of at most @step bytes, which ends where a page of the buffer is missing. */
static __always_inline ssize_t fuse_dax_fmap_rw_step(struct kiocb *iocb, struct iov_iter *iter,
						     size_t step, const struct iomap_ops *ops,
						     struct srcu_struct *srcu)
{
	size_t cut = iov_iter_count(iter) - step;
	struct srcu_ctr __percpu *counter;
	ssize_t ret;

	iter->count = step;
	counter = srcu_read_lock_fast(srcu);
	pagefault_disable();
	ret = dax_iomap_rw(iocb, iter, ops);
	pagefault_enable();
	srcu_read_unlock_fast(srcu, counter);
	iter->count += cut;
	return ret;
}

static noinline __cold ssize_t fuse_dax_fmap_rw_rest(struct kiocb *iocb, struct iov_iter *iter,
						     u64 max, const struct iomap_ops *ops,
						     struct srcu_struct *srcu, ssize_t done)
{
	while (max && iov_iter_count(iter) && !fatal_signal_pending(current)) {
		size_t step = min3(iov_iter_count(iter), max, FUSE_DAX_FMAP_RW_STEP);
		ssize_t ret = fuse_dax_fmap_rw_step(iocb, iter, step, ops, srcu);

		if (ret > 0)
			done += ret;
		if (ret < (ssize_t)step)
			break;
		max -= step;
	}
	return done;
}

/* The same for at most @max bytes, in steps, each as a reader of @srcu. */
static inline ssize_t fuse_dax_fmap_rw_nofault(struct kiocb *iocb, struct iov_iter *iter,
					       u64 max, const struct iomap_ops *ops,
					       struct srcu_struct *srcu)
{
	size_t step = min3(iov_iter_count(iter), max, FUSE_DAX_FMAP_RW_STEP);
	ssize_t ret = fuse_dax_fmap_rw_step(iocb, iter, step, ops, srcu);

	if (likely(ret != FUSE_DAX_FMAP_RW_STEP))
		return ret;
	return fuse_dax_fmap_rw_rest(iocb, iter, max - step, ops, srcu, ret);
}

/* copy_from_iter(), which ends where a page of the buffer is missing. */
static inline size_t fuse_dax_fmap_copy_nofault(void *to, size_t len, struct iov_iter *from)
{
	size_t ret;

	pagefault_disable();
	ret = copy_from_iter(to, len, from);
	pagefault_enable();
	return ret;
}

/*
 * Faults in up to @len bytes of a buffer, to be read or written as the iterator says. Returns how
 * many bytes were faulted in: 0, too, if the task has consumed poison in this system call, as the
 * kernel panics if it does so too often in one.
 *
 * A stack only grows by an access such as the user's own. So a buffer to be written is first read,
 * one segment at a time.
 */
static inline size_t fuse_dax_fmap_fault_in(const struct iov_iter *iter, size_t len)
{
#ifdef CONFIG_X86_MCE
	if (current->mce_count)
		return 0;
#endif
	if (iov_iter_rw(iter) != READ)
		return len - fault_in_iov_iter_readable(iter, len);
	/* An empty segment may come first. */
	len = min(len, iov_iter_single_seg_count(iter) ?: 1);
	fault_in_iov_iter_readable(iter, 1);
	return len - fault_in_iov_iter_writeable(iter, len);
}

/*
 * Returns true if a byte that the next copy needs may be missing in the buffer. A copy works word
 * by word, and ends at a word that is not all there.
 */
static inline bool fuse_dax_fmap_is_missing(const struct iov_iter *iter)
{
	size_t segment = iov_iter_single_seg_count(iter), at[2] = { 0, min(segment, 64) - 1 };
	int ret = 0;
	u8 byte;

	if (!user_backed_iter(iter))
		return false;
#ifdef CONFIG_X86_MCE
	/* As in fuse_dax_fmap_fault_in(). */
	if (current->mce_count)
		return false;
#endif
	for (int i = 0; segment && i < 2; i++) {
		u8 __user *p = iter_iov_addr(iter) + at[i];

		if (copy_from_user_nofault(&byte, p, 1))
			return true;
		if (iov_iter_rw(iter) != READ)
			continue;
		/* Tests for write access, and keeps a concurrent store by another thread. */
		pagefault_disable();
		ret = __try_cmpxchg_user(p, &byte, byte, fault);
		pagefault_enable();
		if (ret < 0)
			return true;
	}
	/* With an empty segment, nothing is known. */
	return !segment;
}

/* Writes the build id of the kernel that the module is built for. */
static inline void fuse_dax_fmap_tree(char *hex)
{
	memcpy(hex, fuse_dax_fmap_built_for, sizeof(fuse_dax_fmap_built_for));
}

/* NT_GNU_BUILD_ID, for which no header of the kernel has a name. */
#define FUSE_DAX_FMAP_NOTE_BUILD_ID 3

/*
 * Writes the build id of the running kernel in hexadecimal, or nothing if the kernel has none.
 *
 * Neither vmlinux_build_id[] nor the section that it is read from nor kallsyms is exported, and
 * /sys/kernel/notes can be opened only if the task that loads the module sees a sysfs. But exported
 * symbols lead to the attribute behind that file, and the attribute points to the notes of vmlinux.
 */
static inline void fuse_dax_fmap_running(char *hex)
{
	struct kernfs_node *node = kernfs_find_and_get(kernel_kobj->sd, "notes");
	const struct bin_attribute *notes;
	const struct elf64_note *note;
	size_t at, name, desc;

	if (!node)
		return;
	notes = node->priv;
	/* An attribute with another read function has private data of another kind. */
	if (kernfs_type(node) != KERNFS_FILE || notes->read != sysfs_bin_attr_simple_read)
		goto out;
	for (at = 0; at + sizeof(*note) <= notes->size; at = desc + ALIGN(note->n_descsz, 4)) {
		note = notes->private + at;
		name = at + sizeof(*note);
		desc = name + ALIGN(note->n_namesz, 4);
		if (note->n_type != FUSE_DAX_FMAP_NOTE_BUILD_ID ||
		    note->n_namesz != sizeof("GNU") ||
		    memcmp(notes->private + name, "GNU", sizeof("GNU")))
			continue;
		if (note->n_descsz <= FUSE_DAX_FMAP_BUILD_ID_LEN / 2)
			*bin2hex(hex, notes->private + desc, note->n_descsz) = '\0';
		break;
	}
out:
	kernfs_put(node);
}

/* The path of the mount that a file is opened through, at the end of @buf, or an error. */
static inline char *fuse_dax_fmap_mount_point(const struct file *file, char *buf, int len)
{
	struct path mount = {
		.mnt = file->f_path.mnt,
		.dentry = file->f_path.mnt->mnt_root,
	};

	return d_path(&mount, buf, len);
}

/* What a register points to. C has a name for a member of a struct that has none. */
static inline struct btf *fuse_dax_fmap_reg_btf(const struct bpf_reg_state *reg)
{
	return reg->btf;
}

static inline u32 fuse_dax_fmap_reg_btf_id(const struct bpf_reg_state *reg)
{
	return reg->btf_id;
}

/* Macros for locks. */
static inline void fuse_dax_fmap_xa_lock_irq(struct xarray *xa)
{
	xa_lock_irq(xa);
}

static inline void fuse_dax_fmap_xa_unlock_irq(struct xarray *xa)
{
	xa_unlock_irq(xa);
}

/*
 * Returns true if none of @pages pages from @pfn on is in a page cache other than @own. A first
 * PMD fault checks 512 pages, so the loop around the macro is here, and not in Rust. The struct
 * pages of device memory are contiguous (SPARSEMEM_VMEMMAP).
 */
static inline bool fuse_dax_fmap_are_vacant(unsigned long pfn, u64 pages,
					    const struct address_space *own)
{
	const struct page *page = pfn_to_page(pfn);

	for (; pages; pages--, page++) {
		const struct address_space *mapping = READ_ONCE(page_folio(page)->mapping);

		if (mapping && mapping != own)
			return false;
	}
	return true;
}

/* With BPF statistics enabled. Not inlined, as it needs registers. */
static noinline __cold int fuse_dax_fmap_run_counted(const u64 *args,
						     const struct bpf_prog *prog)
{
	return bpf_prog_run(prog, args);
}

/*
 * Runs a program as a trampoline does, but without a run context, and as tracepoints do with
 * preemption disabled, which is an RCU read-side critical section and prevents migration.
 * Lockdep has to be told so. The arguments are in the order in which the program gets them.
 */
static inline int fuse_dax_fmap_run(const u64 *args, const struct bpf_prog *prog)
{
	int ret;

	preempt_disable();
	rcu_lock_acquire(&rcu_lock_map);
	if (static_branch_unlikely(&bpf_stats_enabled_key))
		ret = fuse_dax_fmap_run_counted(args, prog);
	else
		ret = bpf_dispatcher_nop_func(args, prog->insnsi, prog->bpf_func);
	rcu_lock_release(&rcu_lock_map);
	preempt_enable();
	return ret;
}

/*
 * Writes " file=" and the path of an inode from the root of its file system, if it has a name. What
 * would end a word is escaped, as in mountinfo.
 *
 * A reference to the dentry would do harm: the last one may have to evict an inode, and one of a
 * superblock that is being shut down is a bug. So this looks at the dentry under RCU, as
 * d_find_alias_rcu() does, which is not exported. Does not sleep.
 */
static inline void fuse_dax_fmap_seq_file(struct seq_file *m, struct inode *inode)
{
	struct dentry *alias, *named = NULL;

	rcu_read_lock();
	spin_lock(&inode->i_lock);
	for_each_alias(alias, inode) {
		if (!d_unhashed(alias)) {
			named = alias;
			break;
		}
	}
	spin_unlock(&inode->i_lock);
	if (named) {
		seq_puts(m, " file=");
		seq_dentry(m, named, " \t\n\\");
	}
	rcu_read_unlock();
}

/*
 * Macros that are code. A per-CPU u64 is passed as an integer, as Rust has no
 * address spaces.
 */
static inline void fuse_dax_fmap_count(uintptr_t counter, u64 number)
{
	this_cpu_add(*(u64 __percpu *)counter, number);
}

/* Counts one for two, in one call from Rust. */
static inline void fuse_dax_fmap_count_both(uintptr_t one, uintptr_t other)
{
	this_cpu_inc(*(u64 __percpu *)one);
	this_cpu_inc(*(u64 __percpu *)other);
}

static inline u64 fuse_dax_fmap_sum(uintptr_t counter)
{
	u64 sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += READ_ONCE(*per_cpu_ptr((u64 __percpu *)counter, cpu));
	return sum;
}

