#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# fmapctl gives DAX devices to drivers, and takes them back. What is in use stays where it is:
# memory that a mount has, a program, or, as system RAM, the kernel. A refusal is one sentence,
# and changes nothing. The bytes of a device survive all that does not make it system RAM.

# shellcheck disable=SC2317 # functions are called by check, and by the trap

# shellcheck source=../lib/ktap.bash
. "$(dirname "$0")/ktap.bash"
need_one_file "fmapctl fmapfs python3"
name=${device##*/} sysfs=/sys/bus/dax/devices/${device##*/}
id=$(fmapfs --devices | awk -v path="\"$device\"" '$1 == "path" { here = $3 == path }
	here && $1 == "id" { gsub("\"", "", $3); print $3 }')

had_kmem=$(grep -c '^kmem ' /proc/modules)
tidy_up() {
	umount "$dir" 2>/dev/null
	umount -l "$tmp/theirs2" "$tmp/theirs" 2>/dev/null
	[ -z "${holder-}" ] || kill "$holder" 2>/dev/null
	wait
	fmapctl unload striped >/dev/null 2>&1
	fmapctl bind "$name" >/dev/null
	[ -z "${policy-}" ] || echo "$policy" >"$memory/auto_online_blocks"
	[ "$had_kmem" = 1 ] || rmmod kmem 2>/dev/null
	rm -rf "$tmp" /dev/dax /run/fuse-dax-fmap
	[ -z "${own_list-}" ] || rm -rf /etc/fuse-dax-fmap
}
trap tidy_up EXIT

driver() {
	basename "$(readlink "$sysfs/driver")"
}
is() { # DRIVER
	driver
	[ "$(driver)" = "$1" ]
}
says() { # PATTERN COMMAND...
	local pattern=$1
	shift
	"$@" >"$tmp/said" 2>&1 || {
		echo "status $?"
		cat "$tmp/said"
		return 1
	}
	cat "$tmp/said"
	grep -qE "$pattern" "$tmp/said"
}
# Prints one line with PATTERN to stderr, nothing to stdout; status 1; and the driver is the same.
refuses() { # PATTERN COMMAND...
	local pattern=$1 status=0 before
	before=$(driver)
	shift
	"$@" >"$tmp/stdout" 2>"$tmp/stderr" || status=$?
	cat "$tmp/stdout" "$tmp/stderr"
	echo "status $status"
	[ "$status" = 1 ] && [ ! -s "$tmp/stdout" ] && [ "$(driver)" = "$before" ] &&
		[ "$(wc -l <"$tmp/stderr")" = 1 ] && grep -qE "^fmapctl: .*$pattern" "$tmp/stderr" &&
		! grep -qE 'os error|panicked' "$tmp/stderr"
}
# One value of a device, in the words of Python.
value() { # EXPRESSION
	fmapctl devices --json | python3 -c '
import json, sys
found = [d for d in json.load(sys.stdin)["devices"] if d["name"] == sys.argv[1]]
device, = found
print(eval(sys.argv[2]))' "$name" "$1"
}
has() { # EXPRESSION VALUE
	value "$1"
	[ "$(value "$1")" = "$2" ]
}
eventually() { # COMMAND...
	local i
	for ((i = 0; i < 200 * ${FMAP_SLOW:-1}; i++)); do
		! "$@" || return 0
		sleep 0.05
	done
	return 1
}
section() { # the lines of "devices" about this one
	fmapctl devices | awk -v name="$name" '/^[^ ]/ { here = $1 == name } here'
}

echo "TAP version 13"

# --- What there is ----------------------------------------------------------------------

check "devices lists it" says "^  driver  fsdev_dax" section
check "... with what identifies it" says "^  id      ${id//+/\\+}\$" section
check "... and its size" says "^  size    $(<"$sysfs/size") " section
check "... and that nobody uses it" says "^  used by nobody" section
check "JSON says the same" has 'device["driver"], device["id"]' "('fsdev_dax', '$id')"
check "... and where the memory is" has 'sum(r["size"] for r in device["ranges"])' "$(<"$sysfs/size")"
check "... to the byte" has 'hex(device["ranges"][0]["start"])' "$(<"$sysfs/resource")"
mkdir -p /dev/dax/by-test
ln -s "../../$name" /dev/dax/by-test/one
check "a name that stays is shown" says '^  name    /dev/dax/by-test/one$' section
check "... also in JSON" has 'device["links"]' "['/dev/dax/by-test/one']"

# --- There and back ---------------------------------------------------------------------

check "what is bound stays bound" says "^$name: bound to fsdev_dax already" fmapctl bind "$name"
check "ops are loaded" fmapctl load "$bpf"
check "a server mounts" fmapfs --daemon "$manifest" "$dir"
echo something precious | dd of="$dir/file" conv=notrunc status=none
check "devices knows the mount" says "^  used by the mount on $dir\$" section
check "... also in JSON" has 'device["used_by"]["mount"]' "$dir"
check "a device of a mount is refused" \
	refuses "$name: it is used by the mount on $dir, which process [0-9]+ \(fmapfs\) serves: unmount" \
	fmapctl unbind "$name"
if modinfo kmem >/dev/null 2>&1; then # else that is the reason
	check "... also if the driver is named" refuses "the mount on $dir" fmapctl unbind "$name" --to kmem
fi
precious() {
	[ "$(head -c 18 "$dir/file")" = "something precious" ]
}
check "... and the mount has not noticed" precious
umount "$dir"

check "it is given back" says "^$name: bound to device_dax, and was bound to fsdev_dax\$" \
	fmapctl unbind "$name"
check "... to device_dax" is device_dax
check "once more" says 'bound to device_dax already' fmapctl unbind "$name"
check "fmapfs says how to bind it" \
	says "is bound to the driver device_dax: .fmapctl bind $name. binds it" \
	bash -c "! fmapfs $manifest $dir"

sleep 1000 9<>"$device" &
holder=$!
check "devices knows who has it open" says "^  used by process $holder \(sleep\)\$" section
check "a device that a program has open is refused" \
	refuses "$name: process $holder \(sleep\) has $device open: end that first" fmapctl bind "$name"
kill "$holder"
wait "$holder" 2>/dev/null
holder=
map_it() { # and close it
	python3 - "$device" "$tmp/mapped" <<-'END' &
		import ctypes, os, sys, time
		libc = ctypes.CDLL(None, use_errno=True)
		libc.mmap.restype = ctypes.c_void_p
		libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + 3 * [ctypes.c_int] + [ctypes.c_long]
		fd = os.open(sys.argv[1], os.O_RDWR)
		shared = 1
		assert libc.mmap(None, 2 << 20, 3, shared, fd, 0) != ctypes.c_void_p(-1).value
		os.close(fd)
		open(sys.argv[2], "x")
		time.sleep(1000)
	END
	holder=$!
	eventually [ -e "$tmp/mapped" ]
}
check "a program maps it, and closes it" map_it
check "... which is refused as well" \
	refuses "$name: process $holder \(python3\) has $device open: end that first" fmapctl bind "$name"
kill "$holder"
wait "$holder" 2>/dev/null
holder=

# A user who mounts FUSE gives the mount any source. No server answers here: stat(2) of a file would never
# return.
theirs() {
	mkdir "$tmp/theirs" "$tmp/theirs2"
	python3 - "$tmp/mounted" "$device" "$tmp/theirs" "/dev/..$tmp/theirs/x" "$tmp/theirs2" <<-'END' &
		import ctypes, os, sys, time
		libc = ctypes.CDLL(None, use_errno=True)
		ready, *mounts = [arg.encode() for arg in sys.argv[1:]]
		while mounts:
		    source, place, *mounts = mounts
		    options = f"fd={os.open('/dev/fuse', os.O_RDWR)},rootmode=40000,user_id=65534,group_id=65534,allow_other"
		    nosuid_nodev = 6
		    assert libc.mount(source, place, b"fuse.theirs", nosuid_nodev, options.encode()) == 0
		open(ready, "x")
		time.sleep(1000)
	END
	holder=$!
	eventually [ -e "$tmp/mounted" ]
}
check "a user names it as the source of a mount, or a path of that" theirs
check "... and does not have it" says "^  used by nobody" section
check "... nor does that keep anybody from it" says 'bound to fsdev_dax' timeout 60 fmapctl bind "$name"
umount -l "$tmp/theirs2" "$tmp/theirs"
kill "$holder"
wait "$holder" 2>/dev/null
holder=
check "it is given back once more" says 'bound to device_dax' fmapctl unbind "$name"

new_id() {
	echo "$name" >/sys/bus/dax/drivers/fsdev_dax/new_id
}
check "new_id succeeds" new_id
check "... and does nothing" is device_dax
check "bind by the node" says "^$name: bound to fsdev_dax, and was bound to device_dax\$" \
	fmapctl bind "$device"
check "... does" is fsdev_dax
check "back, by the name that stays" says 'bound to device_dax' fmapctl unbind /dev/dax/by-test/one
check "... and there again, by the id" says 'bound to fsdev_dax' fmapctl bind "$id"
# JSON says what was done, and is what "devices" says of the device.
done_as_json() { # COMMAND DRIVER WAS
	fmapctl "$1" --json "$name" >"$tmp/done" && fmapctl devices --json >"$tmp/all" || return
	cat "$tmp/done"
	python3 - "$tmp/done" "$tmp/all" "$name" "$2" "$3" <<-'END'
		import json, sys
		done, all, name, driver, was = sys.argv[1:]
		device, = json.load(open(done))["devices"]
		assert device.pop("was") == was and device.pop("at_boot") is None and device["driver"] == driver
		assert device in json.load(open(all))["devices"]
	END
}
check "unbind says in JSON what it has done" done_as_json unbind device_dax fsdev_dax
check "... and bind" done_as_json bind fsdev_dax device_dax
check "... also if there is nothing to do" done_as_json bind fsdev_dax fsdev_dax
check "the bytes are what they were" fmapfs --daemon "$manifest" "$dir"
check "... in the file" precious
umount "$dir"

# A signal that comes while the device has no driver does not leave it so.
signalled() {
	local tracer status=0
	fmapctl unbind "$name" || return
	strace -f -qq -o /dev/null -P /sys/bus/dax/drivers/device_dax/unbind -e trace=write \
		-e inject=write:delay_exit=3s fmapctl bind "$name" >"$tmp/said" 2>&1 &
	tracer=$!
	eventually [ ! -e "$sysfs/driver" ] || status=1
	kill -TERM "$(pgrep -x fmapctl)" || status=1
	wait "$tracer" || status=$?
	cat "$tmp/said"
	[ "$status" = 0 ] && is fsdev_dax
}
if type -P strace >/dev/null; then
	check "a signal in the middle ends nothing" signalled
fi

# The kernel cannot be stopped once it unbinds, but fmapctl does not wait with it for ever. The mount is
# gone, so no list has it; its memory is in a pipe.
pin() {
	fmapfs --daemon "$manifest" "$dir" || return
	python3 - "$dir/file" "$tmp/pinned" <<-'END' &
		import ctypes, os, sys, time
		libc = ctypes.CDLL(None, use_errno=True)
		libc.mmap.restype = ctypes.c_void_p
		libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + 3 * [ctypes.c_int] + [ctypes.c_long]
		libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
		fd = os.open(sys.argv[1], os.O_RDWR)
		shared = 1
		at = libc.mmap(None, 4096, 3, shared, fd, 0)
		piece = (ctypes.c_size_t * 2)(at, 4096)
		r, w = os.pipe()
		assert libc.vmsplice(w, piece, ctypes.c_size_t(1), 0) == 4096
		libc.munmap(at, 4096)
		os.close(fd)
		open(sys.argv[2], "x")
		time.sleep(1000)
	END
	holder=$!
	eventually [ -e "$tmp/pinned" ] && umount -l "$dir" &&
		eventually [ ! -s /sys/kernel/debug/fuse_dax_fmap/mounts ]
}
comes_back() {
	timeout 60 fmapctl unbind "$name" --timeout 3 >"$tmp/said" 2>&1
	local status=$?
	cat "$tmp/said"
	[ "$status" = 1 ] && grep -q "$name: fsdev_dax has not let go of it within 3 s" "$tmp/said"
}
check "a pipe has memory of a mount that is gone" pin
check "unbind comes back" comes_back
kill "$holder"
wait "$holder" 2>/dev/null
holder=
check "... and when the pipe is gone, the device can be bound" says "^$name: bound to fsdev_dax" fmapctl bind "$name"

# One fmapctl at a time: the second waits, and says so.
waits() {
	flock /run/fuse-dax-fmap/lock sleep 5 &
	sleep 0.5
	says 'waiting for another fmapctl' fmapctl bind "$name" && grep -q "bound to fsdev_dax already" "$tmp/said"
}
check "a second fmapctl waits for the first" waits

# It has no driver, as after an unbind in sysfs.
echo "$name" >/sys/bus/dax/drivers/fsdev_dax/unbind
check "a device without a driver is shown" says "^  driver  none" section
check "... and bound" says "^$name: bound to fsdev_dax\$" fmapctl bind "$name"

# --- At boot ----------------------------------------------------------------------------

list=/etc/fuse-dax-fmap/devices
listed() { # LINE...
	cat "$list"
	[ "$(<"$list")" = "$(printf '%s\n' "$@")" ]
}
if [ ! -e /etc/fuse-dax-fmap ]; then
	check "without the unit for it, nothing is bound at boot" \
		refuses "$name: bound to fsdev_dax, but at boot all is as before: nothing binds devices at boot here" \
		fmapctl bind --at-boot "$name"
	mkdir /etc/fuse-dax-fmap
	own_list=1
	link=/dev/dax/by-id/$(tr ',/' __ <<<"$id")
	printf '# mine\n/dev/dax/by-test/other' >"$list"
	check "it is bound at boot" says "already; it is bound at boot, too\$" fmapctl bind --at-boot "$name"
	check "... by its id, and the rest of the list stays" listed '# mine' /dev/dax/by-test/other "$link"
	check "once more" says "it is bound at boot already\$" fmapctl bind --at-boot "$name"
	check "unbind alone does not change that" says 'bound to device_dax' fmapctl unbind "$name"
	check "... as bind says" says 'it is bound at boot already' fmapctl bind --at-boot "$name"
	echo "/dev/dax/by-test/one" >>"$list"
	check "... also in JSON" says '"at_boot": true' fmapctl bind --json --at-boot "$name"
	check "it is not bound at boot" says "it is not bound at boot any more\$" fmapctl unbind --at-boot "$name"
	check "... under no name, and the rest stays" listed '# mine' /dev/dax/by-test/other
	# After a reboot that may be another device.
	echo "$device" >>"$list"
	check "a node in the list is no name that stays" says "it is bound at boot, too\$" fmapctl bind --at-boot "$name"
	check "... and the name that stays is there, too" listed '# mine' /dev/dax/by-test/other "$device" "$link"
	check "... until neither is" says "it is not bound at boot any more\$" fmapctl unbind --at-boot "$name"
	check "... and the others stay" listed '# mine' /dev/dax/by-test/other
	check "once more, too" says "already; it is not bound at boot\$" fmapctl unbind --at-boot "$name"
	check "it is bound again" says 'bound to fsdev_dax' fmapctl bind "$name"
fi

# --- What is refused --------------------------------------------------------------------

check "a device that is not there" refuses "there is no DAX device dax99.0 \(but .*$name" \
	fmapctl bind dax99.0
check "a node that is not there" refuses '/dev/dax99.0: No such file' fmapctl bind /dev/dax99.0
check "another device" refuses '/dev/null is no DAX device' fmapctl bind /dev/null
check "an id that is not there" refuses 'no DAX device nvdimm:no' fmapctl bind nvdimm:no
check "a file" refuses "$manifest is no DAX device" fmapctl unbind "$manifest"
no_driver() {
	local status=0
	fmapctl unbind "$name" --to nonsense || status=$?
	[ "$status" = 2 ]
}
check "a driver that is not there" no_driver
nobody() {
	refuses 'this needs root' setpriv --reuid 65534 --clear-groups fmapctl bind "$name"
}
check "without root" nobody
check "devices without root" setpriv --reuid 65534 --clear-groups fmapctl devices

# --- System RAM -------------------------------------------------------------------------

node=$(cat "$sysfs/target_node" 2>/dev/null) memory=/sys/devices/system/memory
if ! modinfo kmem >/dev/null 2>&1; then
	check "without kmem it stays where it is" refuses "no driver kmem" \
		fmapctl unbind "$name" --to kmem
	finish
elif [ -z "$node" ]; then
	# The machine has no NUMA node for it, so kmem refuses it.
	check "what the driver refuses goes back" \
		refuses "$name: kmem did not take it: Invalid argument.*bound to fsdev_dax again, as before" \
		fmapctl unbind "$name" --to kmem
	check "... and works" fmapfs --daemon "$manifest" "$dir"
	check "... with its bytes" precious
	umount "$dir"
	finish
fi

blocks() { # the blocks of memory of this device
	python3 - "$sysfs" $memory <<-'END'
		import os, sys
		sysfs, memory = sys.argv[1:]
		read = lambda path: open(path).read().strip()
		size = int(read(memory + "/block_size_bytes"), 16)
		first = int(read(sysfs + "/resource"), 16)
		last = first + int(read(sysfs + "/size"))
		for n in range(-(-first // size), last // size):
		    if os.path.exists(f"{memory}/memory{n}"):
		        print(f"{memory}/memory{n}")
	END
}
zones() {
	local block
	for block in $(blocks); do
		echo "${block##*/} $(<"$block/state") $(<"$block/valid_zones")"
	done
}
# Movable memory is in the zone Movable, if there is one, so nearly all that a program has is there.
start() { # PROGRAM, which says by a file that it is ready, and stays
	local i
	rm -f "$tmp/ready"
	python3 -c "import mmap, os, sys, time
$1
open(sys.argv[1], 'x')
time.sleep(1000)" "$tmp/ready" &
	holder=$!
	for ((i = 0; i < 600 * FMAP_SLOW; i++)); do
		[ ! -e "$tmp/ready" ] || return 0
		kill -0 "$holder" || return
		sleep 0.1
	done
	return 1
}
is_used() { # KIB of the zone Movable
	awk -v wanted="$1" '/^Node/ { here = $4 == "Movable" }
		here && $1 == "pages" && $2 == "free" { free += $3 } here && $1 == "present" { all += $2 }
		END { print all, free; exit (all - free) * 4 < wanted }' /proc/zoneinfo
}
leave() {
	kill "$holder" 2>/dev/null
	wait "$holder" 2>/dev/null
	holder=
}
put_online() {
	local block
	for block in $(blocks); do
		echo online_movable >"$block/state" || return
	done
	zones
	! zones | grep -qv ' online Movable'
}
total() {
	awk '/^MemTotal/ { print $2 }' /proc/meminfo
}
before=$(total) FMAP_SLOW=${FMAP_SLOW:-1}

# Nothing of the kernel's own may get there: this test could not make it go away.
policy=$(<$memory/auto_online_blocks)
echo offline >"$memory/auto_online_blocks"
check "it becomes system RAM" \
	says "^$name: bound to kmem, and was bound to fsdev_dax \(none of its [0-9]+ blocks of memory is online" \
	fmapctl unbind "$name" --to kmem
check "... with the driver for that" is kmem
if [ "$DAX_KIND" = cxl ]; then
	# QEMU's CXL memory is made for data: it crashes if code, or a page table, is there.
	check "memory that is offline is given up at once" \
		says "bound to fsdev_dax, and was bound to kmem" fmapctl bind "$name"
	check "... with none of it left" [ -z "$(blocks)" ]
	check "it is what it was bound to that it is given back to" says "bound to kmem" fmapctl unbind "$name"
	check "... and to what is named" says "bound to device_dax, and was bound to kmem" \
		fmapctl unbind "$name" --to device_dax
	check "... and to mounts" says "bound to fsdev_dax" fmapctl bind "$name"
	check "a server mounts on it" fmapfs --daemon "$manifest" "$dir"
	umount "$dir"
	finish
fi
check "it can be used" put_online
all=$(blocks | wc -l)
check "devices says so" \
	says "used by the kernel, as system RAM: $all of $all blocks of memory are online" section
check "JSON, too" has 'device["used_by"]["memory_blocks"]' "{'online': $all, 'all': $all}"
check "the machine has more memory" [ "$(total)" -gt "$before" ]

# Memory that can move does.
check "a program has memory there" start '
m = mmap.mmap(-1, 32 << 20)
m.write(b"x" * len(m))'
check "... truly" is_used 32768
check "movable memory moves away, and the device is bound" \
	says "bound to fsdev_dax, and was bound to kmem" fmapctl bind "$name"
check "... truly" is fsdev_dax
check "... without memory of it being left" [ -z "$(blocks)" ]
check "the program lives" kill -0 "$holder"
leave
check "the machine has the memory it had" [ "$(total)" -le "$before" ]
check "it is given back to kmem" says "bound to kmem" fmapctl unbind "$name"
check "... and can be used again" put_online

# Memory that cannot move: pages of a file that are in a pipe, too.
check "a program pins memory there" start '
fd = os.open("/tmp", os.O_RDWR | os.O_TMPFILE)
os.write(fd, b"y" * (8 << 20))
os.lseek(fd, 0, 0)
r, w = os.pipe()
assert os.splice(fd, w, 65536) == 65536'
zones=$(zones)
same_zones() {
	zones
	[ "$(zones)" = "$zones" ]
}
check "memory that is pinned is refused" \
	refuses "in use as system RAM, and memory[0-9]+ does not go offline \(it did not succeed within 2 s\).*pinned.*all of it is in use as before" \
	fmapctl bind "$name" --timeout 2
check "... and all blocks are online as before" same_zones
check "... also if another driver is named" \
	refuses "all of it is in use as before" fmapctl unbind "$name" --to device_dax --timeout 2
check "... and all blocks are still online as before" same_zones
interrupted() {
	timeout --preserve-status -s INT 2 fmapctl bind "$name" --timeout 100 >"$tmp/said" 2>&1
	cat "$tmp/said"
	grep -q 'a signal ended the attempt.*in use as before' "$tmp/said"
}
check "a signal ends the attempt" interrupted
check "... and all blocks are online as they were before the signal" same_zones
check "... and the driver is the same" is kmem
leave
check "... and programs can use it" start '
m = mmap.mmap(-1, 16 << 20)
m.write(b"x" * len(m))'
leave

check "when nobody pins it, it can go" says "bound to fsdev_dax, and was bound to kmem" \
	fmapctl bind "$name"
check "... with none of it left" [ -z "$(blocks)" ]
check "the kernel has not lost any" bash -c "! dmesg | grep -q 'stuck online'"
check "a server mounts on it" fmapfs --daemon "$manifest" "$dir"
umount "$dir"

finish
