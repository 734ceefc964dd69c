#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# FUSE as a loadable module.
#
# fuse_dax_fmap uses symbols of fuse, so it must be loaded after it and unloaded before
# it; and it must find the tracepoints of a fuse module that has just been loaded. If
# FUSE is built in, the test is skipped.

# shellcheck disable=SC2317 # functions are called by check
dir=$(mktemp -d)
count=0 failed=0

check() { # WHAT COMMAND...
	local what=$1
	shift
	count=$((count + 1))
	if "$@"; then
		echo "ok $count $what"
	else
		failed=1
		echo "not ok $count $what"
	fi
}

fails() {
	! "$@" 2>/dev/null
}

loaded() {
	[ -e "/sys/module/$1/initstate" ]
}

# A file of a new mount is mapped: what is written can be read.
mapped() {
	local ok=1 text="fuse was loaded anew"
	printf '%s\n' "device = [{ name = \"a\", path = \"${DAX_DEVICES%% *}\" }]" \
		'[[file]]' 'path = "file"' 'size = "4M"' 'devices = ["a"]' >"$dir/manifest"
	mkdir "$dir/mnt"
	fmapctl load "$FMAP_BPF_DIR/striped.bpf.o" >/dev/null || return
	if fmapfs --daemon "$dir/manifest" "$dir/mnt"; then
		echo "$text" | dd of="$dir/mnt/file" conv=notrunc status=none &&
			[ "$(head -n 1 "$dir/mnt/file")" = "$text" ] &&
			grep -q ' files=1 ' /sys/kernel/debug/fuse_dax_fmap/mounts && ok=0
		umount "$dir/mnt"
	fi
	fmapctl unload striped >/dev/null
	rmdir /sys/fs/bpf/fuse_dax_fmap
	return "$ok"
}

echo "TAP version 13"
if ! loaded fuse; then
	echo "1..0 # SKIP FUSE is built in"
	exit 4
fi
if ! loaded fuse_dax_fmap; then
	echo "1..0 # SKIP the module is not loaded"
	exit 4
fi
echo "1..7"
check "fuse does not go first" fails rmmod fuse
check "the module goes" rmmod fuse_dax_fmap
check "then fuse goes" rmmod fuse
check "the module does not come first" fails insmod "$FMAP_MODULE"
check "fuse comes" modprobe fuse
check "then the module comes" insmod "$FMAP_MODULE"
check "a mount is attached" mapped
rm -rf "$dir"
exit $failed
