#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The error messages of fmapctl: one sentence, which is true and names the object. Nothing is
# half done: of several objects all are loaded, or none. fmapctl does not panic if the reader
# of its output has gone, or the disk is full.

# shellcheck disable=SC2317 # functions are called by check, and by the trap

dir=${FMAP_BPF_DIR:-/lib/fuse-dax-fmap/bpf} here=$(cd "$(dirname "$0")" && pwd)
striped=$dir/striped.bpf.o famfs=$dir/famfs.bpf.o refused=$here/refused.bpf.o
pins=/sys/fs/bpf/fuse_dax_fmap
default=/sys/module/fuse_dax_fmap/parameters/default_ops
# shellcheck source=../lib/ktap.bash
. "$(dirname "$0")/ktap.bash"
need fmapctl
[ ! -e "$pins" ] || skip "there are ops already"
[ -r "$striped" ] || skip "there is no $striped"
[ -r "$famfs" ] || skip "there is no $famfs"

tmp=$(mktemp -d)
before=$(<"$default")
tidy_up() {
	fmapctl unload striped >/dev/null 2>&1
	rm -f "$pins/famfs"
	fmapctl unload famfs >/dev/null 2>&1
	[ ! -d "$pins" ] || rmdir "$pins"
	echo "$before" >"$default"
	rm -r "$tmp"
}
trap tidy_up EXIT

# Prints one line with PATTERN to stderr, nothing to stdout; status 1.
refuses() { # PATTERN COMMAND...
	local pattern=$1 status=0
	shift
	"$@" >"$tmp/stdout" 2>"$tmp/stderr" || status=$?
	cat "$tmp/stdout" "$tmp/stderr"
	echo "status $status"
	[ "$status" = 1 ] && [ ! -s "$tmp/stdout" ] &&
		[ "$(wc -l <"$tmp/stderr")" = 1 ] && grep -qE "^fmapctl: .*$pattern" "$tmp/stderr" &&
		! grep -qE 'Unknown error|os error|libbpf|panicked' "$tmp/stderr"
}
says() { # PATTERN COMMAND...
	local pattern=$1
	shift
	"$@" >"$tmp/said" 2>&1
	cat "$tmp/said"
	grep -qE "$pattern" "$tmp/said"
}
not() {
	! "$@"
}
none() {
	says '^NAME' fmapctl list && ! grep -q '^[a-z]' "$tmp/said" && [ ! -e "$pins" ]
}
map_id() {
	fmapctl list 2>/dev/null | awk '$1 == "striped" { print $3 }'
}

: >"$tmp/empty"
echo '#!/bin/sh' >"$tmp/text"
head -c 1000 "$striped" >"$tmp/cut"

echo "TAP version 13"
check "a file that is not there" refuses "$tmp/no: No such file" fmapctl load "$tmp/no"
check "an empty file" refuses "$tmp/empty is empty" fmapctl load "$tmp/empty"
check "a text" refuses "$tmp/text is no BPF object" fmapctl load "$tmp/text"
check "a directory" refuses "$tmp is no regular file" fmapctl load "$tmp"
check "a device" refuses '/dev/zero is no regular file' fmapctl load /dev/zero
check "a program" refuses 'is no BPF object.*clang -target bpf' fmapctl load "$(type -P fmapctl)"
check "half an object" refuses "$tmp/cut is damaged" fmapctl load "$tmp/cut"
check "no such ops" refuses 'no ops named "typo" are registered' fmapctl unload typo
check "a path is no name" refuses 'no ops named "\.\./x"' fmapctl unload ../x
check "the same object twice" refuses 'ops named striped' fmapctl load "$striped" "$striped"
check "two names for --default" refuses 'default.*striped, famfs' \
	fmapctl load --default "$striped" "$famfs"
check "after all that there are none" none

if [ -r "$refused" ]; then
	check "what the verifier refuses" \
		says '^fmapctl: .*verifier.*program refused_begin of .*refused.bpf.o' \
		fmapctl load "$refused"
	check "... for a reason that is said once" \
		[ "$(grep -c 'only OUT fields may be written' "$tmp/said")" = 1 ]
	check "... and without what libbpf says about it" not grep -q libbpf "$tmp/said"
fi

check "all or none: a bad object" refuses "$tmp/text" fmapctl load "$striped" "$famfs" "$tmp/text"
check "... and none is loaded" none
check "all or none: refused ops" not fmapctl load "$striped" "$refused"
check "... and none is loaded" none
mkdir -m 700 "$pins"
ln -s /nowhere "$pins/famfs"
check "all or none: one cannot be pinned" refuses 'famfs is a symbolic link' \
	fmapctl load "$striped" "$famfs"
check "... and none is registered" not says '^(striped|famfs)' fmapctl list
check "one of them alone" says '^striped: registered' fmapctl load "$striped"
first=$(map_id)
check "all or none: replaced, and the other cannot be pinned" refuses 'famfs is a symbolic link' \
	fmapctl load --replace "$striped" "$famfs"
check "... and the old ones are back" [ "$(map_id)" = "$first" ]
rm "$pins/famfs"
check "one is registered already" refuses 'ops named striped are registered already' \
	fmapctl load "$famfs" "$striped"
check "... and the other is not" not says '^famfs' fmapctl list
check "both at once" says '^famfs: registered' fmapctl load --replace "$striped" "$famfs"
check "... one has replaced the old" [ "$(map_id)" != "$first" ]
check "one that is not there among those to unload" refuses 'no ops named "typo"' \
	fmapctl unload striped famfs typo
check "... and all are there" says '^famfs' fmapctl list
check "both are unloaded" says '^striped: unregistered' fmapctl unload striped famfs
check "there are none" none

# The module's parameter default_ops.
mark="fmapctl_said: $$"
echo "$mark" >/dev/kmsg
log() { # since the last mark
	dmesg | awk -v mark="$mark" '{ text = text $0 "\n" } index($0, mark) { text = "" }
		END { printf "%s", text }'
}
check "ops as the default" says '^famfs: the default' fmapctl load --default "$famfs"
check "the module knows" [ "$(<$default)" = famfs ]
check "and has nothing to say about it" not says default_ops log
check "list shows it" says '^default_ops: famfs$' fmapctl list
check "they are unloaded, and named" says 'default_ops still names it' fmapctl unload famfs
check "list shows that" says '^default_ops: famfs \(not registered\)$' fmapctl list
echo typo >"$default"
check "a default that nobody registered is said in the log" \
	says "default_ops 'typo': no such ops are registered" log
echo >"$default"
check "no default" not says default_ops fmapctl list
if [ -r "${FMAP_MODULE-}" ] && rmmod fuse_dax_fmap; then
	echo "$mark" >/dev/kmsg
	check "the module is loaded with a default" insmod "$FMAP_MODULE" default_ops=early
	check "... that nobody has registered yet" \
		says "default_ops 'early': no such ops are registered" log
	rmmod fuse_dax_fmap
	insmod "$FMAP_MODULE"
fi

# The output is not read, or cannot be written.
gone() { # COMMAND...: its reader is gone before it says anything
	{
		sleep 0.2
		"$@" 2>"$tmp/stderr"
		echo $? >"$tmp/status"
	} | true
	cat "$tmp/status" "$tmp/stderr"
	! [ -s "$tmp/stderr" ]
}
check "list into a closed pipe" gone fmapctl list
check "... is no failure" [ "$(<"$tmp/status")" = 0 ]
check "help into a closed pipe" gone fmapctl --help
check "load into a closed pipe" gone fmapctl load "$striped"
check "... has loaded" says '^striped' fmapctl list
full() { # COMMAND...
	local status=0
	"$@" >/dev/full 2>"$tmp/stderr" || status=$?
	cat "$tmp/stderr"
	[ "$status" = 1 ] && [ "$(cat "$tmp/stderr")" = "fmapctl: standard output: No space left on device" ]
}
for command in list status --help 'unload striped'; do
	# shellcheck disable=SC2086 # words
	check "$command to a full disk" full fmapctl $command
done
check "... has unloaded" none
no_room() {
	local status=0
	fmapctl unload typo 2>/dev/full || status=$?
	echo "$status"
	[ "$status" = 1 ]
}
check "an error to a full disk" no_room
closed() {
	local status=0
	fmapctl unload typo >&- 2>&- || status=$?
	echo "$status"
	[ "$status" = 1 ]
}
check "an error to nowhere" closed

finish
