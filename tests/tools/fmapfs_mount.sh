#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Mounting and unmounting fmapfs when something is wrong: ops that are not registered,
# devices that another mount has, an old mount, a directory in use, other mounts on top,
# a line in fstab, files whose names other users can guess. If fmapfs refuses, it does so
# at once, with one sentence and status 1, and leaves nothing behind.

# shellcheck disable=SC2317 # functions are called by check, and by the trap

bpf=${FMAP_BPF_DIR:-/lib/fuse-dax-fmap/bpf}
# shellcheck source=../lib/ktap.bash
. "$(dirname "$0")/ktap.bash"
need fmapctl fmapfs
[ -r "$bpf/striped.bpf.o" ] || skip "there is no $bpf/striped.bpf.o"
read -r a b <<<"$DAX_DEVICES"
[ -c "$b" ] || skip "there are no two DAX devices"

tmp=$(mktemp -d) dir=$tmp/mnt other=$tmp/other
mkdir "$dir" "$other"
manifest() { # NAME DEVICE
	cat >"$tmp/$1" <<-END
		device = [{ name = "$1", path = "$2" }]

		[[file]]
		path = "file"
		size = "4M"
		devices = ["$1"]

		[[file]]
		path = "below/file"
		size = "2M"
		devices = ["$1"]
	END
}
manifest a "$a"
manifest b "$b"
manifest again "$a"
one=$tmp/a two=$tmp/b again=$tmp/again

helpers=()
for name in mount.fmapfs mount.fuse.fmapfs; do
	[ -e "/sbin/$name" ] || helpers+=("/sbin/$name")
done

tidy_up() {
	local pid
	exec 8>&- 9>&-
	for pid in $(pgrep -x fmapfs); do
		kill -9 "$pid"
	done
	while umount -l "$dir" 2>/dev/null || umount -l "$other" 2>/dev/null; do :; done
	umount /sys/fs/fuse/connections "$tmp/full" 2>/dev/null
	fmapctl unload striped >/dev/null 2>&1
	fmapctl unload famfs >/dev/null 2>&1
	rmdir /sys/fs/bpf/fuse_dax_fmap 2>/dev/null
	[ ! -e "$tmp/fstab" ] || mv "$tmp/fstab" /etc/fstab
	[ ! -e "$tmp/no-fstab" ] || rm -f /etc/fstab
	rm -rf "${helpers[@]}" "$tmp"
}
trap tidy_up EXIT

fails() {
	! "$@"
}
mounted() { # DIR
	grep -q " $1 " /proc/self/mountinfo
}
# The number of fmapfs mounts, and of those that the module lists.
mounts() {
	echo "$(grep -c ' fuse.fmapfs ' /proc/self/mountinfo)" \
		"$(wc -l </sys/kernel/debug/fuse_dax_fmap/mounts)"
}
eventually() { # COMMAND...
	local i
	for ((i = 0; i < 100 * ${FMAP_SLOW:-1}; i++)); do
		! "$@" || return 0
		sleep 0.05
	done
	return 1
}
# refused PATTERN COMMAND...: status 1, one line with PATTERN on stderr, nothing on
# stdout, no new mount and no new process.
refused() {
	local pattern=$1 before status=0
	shift
	before="$(mounts) $(pgrep -cx fmapfs)"
	timeout -k 5 $((20 * ${FMAP_SLOW:-1})) "$@" >"$tmp/stdout" 2>"$tmp/stderr" || status=$?
	cat "$tmp/stdout" "$tmp/stderr"
	[ "$status" = 1 ] || { echo "status $status"; return 1; }
	[ ! -s "$tmp/stdout" ] || return
	[ "$(wc -l <"$tmp/stderr")" = 1 ] || return
	grep -qE "$pattern" "$tmp/stderr" || { echo "not said: $pattern"; return 1; }
	# The last file may be closed a moment later.
	eventually [ "$before" = "$(mounts) $(pgrep -cx fmapfs)" ] || {
		echo "was: $before, is: $(mounts) $(pgrep -cx fmapfs)"
		return 1
	}
}
minor_of() { # DIR: what its connection is called
	awk -v dir="$1" '$5 == dir { split($3, number, ":"); print number[2] }' /proc/self/mountinfo
}
# start ARGUMENT...: a server in the foreground, as $server, with its output in $tmp/said.
start() {
	: >"$tmp/said" # of the server before, whose line would be taken for this one's
	fmapfs "$@" >"$tmp/said" 2>&1 &
	server=$!
	eventually grep -q ' files on ' "$tmp/said" || { cat "$tmp/said"; return 1; }
}
said() { # PATTERN: the server that start started
	eventually grep -qE "$1" "$tmp/said" || { cat "$tmp/said"; return 1; }
}
ended() { # STATUS: it ends, with that
	local status=0
	eventually fails kill -0 "$server" 2>/dev/null || { echo "it runs"; return 1; }
	wait "$server" || status=$?
	cat "$tmp/said"
	[ "$status" = "$1" ] || { echo "status $status"; return 1; }
}
pid_on() { # DIR: of the daemon that serves it
	pgrep -xf "fmapfs .* $1|.*/exe .* $1"
}

echo "TAP version 13"

# --- The ops ----------------------------------------------------------------------------

ten_times() {
	local i
	for ((i = 0; i < 10; i++)); do
		refused "$@" || return
	done
}
check "ops that nobody loaded, ten times" \
	ten_times 'no ops named striped are registered.*fmapctl load' fmapfs "$one" "$dir"
check "... as a daemon" \
	ten_times 'no ops named striped are registered' fmapfs --daemon "$one" "$dir"
fmapctl load "$bpf/striped.bpf.o" >/dev/null
check "ops that do not exist" \
	refused 'no ops named typo are registered' fmapfs --ops typo "$one" "$dir"
fmapctl load "$bpf/famfs.bpf.o" >/dev/null
check "ops of another format" \
	refused 'famfs refuse the maps.*another format' fmapfs --daemon --ops famfs "$one" "$dir"
fmapctl unload famfs >/dev/null

# --- The devices ------------------------------------------------------------------------

check "a server mounts" fmapfs --daemon "$one" "$dir"
has_device() {
	fmapctl status
	fmapctl status | grep -qE "^$dir +striped +[0-9]+ +0 +0:${a##*/}\$"
}
check "it has its device before any file is open" has_device
daemon=$(pid_on "$dir")
check "a second server on that device" \
	refused "${a##*/} is held by the mount on $dir, which process $daemon \(fmapfs\) serves" \
	fmapfs "$again" "$other"
check "... and with that manifest" \
	refused "the record $one.layout is in use by process $daemon" fmapfs --daemon "$one" "$other"
check "... which takes nothing from the first" grep -q . <(head -c 4 "$dir/file" | od)
ln -s "$a" "$tmp/link"
cat >"$tmp/twice" <<-END
	device = [{ name = "x", path = "$b" }, { name = "y", path = "$tmp/link2" }]
	file = [{ path = "file", size = "2M", devices = ["x"] }]
END
ln -s "$b" "$tmp/link2"
check "a device twice, by a symbolic link" \
	refused "device \"y\" is the same memory as \"x\"" fmapfs "$tmp/twice" "$other"
manifest l "$tmp/link"
check "a held device by another name" \
	refused "is held by the mount on $dir" fmapfs --daemon "$tmp/l" "$other"

# --- A mount whose server was killed --------------------------------------------------------

exec 9>>"$dir/file"
sleep 1000 &
sleeper=$!
exec 9>&-
kill -9 "$daemon"
eventually fails kill -0 "$daemon" 2>/dev/null
check "an old mount, and who uses it" \
	refused "$one on $dir is still there, but its server has ended.*process $sleeper \(sleep\)" \
	fmapfs "$one" "$dir"
check "... also with --nonempty" \
	refused "is still there" fmapfs --nonempty --daemon "$two" "$dir"
check "... which still has the device" \
	refused "held by the mount on $dir, whose server has ended.*$sleeper" fmapfs "$again" "$other"
kill "$sleeper"
wait "$sleeper" 2>/dev/null
check "... and which nobody uses" \
	refused "its server has ended: umount $dir" fmapfs "$one" "$dir"
umount "$dir"
check "after umount it is as it was" fmapfs --daemon "$one" "$dir"
umount "$dir"

# --unmount-dead is for fmapfs@.service.
fmapfs --daemon "$one" "$dir"
check "a mount whose server lives is no dead one" fmapfs --unmount-dead "$dir"
check "... and stays" [ "$(stat -c %s "$dir/file")" = 4194304 ]
daemon=$(pid_on "$dir")
kill -STOP "$daemon"
check "... also if it hangs" fmapfs --unmount-dead "$dir"
check "... which is said without waiting for it" \
	refused "mount point already.*$one.*served by process $daemon" fmapfs "$two" "$dir"
kill -9 "$daemon"
eventually fails kill -0 "$daemon" 2>/dev/null
check "a mount whose server was killed is taken away" fmapfs --unmount-dead "$dir"
check "... truly" fails mounted "$dir"
mount -t tmpfs some "$dir"
check "any other mount stays" fmapfs --unmount-dead "$dir"
check "... truly" mounted "$dir"
umount "$dir"
check "where nothing is, nothing is done" fmapfs --unmount-dead "$tmp/none"

# The number of a mount is given to the next one, and a server may not have ended yet.
fmapfs --daemon "$two" "$dir"
late=$(pid_on "$dir")
number=$(minor_of "$dir")
kill -STOP "$late"
# umount(8) might ask the server.
python3 -c 'import ctypes, sys; sys.exit(ctypes.CDLL(None).umount2(sys.argv[1].encode(), 0))' "$dir"
fmapfs --daemon "$one" "$dir"
check "a mount has the number of an earlier one" [ "$(minor_of "$dir")" = "$number" ]
daemon=$(pid_on "$dir" | grep -vx "$late")
kill -9 "$daemon"
eventually fails kill -0 "$daemon" 2>/dev/null
check "... and is taken away without a server, although that of the earlier one is there" \
	fmapfs --unmount-dead "$dir"
check "... truly" fails mounted "$dir"
kill -CONT "$late"
eventually fails kill -0 "$late" 2>/dev/null

# --- Where it is mounted ------------------------------------------------------------------

touch "$other/precious"
check "a directory that is not empty" \
	refused "$other is not empty.*--nonempty" fmapfs --daemon "$one" "$other"
over() {
	fmapfs --daemon --nonempty "$one" "$other" && mounted "$other" && umount "$other" &&
		[ -e "$other/precious" ]
}
check "... and with --nonempty" over
rm "$other/precious"
mount -t tmpfs some "$dir"
check "a mount point" refused "mount point already: the tmpfs of some" fmapfs "$one" "$dir"
umount "$dir"
fmapfs --daemon "$one" "$dir"
check "a mount point of another server" \
	refused "mount point already.*$one.*served by process [0-9]+ \(fmapfs\)" fmapfs "$two" "$dir"
umount "$dir"
check "no directory" refused "$one is no directory" fmapfs "$one" "$one"
check "nothing" refused "$tmp/none: No such file" fmapfs "$one" "$tmp/none"

# --- A process in the background ----------------------------------------------------------

exec 8>"$tmp/inherited"
(
	exec 9<"$one"
	fmapfs --daemon "$one" "$dir" 7<"$two"
)
exec 8>&-
daemon=$(pid_on "$dir")
check "a daemon is called fmapfs" [ "$(cat "/proc/$daemon/comm")" = fmapfs ]
descriptors() {
	local links
	links=$(find "/proc/$daemon/fd" -lname "$tmp/*" ! -lname '*.layout' -printf '%f %l\n') || return
	echo "$links"
	[ -z "$links" ]
}
check "... and inherits no descriptors" descriptors
kill "$daemon"
check "SIGTERM unmounts it" eventually fails mounted "$dir"
# The server waits for its record until it has no parent any more.
abandoned() {
	local locker parent
	flock "$one.layout" sleep 1 &
	locker=$!
	sleep 0.2
	fmapfs --daemon "$one" "$dir" &
	parent=$!
	sleep 0.3
	kill "$parent"
	wait "$locker"
	eventually fails pgrep -x fmapfs && ! mounted "$dir"
}
eventually fails pgrep -x fmapfs >/dev/null
check "a server whose parent was ended does not mount" abandoned

if [ ! -e /dev/log ] && busybox syslogd --help >/dev/null 2>&1; then
	busybox syslogd -n -O "$tmp/syslog" &
	log=$!
	eventually [ -S /dev/log ]
	fmapfs --daemon "$one" "$dir"
	daemon=$(pid_on "$dir")
	mount -t tmpfs above "$dir"
	kill "$daemon"
	check "what a daemon has to say is in the system's log" \
		eventually grep -q "daemon.err fmapfs\[$daemon\]: $dir stays mounted" "$tmp/syslog"
	umount "$dir"
	check "... and it ends" eventually fails kill -0 "$daemon" 2>/dev/null
	kill "$log"
	wait "$log"
	rm -f /dev/log
fi

start "$one" "$dir"
umount "$dir"
check "umount ends a server" ended 0
check "statistics come on demand only" fails grep -q READ "$tmp/said"
start "$one" "$dir"
kill -USR1 "$server"
check "... which is SIGUSR1" said '^READ 0$'
kill "$server"
check "... and not the end" ended 0

# --- Unmounting its own mount only ----------------------------------------------------------

start "$one" "$dir"
mount -t tmpfs above "$dir"
echo precious >"$dir/data"
kill "$server"
check "a tmpfs on top is named" said "$dir stays mounted.*the tmpfs of above on $dir"
check "... and keeps its files" grep -q precious "$dir/data"
kill "$server"
sleep 0.5
check "... whatever is sent" grep -q precious "$dir/data"
check "... and the server serves" kill -0 "$server"
umount "$dir"
check "when it has gone, the mount goes" ended 0
check "... and all of it" fails mounted "$dir"

start "$one" "$dir"
fmapfs --daemon --nonempty "$two" "$dir"
kill "$server"
check "another server's mount on top is named" said "the fuse.fmapfs of $two on $dir"
check "... and can be used" [ "$(stat -c %s "$dir/file")" = 4194304 ]
kill "$(pgrep -xf "fmapfs .*--nonempty $two $dir")"
check "when it has gone, the mount goes, too" ended 0

start "$one" "$dir"
mount -t tmpfs inside "$dir/below"
echo precious >"$dir/below/data"
kill "$server"
check "a mount inside is named" said "the tmpfs of inside on $dir/below"
check "... and left alone, though the mount is in use" grep -q precious "$dir/below/data"
umount "$dir/below"
check "... and when it has gone" ended 0

start "$one" "$dir"
mount --move "$dir" "$other"
mount -t tmpfs instead "$dir"
kill "$server"
check "a mount that was moved is found" ended 0
check "... and no other in its place is taken" mounted "$dir"
check "... and is gone" fails mounted "$other"
umount "$dir"

mkdir -p "$tmp/above/at"
start "$one" "$tmp/above/at"
mv "$tmp/above" "$tmp/elsewhere"
mkdir "$tmp/above"
mount -t tmpfs instead "$tmp/above"
kill "$server"
check "a mount whose directory was moved is found" ended 0
check "... and what has its path stays" mounted "$tmp/above"
umount "$tmp/above"

start "$one" "$dir"
mount --bind "$dir" "$other"
kill "$server"
check "a second place is named" said "$other has the same files"
check "... and served" [ "$(stat -c %s "$other/file")" = 4194304 ]
umount "$other"
check "... until it is unmounted" ended 0

start "$one" "$dir"
exec 9>>"$dir/file"
kill "$server"
check "who uses a file is named" said "$dir is in use by process $$ .*detached"
exec 9>&-
check "... and then it ends" ended 0

# Unmounting must not wait for an answer of the server: a killed server would wait for itself,
# and keep its devices. So the thread that answers is held up, and the unmount has something to
# send: a file has been stored to through a mapping whose descriptor is closed.
store() {
	python3 -I - "$dir/file" <<-'END'
		import mmap, os, sys
		fd = os.open(sys.argv[1], os.O_RDWR)
		mapping = mmap.mmap(fd, 4096, trackfd=False)
		os.close(fd)
		mapping[0] = 1
	END
}
killed_while_it_unmounts() {
	local connection tracer status=0
	start "$one" "$dir" && store || return
	connection=/sys/fs/fuse/connections/$(minor_of "$dir")
	strace -o /dev/null -e trace=write -e inject=write:delay_enter=600s -p "$server" \
		2>"$tmp/tracer" &
	tracer=$!
	# It says so once it has all threads.
	eventually grep -q "Process $server attached" "$tmp/tracer" || status=1
	[ -d "$connection" ] || status=1
	kill "$server"
	eventually fails mounted "$dir" || status=1
	kill -9 "$server" "$tracer"
	if ! eventually [ ! -d "$connection" ]; then
		echo "it waits for itself"
		echo 1 >"$connection/abort"
		status=1
	fi
	ended 137 && [ "$status" = 0 ]
}
mount -t fusectl fusectl /sys/fs/fuse/connections 2>/dev/null
if type -P strace python3 >/dev/null; then
	check "a server that is killed while it unmounts" killed_while_it_unmounts
	umount -l "$dir" 2>/dev/null
	check "... lets its device go" fmapfs --daemon "$again" "$other"
	umount "$other"
fi

# --- The connection ---------------------------------------------------------------------

start "$one" "$dir"
minor=$(minor_of "$dir")
echo 1 >"/sys/fs/fuse/connections/$minor/abort"
check "a server whose connection is aborted fails" ended 1
check "... and says why" said "connection was aborted"
check "... and leaves no dead mount" fails mounted "$dir"
start "$one" "$dir"
umount -f "$dir"
check "umount -f is an unmount" ended 0
umount /sys/fs/fuse/connections 2>/dev/null

# --- mount(8) and fstab -------------------------------------------------------------------

for name in "${helpers[@]}"; do
	ln -s "$(type -P fmapfs)" "$name"
done
check "mount -t fmapfs" mount -t fmapfs "$one" "$dir"
check "... comes back, with a server" eventually pgrep -x fmapfs
check "... with its manifest as the source" grep -q " fuse.fmapfs $one " /proc/self/mountinfo
umount "$dir"
check "mount -t fuse.fmapfs" mount -t fuse.fmapfs \
	-o rw,noatime,nofail,x-systemd.automount,_netdev "$one" "$dir"
check "... with the options" grep -q " $dir rw,nosuid,nodev,noatime " /proc/self/mountinfo
umount "$dir"
check "what fstab says to systemd" fmapfs --daemon \
	-o rw,nofail,x-systemd.automount,x-systemd.requires=dev-dax.device "$one" "$dir"
umount "$dir"
check "a record elsewhere" mount -t fmapfs -o "record=$tmp/record" "$one" "$dir"
check "... is there" grep -q fmapfs "$tmp/record"
umount "$dir"
check "an unknown option" refused 'unknown mount option "r0"' fmapfs -o r0 "$one" "$dir"
unknown() {
	! mount -t fmapfs -o bogus=1 "$one" "$dir" 2>"$tmp/stderr" &&
		grep -q 'unknown mount option "bogus=1"' "$tmp/stderr" && ! mounted "$dir"
}
check "... in mount(8)" unknown

if [ -e /etc/fstab ]; then
	cp -a /etc/fstab "$tmp/fstab"
else
	touch "$tmp/no-fstab"
fi
echo "$one $dir fuse.fmapfs ro,nofail,noatime,x-systemd.requires=dev-dax.device 0 0" >/etc/fstab
check "a line in fstab, read only" mount "$dir"
check "... nothing can be written" fails bash -c "echo x >>'$dir/file'"
check "... but read" [ "$(head -c 4 "$dir/file" | wc -c)" = 4 ]
check "mount -a mounts it once" mount -a
check "... and not twice" [ "$(grep -c " $dir " /proc/self/mountinfo)" = 1 ]
check "it can be remounted rw" mount -o remount,rw "$dir"
write() {
	printf %s "$1" | dd of="$dir/file" conv=notrunc status=none
}
check "... and written" write abc
check "it can be remounted ro" mount -o remount,ro "$dir"
check "... and not written" fails write def
check "... and read" [ "$(head -c 3 "$dir/file")" = abc ]
mount -o remount,rw "$dir"
exec 9>>"$dir/file"
busy() {
	! mount -o remount,ro "$dir" 2>"$tmp/stderr" || return
	cat "$tmp/stderr"
	grep -q "open for writing; process $$" "$tmp/stderr"
}
check "while a file is open for writing, it says who has it" busy
exec 9>&-
umount "$dir"
check "a remount of something else" \
	refused "is no mount of fmapfs" fmapfs -o remount,ro "$one" "$dir"
eventually fails pgrep -x fmapfs >/dev/null

# --- Files whose names others can guess ----------------------------------------------------

umask 0
start --pid-file "$tmp/pid" --stats "$tmp/stats" "$one" "$dir"
umask 022
eventually [ -s "$tmp/pid" ]
check "the pid file" [ "$(cat "$tmp/pid")" = "$server" ]
check "... is nobody else's to write" [ "$(stat -c %a "$tmp/pid" "$tmp/stats" | sort -u)" = 644 ]
check "a second server with that pid file" \
	refused "$tmp/pid is there, and process $server runs" fmapfs --pid-file "$tmp/pid" "$two" "$other"
check "... takes nothing away" [ "$(cat "$tmp/pid")" = "$server" ]
echo precious >"$tmp/precious"
check "a pid file that is something else" \
	refused "$tmp/precious is there, and is no pid file" \
	fmapfs --daemon --pid-file "$tmp/precious" "$two" "$other"
check "a start that fails, with somebody's file" \
	refused "held by" fmapfs --pid-file "$tmp/precious" "$again" "$other"
check "... which stays" grep -q precious "$tmp/precious"
ln -s precious "$tmp/planted"
check "a pid file that is a link" \
	refused "planted is there, and is a symbolic link" fmapfs --pid-file "$tmp/planted" "$two" "$other"
check "statistics that are a link" \
	refused "planted is there, and is a symbolic link" fmapfs --stats "$tmp/planted" "$two" "$other"
check "a directory that is not there" \
	refused "$tmp/none: No such file" fmapfs --daemon --stats "$tmp/none/stats" "$two" "$other"
check "... for the pid" \
	refused "$tmp/none: No such file" fmapfs --daemon --pid-file "$tmp/none/pid" "$two" "$other"
check "a start that fails leaves no statistics" \
	refused "held by" fmapfs --stats "$tmp/left" --pid-file "$tmp/left2" "$again" "$other"
check "... and no pid file" [ ! -e "$tmp/left" -a ! -e "$tmp/left2" ]
mkdir "$tmp/full"
mount -t tmpfs -o size=4k full "$tmp/full"
yes 2>/dev/null >"$tmp/full/all"
check "a disk that is full" \
	refused "full/pid: No space left" fmapfs --daemon --pid-file "$tmp/full/pid" "$two" "$other"
check "... for statistics" \
	refused "full/stats: No space left" fmapfs --stats "$tmp/full/stats" "$two" "$other"
check "... has nothing more on it" [ "$(ls -A "$tmp/full")" = all ]
umount "$tmp/full"
ln -s precious "$tmp/stats.new"
kill -USR1 "$server"
check "a link beside the statistics is not followed" eventually grep -q '^READ 0$' "$tmp/stats"
rm "$tmp/stats"
ln -s precious "$tmp/stats"
kill -USR1 "$server"
check "... nor one in their place" said "stats is there, and is a symbolic link"
check "what was linked to is as it was" grep -qx precious "$tmp/precious"
rm "$tmp/stats"
kill "$server"
check "it ends" ended 0
check "... and has written them" grep -q '^READ 0$' "$tmp/stats"
check "... and its pid file is gone" [ ! -e "$tmp/pid" ]
fmapfs --daemon --pid-file "$tmp/pid" "$one" "$dir"
kill -9 "$(cat "$tmp/pid")"
eventually fails pgrep -x fmapfs >/dev/null
umount "$dir"
check "a killed server's pid file is replaced" fmapfs --daemon --pid-file "$tmp/pid" "$one" "$dir"
check "... by that of the next" kill -0 "$(cat "$tmp/pid")"
umount "$dir"
check "... and goes with it" eventually [ ! -e "$tmp/pid" ]

# --- Output that is not read --------------------------------------------------------------

panics() { # STATUS COMMAND...
	local want=$1 status=0
	shift
	bash -c "$*" 2>"$tmp/stderr" || status=$?
	cat "$tmp/stderr"
	! grep -q panicked "$tmp/stderr" && [ "$status" = "$want" ]
}
check "a pipe that is closed" panics 0 "set -o pipefail; fmapfs -n $one | sleep 0"
check "a full disk" panics 1 "fmapfs -n $one >/dev/full"
check "... is said" grep -q 'No space left' "$tmp/stderr"
check "an error that nobody hears" panics 1 "fmapfs -n $tmp/none 2>/dev/full"
fmapfs "$one" "$dir" 2>/dev/full &
server=$!
: >"$tmp/said"
check "a server whose stderr is full" eventually mounted "$dir"
kill -USR1 "$server"
kill "$server"
check "... serves, and unmounts" ended 0

# --- Without the module -------------------------------------------------------------------

fmapctl unload striped >/dev/null
rmdir /sys/fs/bpf/fuse_dax_fmap 2>/dev/null
mounts() { # its list is gone with it
	grep -c ' fuse.fmapfs ' /proc/self/mountinfo
}
if eventually rmmod fuse_dax_fmap 2>/dev/null; then
	check "a kernel without the module" \
		refused 'offers no file maps: the module fuse_dax_fmap is not loaded' fmapfs "$one" "$dir"
	check "... as a daemon" refused 'offers no file maps' fmapfs --daemon "$one" "$dir"
	insmod "$FMAP_MODULE"
fi

finish
