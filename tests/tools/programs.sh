#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# programs.sh: unmodified programs of Debian that set the size which their file has already,
# or ask for space that it has. They work only if a mapped file allows that: LMDB with a
# writable map, rsync --inplace, libpmem and fio's engine for it, os.truncate() of Python,
# truncate(1), fallocate(1), and the write-ahead log of SQLite. And some that do not work, as they
# truncate the file first: cp, and the redirection of a shell.
#
# What each program has written is compared with what it writes to a tmpfs, or with its
# input; and again after an unmount and a mount. The files keep their sizes, can be
# synced, and the server sees no READ and no WRITE.
#
# SQLite is killed while half of its work is in the log, which the next mount has to find.
# fio runs where "make check" installs it, which is not where memory is slow.

# shellcheck disable=SC2317 # functions are called by check, and by the trap

bpf=${FMAP_BPF_DIR:-/lib/fuse-dax-fmap/bpf}/striped.bpf.o
# shellcheck source=../lib/ktap.bash
. "$(dirname "$0")/ktap.bash"
need fmapctl fmapfs
[ -r "$bpf" ] || skip "there is no $bpf"
read -r a b _ <<<"${DAX_DEVICES-}"
[ -c "${b:-/}" ] || skip "there are no two DAX devices"
PATH+=:/usr/lib/fuse-dax-fmap/exercisers

tmp=$(mktemp -d) mnt=$tmp/mnt model=$tmp/model stats=$tmp/stats
mkdir "$mnt" "$model"
tidy_up() {
	umount "$mnt" 2>/dev/null
	fmapctl unload striped >/dev/null 2>&1
	rmdir /sys/fs/bpf/fuse_dax_fmap 2>/dev/null
	rm -rf "$tmp"
}
trap tidy_up EXIT

# The sizes are not multiples of a page, unless a program needs that.
declare -A size=(
	[lmdb]=524288 [lmdb-lock]=8192 [rsync]=1000003 [pmem]=1000003 [python]=300001
	[util]=300001 [fio]=524288 [sqlite]=0 [sqlite-wal]=1048576
)

# --- What the programs do, to a tmpfs or to a mapped file ------------------------------

lmdb() { # DIR FIRST LAST
	libraries lmdb "$1/lmdb" "${size[lmdb]}" "$2" "$3"
}
keys() { # DIR; as LMDB's own tool reads them
	mdb_dump -n -p "$1/lmdb" | sed '/=/d'
}
# Without exclusive mode SQLite would create a file for memory that processes share. An update
# writes values of the same length: this database cannot grow.
sql() { # DIR COMMAND...
	sqlite3 -batch -bail "$1/sqlite" "PRAGMA locking_mode = EXCLUSIVE;" \
		".filectrl persist_wal 1" "PRAGMA wal_autocheckpoint = 0;" "${@:2}"
}
update() { # FACTOR
	echo "UPDATE t SET v = printf('%0200d', id * $1) WHERE id % $1 = 0;"
}
rows() { # DIR
	sql "$1" "PRAGMA integrity_check; SELECT * FROM t;"
}
run_fio() {
	fio --name=pmem --ioengine=libpmem --filename="$mnt/fio" --size="${size[fio]}" --bs=4k \
		--rw=randwrite --direct=1 --sync=1 --fallocate=none --verify=crc32c
}

# --- The files ---------------------------------------------------------------------------

have() { # PROGRAM...: they are installed; else a SKIP is printed
	type -P "$@" >/dev/null && return
	count=$((count + 1))
	echo "ok $count $1 # SKIP not all are there of: $*"
	return 1
}
noise() { # SEED BYTES
	yes "noise of $1" | cat -n | head -c "$2"
}
prepare() {
	local name
	if type -P libraries >/dev/null; then
		lmdb "$model" 1 500 || return
		truncate -s "${size[lmdb]}" "$model/lmdb" || return
	fi
	if type -P sqlite3 >/dev/null; then
		sqlite3 -batch -bail "$model/sqlite" "PRAGMA page_size = 4096;" \
			"PRAGMA journal_mode = WAL;" "CREATE TABLE t(id INTEGER PRIMARY KEY, v);" \
			"INSERT INTO t SELECT value, printf('%0200d', 0) FROM generate_series(1, 1000);" ||
			return
		size[sqlite]=$(stat -c %s "$model/sqlite")
	fi
	for name in rsync pmem python util; do
		noise "$name" "${size[$name]}" >"$model/$name"
	done
	{
		printf 'device = [{ name = "a", path = "%s" }, { name = "b", path = "%s" }]\n' "$a" "$b"
		for name in "${!size[@]}"; do
			printf '[[file]]\npath = "%s"\nsize = %s\ndevices = ["a", "b"]\nchunk = "64K"\n' \
				"$name" "${size[$name]}"
		done
	} >"$tmp/files.toml"
	fmapctl load "$bpf" && mounted
}
mounted() {
	fmapfs --daemon --stats "$stats" --pid-file "$tmp/pid" "$tmp/files.toml" "$mnt"
}
unmounted() { # the server is gone then, and has left its statistics
	local server i
	server=$(cat "$tmp/pid")
	umount "$mnt" || return
	for ((i = 0; i < 200 * ${FMAP_SLOW:-1}; i++)); do
		kill -0 "$server" 2>/dev/null || return 0
		sleep 0.05
	done
	return 1
}
fill() { # NAME...: as they are in the model
	local name
	for name; do
		dd if="$model/$name" of="$mnt/$name" bs=64K conv=notrunc status=none || return
	done
}
same() { # NAME
	cmp "$model/$1" "$mnt/$1"
}
sound() { # NAME: its size, and that it can be synced
	stat -c '%n: %s' "$mnt/$1"
	[ "$(stat -c %s "$mnt/$1")" = "${size[$1]}" ] && sync "$mnt/$1"
}
asked_for_nothing() {
	cat "$stats"
	grep -qx 'READ 0' "$stats" && grep -qx 'WRITE 0' "$stats"
}

echo "TAP version 13"
check "the files are mounted" prepare
[ $failed = 0 ] || finish

# --- The programs ------------------------------------------------------------------------

same_keys() {
	keys "$model" >"$tmp/want" && keys "$mnt" >"$tmp/got" && grep -q 'key 700' "$tmp/got" &&
		cmp "$tmp/want" "$tmp/got"
}
if have libraries mdb_dump; then
	fill lmdb && lmdb "$model" 400 700
	check "LMDB with a writable map" lmdb "$mnt" 400 700
	check "... puts what it should" same_keys
	check "... and has its size" sound lmdb
fi

changed() {
	noise change 1000 | dd of="$model/rsync" bs=1 seek=500000 conv=notrunc status=none
}
in_place() { # OPTION...
	rsync --inplace --times --fsync "$@" "$model/rsync" "$mnt/rsync"
}
unchanged() {
	in_place --itemize-changes >"$tmp/said" && cat "$tmp/said" && [ ! -s "$tmp/said" ]
}
if have rsync; then
	# The size is the same already, and perhaps the second of the mtime.
	check "rsync --inplace, all of a file" in_place --whole-file --ignore-times
	check "... is a copy" same rsync
	changed
	check "rsync --inplace, what is new" in_place --no-whole-file --ignore-times
	check "... is a copy" same rsync
	check "rsync --inplace --preallocate" in_place --preallocate --whole-file --ignore-times
	check "... is a copy, of the same time" unchanged
	check "... of its size" sound rsync
fi

create() {
	libraries pmem "$mnt/pmem" "${size[pmem]}" <"$model/pmem"
}
if have libraries; then
	check "libpmem, which creates the file" create
	check "... and stores to it" same pmem
	check "... and has its size" sound pmem
fi
if have fio; then
	check "fio's engine for libpmem" run_fio
	check "... has its size" sound fio
	cp "$mnt/fio" "$model/fio"
fi

python() {
	python3 -I - "$mnt/python" "${size[python]}" <<-'END'
		import os, sys
		path, size = sys.argv[1], int(sys.argv[2])
		os.truncate(path, size)
		with open(path, "r+b") as file:
		    file.truncate(size)
		    os.posix_fallocate(file.fileno(), 0, size)
		    os.fsync(file.fileno())
		assert os.stat(path).st_size == size
	END
}
fill python util
if have python3; then
	check "os.truncate() and its like" python
	check "... change nothing" same python
	check "... and no size" sound python
fi
check "truncate(1)" truncate -s "${size[util]}" "$mnt/util"
check "... by nothing" truncate -s +0 "$mnt/util"
check "fallocate(1)" fallocate -l "${size[util]}" "$mnt/util"
check "... for a part" fallocate -n -o 4000 -l 100000 "$mnt/util"
check "... change nothing" same util
check "fallocate(1) of zeros" fallocate -z -o 4000 -l 100000 "$mnt/util"
dd if=/dev/zero of="$model/util" bs=4000 seek=1 count=25 conv=notrunc status=none
check "... changes that" same util
check "... and no size" sound util

# What truncates a file first, or makes another one, does not work, and harms nothing.
refused() { # COMMAND...
	! LC_ALL=C "$@" 2>"$tmp/said" && cat "$tmp/said" && grep -qF 'not supported' "$tmp/said"
}
cp "$model/util" "$tmp/whole"
check "cp from a mapped file" cp "$mnt/util" "$tmp/copy"
check "... is a copy" cmp "$model/util" "$tmp/copy"
check "cp to a mapped file" refused cp "$tmp/whole" "$mnt/util"
# shellcheck disable=SC2016 # for the other shell
check "a shell's redirection" refused bash -c 'echo nothing >"$1"' bash "$mnt/util"
check "... change nothing" same util
not_created() {
	! touch "$mnt/new" && ! [ -e "$mnt/new" ]
}
check "no file can be created" not_created

same_rows() {
	rows "$model" >"$tmp/want" && rows "$mnt" >"$tmp/got" && grep -qx ok "$tmp/got" &&
		grep -q '|0*2997$' "$tmp/got" && cmp "$tmp/want" "$tmp/got"
}
killed() {
	# shellcheck disable=SC2016 # for the shell of SQLite
	sql "$mnt" "$(update 3)" '.shell kill -9 $PPID'
	[ $? = 137 ]
}
if have sqlite3; then
	fill sqlite
	check "SQLite's log, in exclusive mode" \
		sql "$mnt" "$(update 2)" "PRAGMA wal_checkpoint(RESTART);"
	check "... by the next process" sql "$mnt" "$(update 5)"
	check "... which is killed" killed
	check "... has the size" sound sqlite-wal
	check "... and so has the database" sound sqlite
	for factor in 2 5 3; do
		sql "$model" "$(update $factor)"
	done >/dev/null
fi

# --- After a second mount ------------------------------------------------------------------

check "they are unmounted" unmounted
check "the server was not asked for data" asked_for_nothing
check "they are mounted again" mounted
check "what was copied or stored is there" same pmem
check "... and what was not changed" same python
check "... and here" same util
if have rsync; then
	check "... and the copy, with its time" unchanged
fi
if have libraries mdb_dump; then
	check "... and what is in LMDB" same_keys
fi
if have sqlite3; then
	check "... and what is in SQLite's database and log" same_rows
fi
if have fio; then
	check "... and what fio wrote" same fio
fi
check "the server was not asked for data" eval 'unmounted && asked_for_nothing'
finish
