# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2154 # tmp is the program's
#
# KTAP for the tests in shell: a program reads this first, calls check or result for each result,
# and finish at the end. $tmp is a directory of its own, which the program makes and removes.

count=0 failed=0

skip() { # WHY
	echo "1..0 # SKIP $*"
	exit 4
}

# What the tools of this project are tested with.
need() { # PROGRAM...
	type -P "$@" >/dev/null || skip "not all are there of: $*"
	[ "$(id -u)" = 0 ] || skip "root is needed"
	[ -d /sys/module/fuse_dax_fmap ] || skip "the module is not loaded"
	[ -z "$(ls /sys/fs/bpf/fuse_dax_fmap 2>/dev/null)" ] || skip "there are ops already"
}

# One result: ok if the command succeeds. If it fails, its output is printed.
check() { # TEXT COMMAND...
	local text=$1
	shift
	count=$((count + 1))
	if "$@" >"$tmp/out" 2>&1; then
		echo "ok $count $text"
	else
		tail -n 40 "$tmp/out" | sed 's/^/# /'
		echo "not ok $count $text"
		failed=1
	fi
}

# One result: ok if every WHAT is empty; otherwise WHAT is the reason.
result() { # TEXT [WHAT]...
	local text=$1
	shift
	count=$((count + 1))
	if [ $# = 0 ] || [ -z "$*" ]; then
		echo "ok $count $text"
	else
		printf '%s\n' "$@" | head -n 40 | sed 's/^/# /'
		echo "not ok $count $text"
		failed=1
	fi
}

# A result that cannot be had here.
skipped() { # TEXT WHY
	count=$((count + 1))
	echo "ok $count $1 # SKIP $2"
}

# For tests of the tools with one file: what they need. Sets $bpf, the object of ops "striped", $device,
# the first DAX device, $tmp, $dir, an empty directory NAME in it, and $manifest, that of one file of 4 MiB.
need_one_file() { # PROGRAMS [NAME]
	bpf=${FMAP_BPF_DIR:-/lib/fuse-dax-fmap/bpf}/striped.bpf.o
	device=${DAX_DEVICES%% *}
	# shellcheck disable=SC2086 # programs
	need $1
	[ -r "$bpf" ] || skip "there is no $bpf"
	[ -c "$device" ] || skip "there is no DAX device"
	tmp=$(mktemp -d)
	dir=$tmp/${2:-mnt} manifest=$tmp/files.toml
	mkdir "$dir"
	cat >"$manifest" <<-EOF
		device = [{ name = "a", path = "$device" }]

		[[file]]
		path = "file"
		size = "4M"
		devices = ["a"]
	EOF
}

# A program that is not there says nothing, and a test might take that for an answer.
command_not_found_handle() {
	echo "there is no $1" >&2
	[ -z "${tmp-}" ] || echo "$1" >>"$tmp/missing"
	return 127
}

finish() {
	if [ -n "${tmp-}" ] && [ -e "$tmp/missing" ]; then
		result "all programs are there" "$(sort -u "$tmp/missing")"
	fi
	echo "1..$count"
	exit $failed
}
