# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2154 # tmp is the program's
#
# KTAP for the tests in shell: a program reads this first, calls check for each result,
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

finish() {
	echo "1..$count"
	exit $failed
}
