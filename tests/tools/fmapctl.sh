#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# fmapctl, as an operator uses it: ops are loaded, replaced and unloaded while a
# server has files mounted with them. What is mounted keeps what it has, and
# "list" and "status" say so.

# shellcheck disable=SC2317 # functions are called by check, and by the trap

# shellcheck source=../lib/ktap.bash
. "$(dirname "$0")/ktap.bash"
need_one_file "fmapctl fmapfs"

tidy_up() {
	umount "$dir" 2>/dev/null
	fmapctl unload striped >/dev/null 2>&1
	rm -f "$manifest" "$tmp/out" "$tmp/said"
	rmdir "$dir" "$tmp" /sys/fs/bpf/fuse_dax_fmap 2>/dev/null
}
trap tidy_up EXIT

says() { # PATTERN COMMAND...: it may fail, but has to say that
	local pattern=$1
	shift
	"$@" >"$tmp/said" 2>&1
	cat "$tmp/said"
	grep -qE "$pattern" "$tmp/said"
}
fails() {
	! "$@"
}
map_id() {
	fmapctl list | awk '$1 == "striped" { print $3 }'
}
data() {
	printf %s "$1" | dd of="$dir/file" conv=notrunc status=none &&
		[ "$(head -c ${#1} "$dir/file")" = "$1" ]
}

echo "TAP version 13"
check "replacing what is not there registers it" \
	says '^striped: registered$' fmapctl load --replace "$bpf"
first=$(map_id)
check "nobody uses it" says "^striped +[0-9]+ +$first +0 +0\$" fmapctl list
check "a server mounts with it" fmapfs --daemon "$manifest" "$dir"
check "one mount uses it" says "^striped +[0-9]+ +$first +1 +0\$" fmapctl list
check "status shows its map" says "^$dir +striped +$first +" fmapctl status
check "data can be written" data one
check "loading it again fails" fails fmapctl load "$bpf"
check "... and says how to" says 'registered already.*--replace' fmapctl load "$bpf"
check "the name is as it was" says "^striped +[0-9]+ +$first +1 +0\$" fmapctl list

check "it is replaced, and who keeps the old one is counted" \
	says '^striped: 1 mount\(s\) keep the old ones' fmapctl load --replace "$bpf"
second=$(map_id)
check "it is another map" [ "$first" != "$second" ]
check "the old mount is on the old one" says "^striped +[0-9]+ +$second +0 +1\$" fmapctl list
check "status marks it" says "^$dir +striped +$first\\(old\\) +" fmapctl status
check "data can still be written" data two

umount "$dir"
check "a mount made now has the new one" fmapfs --daemon "$manifest" "$dir"
check "status shows that" says "^$dir +striped +$second +" fmapctl status
check "data is what it was" says two head -c 3 "$dir/file"

check "it is unloaded under the mount" fmapctl unload striped
check "list shows that it is gone" says '^striped +- +\(gone\) +0 +1$' fmapctl list
check "status, too" says "^$dir +striped +$second\\(gone\\) +" fmapctl status
check "data can still be written" data three

# bpftool detaches the link, and leaves its pin.
umount "$dir"
check "it is loaded once more" fmapctl load "$bpf"
link=$(fmapctl list | awk '$1 == "striped" { print $2 }')
bpftool link detach id "$link"
check "a link that was detached is no obstacle" \
	says '^striped: registered$' fmapctl load --replace "$bpf"
check "nothing else is left to do" says '^striped: unregistered$' fmapctl unload striped

finish
