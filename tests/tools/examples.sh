#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The examples of the crate fuse-dax-fmap, which are complete servers: each serves a file in DAX
# memory, for read(2), write(2) and mmap(2). If the ops are not loaded, they print so and leave
# no mount. fmapctl has a name for each counter of the module.

# shellcheck disable=SC2317 # functions are called by check, and by the trap

bpf=${FMAP_BPF_DIR:-/lib/fuse-dax-fmap/bpf} examples=/lib/fuse-dax-fmap/examples
# shellcheck source=../lib/ktap.bash
. "$(dirname "$0")/ktap.bash"
need fmapctl python3
[ -r "$bpf/striped.bpf.o" ] || skip "there is no $bpf/striped.bpf.o"
[ -d "$examples" ] || skip "there is no $examples"
device=${DAX_DEVICES%% *}
[ -c "$device" ] || skip "there is no DAX device"

tmp=$(mktemp -d) dir=$tmp/mnt size=$((4 << 20)) server=
mkdir "$dir"
tidy_up() {
	[ -z "$server" ] || kill -9 "$server" 2>/dev/null
	umount -l "$dir" 2>/dev/null
	fmapctl unload striped >/dev/null 2>&1
	rm -rf "$tmp"
}
trap tidy_up EXIT

mounted() {
	grep -q " $dir " /proc/self/mountinfo
}
# wait_for COMMAND...: until it succeeds, 10 s at most.
wait_for() {
	local try
	for ((try = 0; try < 200; try++)); do
		if "$@"; then return; fi
		sleep 0.05
	done
	echo "not in 10 s: $*"
	return 1
}
start() { # EXAMPLE
	"$examples/$1" "$device" "$size" "$dir" >"$tmp/said" 2>&1 &
	server=$!
	wait_for mounted
}
gone() {
	! kill -0 "$server" 2>/dev/null
}
# The server ends with STATUS by itself, and its mount is gone.
ends() { # STATUS
	local status=0
	wait_for gone || return
	wait "$server" || status=$?
	server=
	cat "$tmp/said"
	echo "status $status"
	[ "$status" = "$1" ] && ! mounted
}
refused() { # EXAMPLE
	"$examples/$1" "$device" "$size" "$dir" >"$tmp/said" 2>&1 &
	server=$!
	ends 1 && grep -q "^$1: the kernel has ended the connection" "$tmp/said"
}
has_one_file() {
	[ "$(ls "$dir")" = file ] && [ "$(stat -c %s "$dir/file")" = "$size" ]
}
data() {
	head -c "$size" /dev/urandom >"$tmp/data" &&
		dd if="$tmp/data" of="$dir/file" bs=1M conv=notrunc,fsync status=none &&
		cmp "$tmp/data" "$dir/file"
}
mapped() {
	python3 -I - "$dir/file" <<-'END'
		import mmap, sys
		with open(sys.argv[1], "r+b") as file:
		    with mmap.mmap(file.fileno(), 0) as memory:
		        memory[2097152:2097160] = b"in place"
		        memory.flush()
		    file.seek(2097152)
		    sys.exit(file.read(8) != b"in place")
	END
}
# The counters whose names begin with WHAT are NUMBER or more in total.
counted() { # WHAT NUMBER
	awk -v what="  $1" -v least="$2" '
		index($0, what) == 1 { n += $NF }
		END { exit n == "" || n < least }' "$tmp/status"
}
is_mapped() {
	fmapctl status >"$tmp/status" || return
	cat "$tmp/status"
	grep -qE "^$dir +striped +[0-9]+ +1 +0:${device##*/}$" "$tmp/status" &&
		counted "maps that came with OPEN" 1 && counted "GET_DAXDEV requests" 1 &&
		counted "bytes written" "$size" && counted "page faults of" 1
}
# A counter without a name in fmapctl is shown with a "_".
all_names_known() {
	! grep -E '^  [a-z0-9]+_' "$tmp/status"
}
unmounts() {
	umount "$dir" && ends 0
}

for example in one_file fuse_backend with_fuser; do
	check "$example: without ops it fails, and no mount is left" refused "$example"
done
fmapctl load "$bpf/striped.bpf.o" >/dev/null || exit
for example in one_file fuse_backend with_fuser; do
	check "$example: it mounts" start "$example"
	check "$example: one file" has_one_file
	check "$example: what is written is read" data
	check "$example: what is stored is read" mapped
	check "$example: all of it in DAX memory" is_mapped
	check "$example: fmapctl knows all counters" all_names_known
	check "$example: it ends when it is unmounted" unmounts
done
finish
