# SPDX-License-Identifier: GPL-2.0
#
# Everything is built inside a Debian root that scripts/enter makes on first
# use, so a target has two halves: outside, this Makefile calls itself inside;
# there, INSIDE is set and the recipes run. Only "make KDIR=..." builds with
# the host's own tools.
#
# kbuild reads Kbuild, never this file.

# make takes a path with a space for two: "clean" would remove the first.
ifneq ($(words $(CURDIR)),1)
$(error make cannot work in '$(CURDIR)': the path of the source may have no spaces)
endif

# A kernel of scripts/kernels, "debug", or empty for the newest. A kernel that is named has its own
# build directory (scripts/build-dir).
KERNEL	?= $(FMAP_KERNEL)
NAMED	:= $(filter-out stock debug,$(KERNEL))
BUILD	:= $(CURDIR)/build$(NAMED:%=/%)
DEVICE	?= nvdimm
export FMAP_KERNEL := $(NAMED)
MAKEFLAGS += --no-print-directory

ifdef KDIR
all: module
else
all: module bpf tools
endif

help:
	@echo 'make                      the module, the BPF objects and the tools, in build/'
	@echo 'make module               only build/fuse-dax-fmap.ko, for the stock kernel'
	@echo 'make module KDIR=TREE     the same for any kernel tree with Rust metadata,'
	@echo '                          with the tools of this host'
	@echo 'make bpf | tools | tests  only build/bpf | build/bin | build/tests'
	@echo 'make demo [DEVICE=cxl]    show it in a virtual machine'
	@echo 'make check                build, lint and test; ends in "N passed, N failed"'
	@echo '     [DEVICE=nvdimm|cxl]  on one kind of device only'
	@echo '     [TEST=NAME]          one test program only, and nothing else'
	@echo 'make check-debug          the tests on a kernel with KASAN, lockdep and others; the'
	@echo '                          first time builds it (10 to 30 minutes); same options'
	@echo 'make check-host           the Debian packages on an ordinary machine: installed, used, still'
	@echo '     [DEVICE=nvdimm|cxl]  there after a reboot, upgraded, signed, and purged (20 minutes);'
	@echo '     [ONLY=signed|dkms]   only one part; "dkms" builds in the machine, and is run only if it'
	@echo '                          is named: hours without KVM (tests/host-image/run --help)'
	@echo 'make exercise [TIMES=N]   fio, fsx and stress-ng on mapped files, N (20) times'
	@echo '     [DEVICE=cxl]         as much as in "make check"'
	@echo 'make torture MINUTES=N    everything at once, drawn from a seed (tests/torture), for N (10)'
	@echo '     [SEED=S]             minutes; from this seed on (1)'
	@echo '     [DEVICE=cxl] [KERNEL=debug]'
	@echo '     [ACTORS=A,B,-C]      with A and B only, or without C'
	@echo 'make bench                instructions per fault, read, write and open, against other memory'
	@echo '     [ROWS="bpf native"]  and file systems (docs/benchmark-method.md); only these rows'
	@echo '     [QUICK=1]            only the most important patterns'
	@echo 'make bench-host DEVICE=dax0.0 ERASE=yes    the same on this machine, with its kernel and'
	@echo '     [VM=1]               memory, in nanoseconds; or, in a virtual machine, only whether it works'
	@echo 'make site                 the documentation as a web site, in build/site/'
	@echo 'make kernels              build the module and run all tests, for every kernel of'
	@echo '     [TEST=0|NAME]        scripts/kernels that the archive has; no test, or only that one;'
	@echo '                          writes the table in README.md'
	@echo 'make lint                 formatting, clippy, rustdoc, shellcheck, checkpatch, and what the'
	@echo '                          pages say of the source; builds the packages, for lintian'
	@echo 'make ide                  rust-project.json and compile_commands.json, for rust-analyzer'
	@echo '                          and clangd'
	@echo 'make hooks                git looks at commits before it makes them (.githooks)'
	@echo 'make host                 what "make install" and the packages need: the tools, for Debian 12'
	@echo '                          and whatever is newer, their man pages and completions'
	@echo 'make install | uninstall  after make module bpf host: into this system; DESTDIR, PREFIX and'
	@echo '                          MODDIR as usual (docs/install.md)'
	@echo 'make deb                  Debian packages, in build/deb/'
	@echo 'make clean                remove build/'
	@echo
	@echo 'KERNEL=NAME, with module, tools, tests, demo, check, exercise, torture and bench, takes'
	@echo 'a kernel of scripts/kernels, and builds in build/NAME/. Without it: the newest that the'
	@echo 'archive had when it was first asked.'
	@echo
	@echo 'The build root and the kernel are kept in ~/.cache/fuse-dax-fmap (or in'
	@echo 'XDG_CACHE_HOME). Remove that directory to get the newest kernel, or its space.'
	@echo 'FMAP_MIRROR=URL takes another archive than that of this host, as it may have to be'
	@echo 'when Debian no longer has the kernel: the snapshot of a day on which it had it.'

.PHONY: all help module debug-module bpf tools tests exercisers bench-programs native-module lint demo check check-debug check-host exercise torture bench bench-host site kernels ide hooks host deb install uninstall clean

ifneq ($(INSIDE)$(KDIR),)

# Each root has its own compilers; kernels with the same root share what cargo builds.
CARGO_DIR ?= $(CURDIR)/build/cargo$(shell . /etc/os-release && [ "$$VERSION_CODENAME" = trixie ] || echo "-$$VERSION_CODENAME")

module: | $(BUILD)
	@scripts/build-module '$(or $(KDIR),/kernel/build)' $(BUILD) $(KBUILD_ARGS)

debug-module: | $(BUILD)
	@scripts/build-module /kernel/build $(BUILD)/debug

bpf: | $(BUILD)
	@$(MAKE) -C bpf OUT=$(BUILD)/bpf CLANG=clang-19

tools: | $(BUILD)
	@mkdir -p $(BUILD)/bin
	cd tools && cargo build --release --locked --target-dir $(CARGO_DIR)
	@install $(CARGO_DIR)/release/fmapctl $(CARGO_DIR)/release/fmapfs $(BUILD)/bin/
	@install -D $(CARGO_DIR)/release/bench-report $(BUILD)/bench/bench-report

tests: | $(BUILD)
	@$(MAKE) -C tests OUT=$(BUILD)/tests KSRC=/kernel/source CC=gcc CLANG=clang-19
	cd tools && cargo build --release --locked --examples --target-dir $(CARGO_DIR)
	@install -D -t $(BUILD)/tests/examples $(addprefix $(CARGO_DIR)/release/examples/,one_file fuse_backend with_fuser)

# What "make bench" needs in addition: its programs, those that make file systems, and a
# module with the format of striped built in (bench/native.rs).
bench-programs: | $(BUILD)
	@$(MAKE) -C bench OUT=$(BUILD)/bench CC=gcc CLANG=clang-19
	@bench/collect $(BUILD)/bench/add

native-module: | $(BUILD)
	@scripts/build-module /kernel/build $(BUILD)/native KRUSTFLAGS='--cfg=fmap_native -Aunused'
	@install -D -m 644 $(BUILD)/native/fuse-dax-fmap.ko $(BUILD)/bench/native.ko

# What is installed on a host: tools that are built with the oldest libc that they have to run
# with. The features of the first build write the pages; the tools are those of the second.
HOST_TOOLS := cargo build --release --locked --target-dir $(CARGO_DIR) -p fmapctl -p fmapfs
host: | $(BUILD)
	cd tools && $(HOST_TOOLS) --features fmapctl/pages,fmapfs/pages
	@rm -rf $(BUILD)/host
	@mkdir -p $(BUILD)/host/bin
	$(CARGO_DIR)/release/fmapctl --pages $(BUILD)/host/pages
	$(CARGO_DIR)/release/fmapfs --pages $(BUILD)/host/pages
	cd tools && $(HOST_TOOLS)
	@install $(CARGO_DIR)/release/fmapctl $(CARGO_DIR)/release/fmapfs $(BUILD)/host/bin/

# File system exercisers that Debian does not package, and a library for them.
exercisers: $(BUILD)/exercisers/bin/fsx $(BUILD)/exercisers/fixed.so

$(BUILD)/exercisers/bin/fsx: | $(BUILD)
	cargo install fsx --version 0.3.2 --locked --root $(BUILD)/exercisers \
		--target-dir $(BUILD)/cargo-fsx

$(BUILD)/exercisers/fixed.so: tests/tools/exercisers/fixed.c | $(BUILD)
	@mkdir -p $(@D)
	gcc -O2 -Wall -Wextra -Werror -shared -fPIC -o $@ $<

# The demo's own helper.
$(BUILD)/fmap-map: demo/map.c | $(BUILD)
	gcc -O2 -Wall -Wextra -Werror -o $@ $<

lint: | $(BUILD)
	@scripts/lint

$(BUILD):
	@mkdir -p $@

else

INSIDE_ROOT := scripts/enter make --no-print-directory -C $(CURDIR) INSIDE=1 BUILD=$(BUILD)

all module bpf tools tests exercisers bench-programs native-module $(BUILD)/fmap-map:
	@$(INSIDE_ROOT) -j$$(nproc) $@

# What is installed is looked at in the root of the packages, and by lintian.
lint:
	@$(INSIDE_ROOT) $@
	@scripts/build-quietly module bpf host
	@FMAP_ROOT=deb scripts/enter tests/host/install.sh
	@scripts/make-deb

host:
	@FMAP_ROOT=deb $(INSIDE_ROOT) $@

debug-module:
	@FMAP_KERNEL=debug $(INSIDE_ROOT) $@

endif

demo:
	@scripts/build-quietly module bpf tools $(BUILD)/fmap-map
	@demo/run $(DEVICE)

# DEVICE restricts it only if it is set.
check check-debug:
	@scripts/check --kernel $(if $(filter check-debug,$@),debug,$(or $(KERNEL),stock)) \
		$(if $(filter-out file,$(origin DEVICE)),--device $(DEVICE)) \
		$(if $(TEST),--test $(TEST))

check-host:
	@scripts/check-host $(if $(filter-out file,$(origin DEVICE)),--device $(DEVICE)) \
		$(if $(ONLY),--only $(ONLY))

TIMES ?= 20
exercise:
	@scripts/build-quietly module bpf tools tests exercisers
	@tests/vm/run --exercisers --device $(DEVICE) --timeout 36000 -- \
		'EXERCISE=$(TIMES) TEST_TIMEOUT=36000 run-kselftests exercisers.sh'

MINUTES ?= 10
SEED ?= 1
torture:
	@scripts/build-quietly $(if $(filter debug,$(KERNEL)),debug-module,module) bpf tools tests
	@seconds=$$(($(MINUTES) * 60)); \
	tests/vm/run --kernel $(or $(KERNEL),stock) --device $(DEVICE) --timeout $$((3 * seconds + 1200)) -- \
		"TORTURE_SECONDS=$$seconds TORTURE_SEED=$(SEED) TORTURE_ACTORS=$(ACTORS) \
		TEST_TIMEOUT=$$((3 * seconds + 600)) run-kselftests torture"

bench:
	@scripts/build-quietly module bpf tools native-module bench-programs
	@ROWS='$(ROWS)' QUICK='$(QUICK)' bench/run

# Only the programs are built in the root. The module and fmapctl are those that are installed, or, if
# there are none, those of "make".
bench-host:
ifdef VM
	@scripts/build-quietly module bpf tools bench-programs
	@MODES=host ROWS='$(ROWS)' QUICK='$(or $(QUICK),1)' bench/run >$(BUILD)/bench-host.md
	@cat $(BUILD)/bench-host.md
else
	@scripts/build-quietly bpf bench-programs
	@install -D -t $(BUILD)/bench/host $(BUILD)/bench/hashmap.bpf.o $(BUILD)/bpf/striped.bpf.o
	@PATH="$$PATH:$(BUILD)/bin" HOST_PROGRAMS=$(BUILD)/bench/host MODULE='$(or $(MODULE),$(BUILD)/fuse-dax-fmap.ko)' \
		DEVICE='$(if $(filter-out file,$(origin DEVICE)),$(DEVICE))' ERASE='$(ERASE)' \
		ROWS='$(ROWS)' QUICK='$(QUICK)' bench/host >$(BUILD)/bench-host.md
	@cat $(BUILD)/bench-host.md
endif

site:
	@scripts/site

kernels:
	@scripts/all-kernels $(if $(TEST),--test $(TEST))

ide:
	@scripts/build-quietly module
	@scripts/ide

hooks:
	@git config core.hooksPath .githooks
	@echo 'git calls .githooks/* from now on; "git config --unset core.hooksPath" ends that'

deb:
	@scripts/make-deb

export DESTDIR PREFIX MODDIR
install:
	@BUILD=$(BUILD) scripts/install

uninstall:
	@BUILD=$(BUILD) scripts/install --uninstall

clean:
	rm -rf $(BUILD)
