#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A module that was built for another build of this kernel, with the same release and version magic.
#
# The test copies the module and changes the kernel's build id in the copy. The kernel does not load
# the copy, and the log says why. Then the module itself is loaded again.

# shellcheck disable=SC2317 # functions are called by check
tmp=$(mktemp -d)
# shellcheck source=../lib/ktap.bash
. "$(dirname "$0")/ktap.bash"

fails() {
	! "$@"
}

said() {
	dmesg | grep -F "built for the kernel with the build id $other, and this one has $id"
}

echo "TAP version 13"
need modinfo insmod rmmod
id=$(modinfo -F kernel_build_id "$FMAP_MODULE")
[ -n "$id" ] || skip "the tree that the module was built for has no build id"
other=$(tr 0-9a-f 1-9a-f0 <<<"$id")
LC_ALL=C sed "s/$id/$other/g" "$FMAP_MODULE" >"$tmp/other.ko"

notes_have_it() {
	od -An -v -tx1 /sys/kernel/notes | tr -d ' \n' | grep -F "$id"
}

check "the id is that of the kernel" notes_have_it
check "the version magic is the same" \
	[ "$(modinfo -F vermagic "$tmp/other.ko")" = "$(modinfo -F vermagic "$FMAP_MODULE")" ]
check "the module goes" rmmod fuse_dax_fmap
check "one for another build does not come" fails insmod "$tmp/other.ko"
check "the log says why" said
check "the module comes" insmod "$FMAP_MODULE"
rm -rf "$tmp"
finish
