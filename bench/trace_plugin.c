// SPDX-License-Identifier: GPL-2.0
/*
 * trace_plugin.so,out=FILE: a plugin for QEMU's emulation that records every instruction
 * between two markers (marker.h), and the memory that it accesses:
 *
 *	begin			for each pair of markers
 *	i ADDRESS		an instruction
 *	r ADDRESS SIZE		a load, w a store, of the instruction above it
 *	end
 *
 * All addresses are virtual. Outside of markers an instruction costs a compare.
 *
 * Debian has no package with qemu-plugin.h; the few declarations of version 4 of the
 * interface that are needed are here. QEMU refuses a plugin of a version that it does not
 * know.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "marker.h"

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t plugin_id;
typedef uint32_t meminfo;
struct qemu_info;
struct tb;
struct insn;
struct scoreboard;
struct u64_entry {
	struct scoreboard *score;
	size_t offset;
};

enum { CB_NO_REGS };
enum { MEM_RW = 3 };
enum { COND_NE = 3 };

typedef void (*udata_cb)(unsigned int vcpu, void *udata);

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id,
					   void (*cb)(plugin_id id, struct tb *tb));
void qemu_plugin_register_vcpu_insn_exec_cb(struct insn *insn, udata_cb cb, int flags,
					    void *udata);
void qemu_plugin_register_vcpu_insn_exec_cond_cb(struct insn *insn, udata_cb cb, int flags,
						 int cond, struct u64_entry entry, uint64_t imm,
						 void *udata);
void qemu_plugin_register_vcpu_mem_cb(struct insn *insn,
				      void (*cb)(unsigned int vcpu, meminfo info, uint64_t vaddr,
						 void *udata),
				      int flags, int rw, void *udata);
void qemu_plugin_register_atexit_cb(plugin_id id, void (*cb)(plugin_id id, void *udata),
				    void *udata);
size_t qemu_plugin_tb_n_insns(const struct tb *tb);
struct insn *qemu_plugin_tb_get_insn(const struct tb *tb, size_t n);
uint64_t qemu_plugin_insn_vaddr(const struct insn *insn);
size_t qemu_plugin_insn_data(const struct insn *insn, void *to, size_t len);
unsigned int qemu_plugin_mem_size_shift(meminfo info);
bool qemu_plugin_mem_is_store(meminfo info);
struct scoreboard *qemu_plugin_scoreboard_new(size_t size);
void qemu_plugin_u64_set(struct u64_entry entry, unsigned int vcpu, uint64_t value);

EXPORT int qemu_plugin_version = 4;

static struct u64_entry on;
static bool tracing;
static FILE *out;

static void executed(unsigned int vcpu, void *addr)
{
	if (tracing)
		fprintf(out, "i %" PRIx64 "\n", (uint64_t)addr);
}

static void accessed(unsigned int vcpu, meminfo info, uint64_t vaddr, void *addr)
{
	if (tracing)
		fprintf(out, "%c %" PRIx64 " %u\n", qemu_plugin_mem_is_store(info) ? 'w' : 'r',
			vaddr, 1U << qemu_plugin_mem_size_shift(info));
}

static void begin(unsigned int vcpu, void *addr)
{
	tracing = true;
	qemu_plugin_u64_set(on, vcpu, 1);
	fprintf(out, "begin\n");
}

static void end(unsigned int vcpu, void *addr)
{
	if (!tracing)
		return;
	tracing = false;
	qemu_plugin_u64_set(on, vcpu, 0);
	fprintf(out, "end\n");
	fflush(out);
}

static uint32_t marker_of(const struct insn *insn)
{
	unsigned char code[7] = { 0 };
	uint32_t marker;

	if (qemu_plugin_insn_data(insn, code, sizeof(code)) != sizeof(code) ||
	    memcmp(code, "\x0f\x1f\x80", 3))
		return 0;
	memcpy(&marker, code + 3, sizeof(marker));
	return marker;
}

static void translated(plugin_id id, struct tb *tb)
{
	for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++) {
		struct insn *insn = qemu_plugin_tb_get_insn(tb, i);
		void *addr = (void *)qemu_plugin_insn_vaddr(insn);
		uint32_t marker = marker_of(insn);

		if (marker == MARKER_BEGIN) {
			qemu_plugin_register_vcpu_insn_exec_cb(insn, begin, CB_NO_REGS, addr);
			continue;
		}
		if (marker == MARKER_END)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, end, CB_NO_REGS, addr);
		qemu_plugin_register_vcpu_insn_exec_cond_cb(insn, executed, CB_NO_REGS, COND_NE,
							    on, 0, addr);
		qemu_plugin_register_vcpu_mem_cb(insn, accessed, CB_NO_REGS, MEM_RW, addr);
	}
}

static void finish(plugin_id id, void *udata)
{
	fclose(out);
}

EXPORT int qemu_plugin_install(plugin_id id, const struct qemu_info *info, int argc, char **argv)
{
	for (int i = 0; i < argc; i++)
		if (!strncmp(argv[i], "out=", 4))
			out = fopen(argv[i] + 4, "w");
	if (!out)
		return -1;
	on.score = qemu_plugin_scoreboard_new(sizeof(uint64_t));
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	qemu_plugin_register_atexit_cb(id, finish, NULL);
	return 0;
}
