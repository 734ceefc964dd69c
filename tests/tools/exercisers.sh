#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# exercisers.sh: well-known programs that find bugs of file systems, on mapped
# files: fio with verification, fsx, and those stressors of stress-ng that work on a
# file. Prints KTAP.
#
# All I/O must go to memory: at the end, the server has seen no READ and no WRITE.
#
# Each takes some seconds by default. "make exercise" runs them longer, as does
# EXERCISE=N in the guest: N times as much of everything. They are skipped on emulated
# CXL memory, which is too slow, unless EXERCISE is set.

cd "$(dirname "$0")" || exit 1
times=${EXERCISE:-1}
lib=/lib/fuse-dax-fmap/exercisers
mnt=/mnt pool=24

skip() {
	echo "1..0 # SKIP $*"
	exit 4
}

[ -n "${EXERCISE-}" ] || [ "${DAX_KIND-}" != cxl ] || skip "emulated CXL memory is too slow"
for program in fio fsx stress-ng; do
	command -v "$program" >/dev/null || skip "there is no $program"
done

work=$(mktemp -d /tmp/exercisers.XXXXXX)
count=0 failed=0
result() { # STATUS TEXT; of a long log, prints the beginning and the end
	count=$((count + 1))
	[ "$1" = 0 ] || failed=$((failed + 1))
	[ "$1" = 0 ] || awk '{ line[NR] = $0 }
		END { for (i = 1; i <= NR; i++)
			if (i <= 15 || i > NR - 15)
				print "# " line[i]
			else if (i == 16)
				print "# ... " (NR - 30) " lines ..." }' "$work/log"
	echo "$([ "$1" = 0 ] || echo "not ")ok $count $2"
}

# The manifest: one file of 2 MiB pages, one of 4 KiB pages, and a pool.
read -r a b <<<"$DAX_DEVICES"
devices="device = [{ name = \"a\", path = \"$a\" }, { name = \"b\", path = \"$b\" }]"
{
	echo "$devices"
	file() { # PATH SIZE CHUNK
		printf '[[file]]\npath = "%s"\nsize = %s\ndevices = ["a", "b"]\nchunk = "%s"\n' "$@"
	}
	file huge '"32M"' 2M
	file small 1000001 4K
	for ((i = 0; i < pool; i++)); do
		file "pool/$i" '"8M"' 2M
	done
} >"$work/manifest.toml"

cleanup() {
	umount "$mnt" && fmapctl unload striped >/dev/null
	rmdir /sys/fs/bpf/fuse_dax_fmap 2>/dev/null
	rm -rf "$work" /dev/shm/fixed-taken
}
trap cleanup EXIT
# fsx expects zeros behind the end of a file, in its last page. There a mapped file has what the
# memory has, and so the data of an earlier test. So all memory that is used here is zeroed.
wipe() {
	local server name
	{
		echo "$devices"
		printf '[[file]]\npath = "%s"\nsize = "128M"\ndevices = ["%s"]\n' a a b b
	} >"$work/wipe.toml"
	fmapfs --daemon --pid-file "$work/pid" "$work/wipe.toml" "$mnt" || return
	server=$(cat "$work/pid")
	for name in a b; do
		dd if=/dev/zero of="$mnt/$name" bs=1M count=128 conv=notrunc status=none || return
	done
	umount "$mnt" || return
	while kill -0 "$server" 2>/dev/null; do sleep 0.1; done
}
mounted() {
	fmapctl load "${FMAP_BPF_DIR:-/lib/fuse-dax-fmap/bpf}/striped.bpf.o" && wipe || return
	fmapfs --daemon --stats "$work/stats" --pid-file "$work/pid" "$work/manifest.toml" "$mnt"
}
if ! mounted >"$work/log" 2>&1; then
	echo "Bail out! no mount: $(cat "$work/log")"
	exit 1
fi

# requests NAME: the number of such requests that the server has seen.
requests() {
	rm -f "$work/stats"
	kill -USR1 "$(cat "$work/pid")"
	for ((i = 0; i < 100; i++)); do
		[ ! -s "$work/stats" ] || break
		sleep 0.05
	done
	awk -v name="$1" '$1 == name { print $2 }' "$work/stats"
}

# --- fio: write at random, read back, compare --------------------------------------

run_fio() { # NAME OPTION...
	local name=$1 status=0 start=$SECONDS
	shift
	fio --name="$name" --filename="$mnt/huge" --size=4M --rw=randwrite --bsrange=512-64k \
		--verify=crc32c --verify_fatal=1 --do_verify=1 --end_fsync=1 --fallocate=none \
		--loops="$times" --output-format=json --output="$work/json" "$@" \
		>"$work/log" 2>&1 || status=$?
	cat "$work/json" >>"$work/log"
	result $status "fio $name: $(awk -F'[:,]' '
		/"total_ios"/ { n[++i] = $2 + 0 }
		/"error"/ { errors += $2 }
		END { printf "%d reads, %d writes, %d errors", n[1], n[2], errors }' "$work/json"),$(
		) $((SECONDS - start)) s"
}

run_fio psync --ioengine=psync
run_fio mmap --ioengine=mmap
run_fio libaio --ioengine=libaio --iodepth=8 --direct=1
run_fio io_uring --ioengine=io_uring --iodepth=8
# No fsync: with fixed buffers, fio's fsync request is wrong for any file system.
run_fio io_uring_fixed --ioengine=io_uring --iodepth=8 --direct=1 --fixedbufs=1 --registerfiles=1 \
	--end_fsync=0
# Buffers in a mapped file, too.
run_fio psync_from_mapping --ioengine=psync --direct=1 --iomem="mmapshared:$mnt/pool/0"

# --- fsx: all kinds of operations in any order, against a model -------------------------

cat >"$work/fsx.toml" <<'EOF'
# A size that does not change: as for a block device.
blockmode = true
[opsize]
min = 1
max = 65536
[weights]
close_open = 0
truncate = 0
posix_fallocate = 0
punch_hole = 0
read = 10
write = 10
mapread = 10
mapwrite = 10
invalidate = 2
fsync = 1
fdatasync = 1
sendfile = 5
posix_fadvise = 2
copy_file_range = 5
EOF

run_fsx() { # FILE OPERATIONS SEED
	local status=0 start=$SECONDS
	fsx -q -f "$work/fsx.toml" -P "$work" -N "$2" -S "$3" "$mnt/$1" >"$work/log" 2>&1 || status=$?
	result $status "fsx $1: $2 operations with seed $3, $((SECONDS - start)) s"
}

run_fsx small $((500 * times)) 1
run_fsx pool/1 $((300 * times)) 2

# --- stress-ng: each stressor for a while ---------------------------------------------------

run_stress() { # STRESSOR OPTION...
	local status=0 before after
	mkdir -p "$work/stress"
	before=$(requests OPEN)
	LD_PRELOAD=$lib/fixed.so FIXED_DIR=$work/stress FIXED_POOL=$mnt/pool FIXED_FILES=$pool \
		stress-ng --temp-path "$work/stress" --verify --metrics-brief --oom-avoid \
		--timeout $((times + 1)) "--$1" 2 "${@:2}" >"$work/log" 2>&1 || status=$?
	# The stressor has used the mapped files.
	after=$(requests OPEN)
	[ "$status" != 0 ] || [ "$after" -gt "$before" ] || status=1
	result $status "stress-ng $1: $(awk -v name="$1" '
		$1 == "stress-ng:" && $2 == "metrc:" && $4 == name { print $5 " operations in " $6 " s" }
		' "$work/log"), $((after - before)) opens"
}

run_stress msync --msync-bytes 4M
run_stress fault
run_stress mmap --mmap-bytes 4M --mmap-file
run_stress madvise
run_stress hdd --hdd-bytes 4M
run_stress iomix --iomix-bytes 4M
if [ -n "${EXERCISE-}" ]; then
	run_stress aio
	run_stress io-uring
	# The whole file for both processes: each expects the file to have what it has written.
	run_stress readahead --readahead-bytes 16M
	run_stress seek --seek-size 4M
	run_stress sendfile
	run_stress lockofd
	run_stress flock
fi

reads=$(requests READ) writes=$(requests WRITE)
echo "server: READ $reads, WRITE $writes" >"$work/log"
[ "$reads $writes" = "0 0" ]
result $? "the server was not asked for data: READ $reads, WRITE $writes"
echo "1..$count"
[ $failed = 0 ]
