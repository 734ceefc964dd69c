#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# fmapfs_layout.sh: the files of fmapfs keep their data when the manifest is edited.
#
# A manifest is mounted, its files are filled, each with its own bytes; then it is edited,
# mounted again, and all bytes are compared. After each edit the files have their data, or
# the mount is refused, with a sentence that names the lines, and the old manifest still
# leads to the data. New space reads as zeros, whatever was there. A frozen manifest needs
# no record. Devices are identified by ids that do not change. Times are kept. A record
# that is damaged, of another version, in use or not writable loses no data.

# shellcheck disable=SC2317 # functions are called by check, and by the trap
# shellcheck disable=SC2016 # check has it expanded

bpf=${FMAP_BPF_DIR:-/lib/fuse-dax-fmap/bpf}/striped.bpf.o
# shellcheck source=../lib/ktap.bash
. "$(dirname "$0")/ktap.bash"
need fmapctl fmapfs
[ -r "$bpf" ] || skip "there is no $bpf"
read -r a b _ <<<"${DAX_DEVICES-}"
[ -c "${b:-/}" ] || skip "there are no two DAX devices"

tmp=$(mktemp -d) mnt=$tmp/mnt home=$tmp/home
manifest=$home/files.toml record=$home/files.toml.layout
mkdir "$mnt" "$home"
tidy_up() {
	umount "$mnt" 2>/dev/null
	umount "$home" 2>/dev/null
	fmapctl unload striped >/dev/null 2>&1
	rmdir /sys/fs/bpf/fuse_dax_fmap 2>/dev/null
	rm -rf "$tmp"
}
trap tidy_up EXIT

refused() { # PATTERN COMMAND...: it fails, says that in one line, and mounts nothing
	local pattern=$1 status=0
	shift
	"$@" >"$tmp/said" 2>&1 || status=$?
	cat "$tmp/said"
	[ "$status" = 1 ] && [ "$(wc -l <"$tmp/said")" = 1 ] && grep -qE -- "$pattern" "$tmp/said" &&
		! grep -q " $mnt " /proc/self/mountinfo
}
mounted() { # [OPTION]...
	fmapfs --daemon "$@" "$manifest" "$mnt"
}

# --- The manifest, and what is in its files -------------------------------------------

devices() {
	printf '[[device]]\nname = "a"\npath = "%s"\n[[device]]\nname = "b"\npath = "%s"\n' "$a" "$b"
}
entry() { # PATH SIZE DEVICES
	printf '[[file]]\npath = "%s"\nsize = "%s"\ndevices = [%s]\n' "$@"
}
one() { entry one "${1:-4M}" "${2:-\"a\"}"; }
two() { entry two 6M "${1:-\"a\", \"b\"}"; }
three() { entry three 2M '"a"'; }
four() { entry four 2M '"b"'; }
files() { one; two; three; four; }

declare -A size=([one]=4 [two]=6 [three]=2 [four]=2)
for name in "${!size[@]}"; do
	yes "this is $name" | head -c "${size[$name]}M" >"$tmp/$name"
done
fill() { # NAME...
	local name
	for name; do
		dd if="$tmp/$name" of="$mnt/$name" bs=1M conv=notrunc,fsync status=none || return
	done
}
# whole NAME...: these files have their data. NAME=MIB: the first MIB of them.
whole() {
	local name mib
	for name; do
		mib=${name#*=} name=${name%%=*}
		[ "$mib" != "$name" ] || mib=${size[$name]}
		same "$tmp/$name" "$mnt/$name" 0 "$((mib << 20))" || return
	done
}
zeros() { # NAME [SKIP]
	same /dev/zero "$mnt/$1" "${2:-0}" "$(stat -c %s "$mnt/$1")"
}
# Compares all bytes, or, on emulated and slow memory, the beginning of each MiB.
same() { # A B FROM TO
	local at
	[ "${DAX_KIND-}" = cxl ] || {
		cmp -i "$3" -n $(($4 - $3)) "$1" "$2"
		return
	}
	for ((at = $3; at < $4; at += 1 << 20)); do
		cmp -i "$at" -n 8192 "$1" "$2" || return
	done
}

# kept TEXT NAME...: mounts the edited manifest, on stdin, and these files have their data.
# Then as_it_was mounts the old manifest, and all files have theirs.
kept() {
	local text=$1
	shift
	cat >"$manifest"
	check "$text: mounted" mounted
	check "$text: the files are what they were" whole "$@"
}
# Other checks of the edited mount come before this.
as_it_was() {
	umount "$mnt"
	{ devices; files; } >"$manifest"
	mounted && whole one two three four && umount "$mnt"
}
never() { # TEXT PATTERN, with the manifest on stdin
	cat >"$manifest"
	check "$1: refused" refused "$2" mounted
	check "$1: nothing is lost" as_it_was
}

echo "TAP version 13"
check "ops are loaded" fmapctl load "$bpf"

# --- New space ------------------------------------------------------------------------

{
	devices
	for device in a b; do
		printf '[[file]]\npath = "%s"\n[[file.extent]]\nlength = "24M"\ndevice = "%s"\noffset = 0\n' \
			$device $device
	done
} >"$manifest"
leftovers() {
	local device
	yes "somebody else's" | head -c 24M >"$tmp/others"
	mounted && for device in a b; do
		dd if="$tmp/others" of="$mnt/$device" bs=1M conv=notrunc status=none || return
	done && umount "$mnt" && rm "$tmp/others"
}
check "the devices are full of somebody else's data" leftovers
check "space that the manifest names is left alone" \
	eval 'mounted && head -c 15 "$mnt/b" | grep -qx "somebody else.s"; s=$?; umount "$mnt"; [ $s = 0 ]'
rm "$record"

{ devices; files; } >"$manifest"
fmapctl unload striped >/dev/null
check "a mount without ops" refused 'no ops named striped are registered' fmapfs "$manifest" "$mnt"
check "a mount that is refused records nothing" [ ! -e "$record" ]
fmapctl load "$bpf" >/dev/null
limited() {
	ulimit -f 1024
	exec fmapfs "$manifest" "$mnt"
}
check "a mount that fails while it zeroes" \
	refused 'new space could not be zeroed: a process ended early: signal: 25' eval '(limited)'
check "what was not zeroed is recorded as that" grep -q '^new = true$' "$record"
killed() {
	local moment
	for moment in 0.02 0.05 0.1 0.2; do
		fmapfs "$manifest" "$mnt" 2>/dev/null &
		sleep "$moment"
		kill -KILL $!
		wait $! 2>/dev/null
		umount -l "$mnt" 2>/dev/null
	done
	:
}
check "one that is killed while it does" killed
check "the next one" mounted
zero() {
	zeros one && zeros two && zeros three && zeros four && ! grep '^new' "$record"
}
check "a new file reads as zeros" zero
check "files are filled" fill one two three four
umount "$mnt"
check "the same manifest, again" as_it_was

# --- Edits ------------------------------------------------------------------------------

kept "an entry is inserted" one two three four < <(devices; entry new 4M '"a", "b"'; files)
check "... and is empty" zeros new
check "... and goes again" as_it_was

kept "an entry is deleted" two three four < <(devices; two; three; four)
check "... and comes back" as_it_was

kept "entries are swapped" one two three four < <(devices; three; four; two; one)
check "... and swapped back" as_it_was

kept "an entry is renamed, and moves" two three four < <(devices; two; three; four; entry uno 4M '"a"')
check "... and is another file, without data" zeros uno
check "... until it is renamed back" as_it_was

kept "a file grows by 2 MiB" one two three four < <(devices; one 6M; two; three; four)
check "... which are zeros" zeros one $((4 << 20))
check "... and shrinks again" as_it_was

kept "a file shrinks by 2 MiB" one=2 two three four < <(devices; one 2M; two; three; four)
check "... and grows again" as_it_was

never "another list of devices" \
	"^fmapfs: $manifest:8: one is recorded on a, .* \\($record:[0-9]+\\).*--reallocate" \
	< <(devices; one 4M '"b"'; two; three; four)
never "devices in another order" "two is recorded on a, b, in this order .*--reallocate" \
	< <(devices; one; two '"b", "a"'; three; four)
never "another chunk" "two is recorded in chunks of 2097152 bytes .*--reallocate" \
	< <(devices; one; two; echo 'chunk = "64K"'; three; four)

extent() { # PATH OFFSET
	printf '[[file]]\npath = "%s"\n[[file.extent]]\nlength = "2M"\ndevice = "a"\noffset = "%s"\n' "$@"
}
never "an extent at the end, where a file is" \
	"^fmapfs: $manifest:26: the extent overlaps the space that one \\(line 8\\) has got" \
	< <(devices; files; extent x 2M)
kept "an extent at the end, where none is" one two three four < <(devices; files; extent x 22M)
check "... has what is there" eval 'head -c 15 "$mnt/x" | grep -qx "somebody else.s"'
check "... and goes" as_it_was

never "the paths of the devices are exchanged" \
	"^fmapfs: $manifest:1: device \"a\" \\($b\\) is .*, which is $a now" \
	< <(devices | sed "s,$a,@,; s,$b,$a,; s,@,$b,"; files)
kept "the devices have another order" one two three four \
	< <(devices | tail -n 3; devices | head -n 3; files)
check "... and their own again" as_it_was
kept "the devices have other names" one two three four \
	< <({ devices; files; } | sed 's/"a"/"left"/; s/"b"/"right"/')
check "... and their own again" as_it_was

# --- Devices by what stays -----------------------------------------------------------------

id() { # PATH
	fmapfs --devices | awk -v path="\"$1\"" '$1 == "path" { here = $3 == path } here && $1 == "id" { print $3 }' |
		tr -d '"'
}
check "the devices have ids, and not the same" \
	eval 'id "$a"; id "$b"; [ "$(id "$a")" ] && [ "$(id "$b")" ] && [ "$(id "$a")" != "$(id "$b")" ]'
case ${DAX_KIND-} in
nvdimm) check "... by the UUID of the namespace" eval 'id "$a" | grep -qE "^nvdimm:[0-9a-f-]{36}$"' ;;
cxl) check "... by the serial number of the device" eval 'id "$a" | grep -qE "^cxl:0x[12]@0x0\+0x0$"' ;;
esac
by_id() {
	printf '[[device]]\nname = "%s"\nid = "%s"\n' "$@"
}
kept "devices are named by their ids" one two three four < <(by_id a "$(id "$a")" b "$(id "$b")"; files)
check "... and by their paths again" as_it_was
{ devices | sed "s|^path = \"$a\"|&\nid = \"$(id "$b")\"|"; files; } >"$manifest"
check "a device that is not what the manifest says" \
	refused "^fmapfs: $manifest:1: $a is .*, and not .*, which is $b now" mounted
{ by_id a nvdimm:00000000-0000-0000-0000-000000000000; one; } >"$manifest"
check "a device that is not there" refused 'no DAX device of this machine is nvdimm:0' mounted

# --- Frozen ----------------------------------------------------------------------------------

{ devices; files; entry empty 0 '"a"'; } >"$manifest"
check "a manifest is frozen" eval 'fmapfs --freeze "$manifest" >"$tmp/frozen.toml"'
cp "$tmp/frozen.toml" "$home/other.toml"
check "it is mounted as it is, without a record" fmapfs --daemon "$home/other.toml" "$mnt"
check "... and the files are what they were" whole one two three four
umount "$mnt"
rm "$home"/other.toml*
kept "it takes the place of the manifest" one two three four <"$tmp/frozen.toml"
check "... and leaves it" as_it_was

# --- The way round ---------------------------------------------------------------------------

{ devices; one 4M '"b"'; two; four; extent x 22M; } >"$manifest"
check "a file is placed anew when that is wanted" mounted --reallocate
check "... and has lost its data" zeros one
check "... and no other has" whole two four
umount "$mnt"
{ devices; files; } >"$manifest"
check "a file that is gone has given up its data" eval 'mounted --reallocate && zeros three'
check "files are filled again" fill one three
umount "$mnt"

# --- Owners and times ---------------------------------------------------------------------------

{ devices; one | sed 's/^path.*/&\nuid = "nobody"\ngid = "nogroup"/'; two; three; four; } >"$manifest"
check "owners have names" eval 'mounted && [ "$(stat -c %u:%g "$mnt/one")" = 65534:65534 ]'
touch -d '2001-02-03 04:05:06.789' "$mnt/one"
before=$(stat -c '%y %x' "$mnt"/{one,two} "$mnt")
umount "$mnt"
mounted
check "times are kept" [ "$(stat -c '%y %x' "$mnt"/{one,two} "$mnt")" = "$before" ]
touch -d '2002-02-03 04:05:06' "$mnt/one"
sleep 3
pkill -KILL -x fmapfs
umount -l "$mnt"
mounted
check "... by a server that is killed" eval 'stat -c %y "$mnt/one" | grep "^2002-02-03"'

# --- The record ------------------------------------------------------------------------------------

check "a manifest is mounted once" eval '! fmapfs "$manifest" "$home" 2>"$tmp/said"; cat "$tmp/said"
	grep -qE "^fmapfs: the record $record is in use by process [0-9]+" "$tmp/said"'
umount "$mnt"
{ devices; files; } >"$manifest"
check "it can be unmounted and mounted at once" as_it_was

cp "$record" "$tmp/record"
torn() {
	local all length
	all=$(stat -c %s "$tmp/record")
	for ((length = 0; length < all; length += all / 7)); do
		head -c "$length" "$tmp/record" >"$record"
		refused "^fmapfs: the record $record is " mounted || return
	done
	sed 's/^offset = 0/offset = 4096/; s/offset = [0-9]*/offset = 0/' "$tmp/record" >"$record"
	refused "is damaged" mounted
}
check "a record that is torn or damaged" torn
sed 's/^version = 1$/version = 2/' "$tmp/record" >"$record"
check "a record that is too new" refused 'has version 2, and this fmapfs knows version 1 only' mounted
echo 'hello = "world"' >"$record"
check "a file that is no record" refused 'is no record of fmapfs' mounted
check "... is left alone" grep -qx 'hello = "world"' "$record"
rm "$record"
ln -s "$tmp/record" "$record"
check "a link" refused 'is a symbolic link' mounted
rm "$record"
cp "$tmp/record" "$record"
check "the record is back" as_it_was

mount -t tmpfs tmpfs "$home"
{ devices; files; } >"$manifest"
mount -o remount,ro "$home"
check "a directory that is read-only" \
	refused "^fmapfs: cannot write the record $record: read-only.*--record names another" mounted
elsewhere() {
	mounted --record "$tmp/record" && whole one two three four && umount "$mnt"
}
check "the record is elsewhere" elsewhere
umount "$home"

check "no file is left over" eval 'ls -A "$home" "$tmp"; [ -z "$(ls -A "$home" "$tmp" | grep "^\.fmapfs")" ]'
finish
