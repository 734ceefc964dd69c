#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The first example of README, as a newcomer types it: it loads a file format, mounts a file, and
# writes and maps it. Only the places differ, and the size, as CXL memory is slow in a virtual
# machine; the module is loaded already. If README and the tools part, this fails.

# shellcheck disable=SC2317 # functions are called by check, and by the trap

here=$(dirname "$0") bpf=${FMAP_BPF_DIR:-/lib/fuse-dax-fmap/bpf}
# shellcheck source=../lib/ktap.bash
. "$here/ktap.bash"
need fmapctl fmapfs python3
[ -r "$bpf/striped.bpf.o" ] || skip "there is no $bpf/striped.bpf.o"
[ -r "$here/readme.example" ] || skip "there is no readme.example: the build takes it from README.md"
device=${DAX_DEVICES%% *}
[ -c "$device" ] || skip "there is no DAX device"

tmp=$(mktemp -d) dir=$tmp/mnt
mkdir "$dir"
tidy_up() {
	umount "$dir" 2>/dev/null
	fmapctl unload striped >/dev/null 2>&1
	rm -rf "$tmp"
}
trap tidy_up EXIT

sed "/^insmod /d; s,build/bpf,$bpf,; s,/dev/dax0.0,$device,; s,/mnt,$dir,g; s/128M/4M/
	s/count=64/count=2/; s/^fmapctl status/& >status/" "$here/readme.example" >"$tmp/example"

example() {
	cd "$tmp" && bash -eux example
}
# The status says what was done: 4 MiB of zeros by fmapfs for the new file, 4 MiB by dd, and one
# page fault.
has_written() {
	cat "$tmp/status"
	grep -qE "^ +bytes written +8388608$" "$tmp/status"
}
has_faulted() {
	grep -qE "^ +page faults of (2 MiB|4 KiB) +1$" "$tmp/status"
}
gone() {
	! grep -q " $dir " /proc/self/mountinfo && rmdir "$dir"
}

check "each command succeeds" example
check "write(2) went to memory" has_written
check "a load through the mapping was a page fault of the module" has_faulted
check "no mount is left" gone
finish
