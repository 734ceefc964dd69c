# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034 # variables for those who source this
#
# Sourced by the scripts: where things are, and how they talk.
#
# The cache, outside the checkout, has three kinds of directory. Each is named
# after a hash of all that went into it, appears under that name only when it
# is complete, and is never changed afterwards:
#
#   root-HASH     a Debian root with every tool that is used here (make-root)
#   kernel-HASH   a stock kernel, its source, and a tree to build modules for
#                 it (make-kernel); seen as /kernel inside the root
#   debug-HASH    a kernel with checkers from the same source (make-debug-kernel);
#                 seen as /kernel instead, if FMAP_KERNEL is "debug"
#
# Beside them: cargo/ (crates), log/ (the full output of what was built).

set -euo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
CACHE=${FMAP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/fuse-dax-fmap}
# The uid and gid that own what is made, when sudo is in between.
OWNER=${FMAP_OWNER:-$(id -u):$(id -g)}
mkdir -p "$CACHE/log" "$CACHE/cargo"

SUITE=trixie KERNEL_SERIES=7.3

hash_of() {
	cat "$@" | sha256sum | cut -c1-12
}

ROOT_KEY=$(hash_of "$TOP/scripts/make-root" "$TOP/scripts/packages")
KERNEL_KEY=$(echo "$ROOT_KEY" | hash_of - "$TOP/scripts/make-kernel")
ROOT=$CACHE/root-$ROOT_KEY
STOCK_KERNEL=$CACHE/kernel-$KERNEL_KEY
# The source and the compilers, not the rest of the root: it takes too long. As long
# as they are not there, nothing is known.
DEBUG_KEY=$({
	cat "$STOCK_KERNEL/manifest"
	grep -E '^(clang-19|lld-19|rustc|bindgen|pahole) ' "$ROOT/manifest" || :
} 2>/dev/null | hash_of - "$TOP/scripts/make-debug-kernel" "$TOP/scripts/debug.config")
DEBUG_KERNEL=$CACHE/debug-$DEBUG_KEY
case ${FMAP_KERNEL:-stock} in
stock) KERNEL=$STOCK_KERNEL ;;
debug) KERNEL=$DEBUG_KERNEL ;;
*) KERNEL=$FMAP_KERNEL ;; # one that is being made
esac

die() {
	echo "${0##*/}: $*" >&2
	exit 1
}

# Start over as root, through sudo if that is what it takes.
as_root() {
	[ "$(id -u)" = 0 ] && return
	command -v sudo >/dev/null ||
		die "making and entering the build root takes root, and there is no sudo"
	exec sudo env FMAP_CACHE="$CACHE" FMAP_OWNER="$OWNER" FMAP_MIRROR="${FMAP_MIRROR-}" \
		FMAP_KERNEL="${FMAP_KERNEL-}" "$0" "$@"
}

# step WHAT COMMAND...: one line on the terminal, all output in $LOG.
step() {
	local what=$1 start=$SECONDS status
	shift
	printf '  %s ... ' "$what" >&2
	echo "== $what" >>"$LOG"
	# Not in a condition: that would switch off "set -e" in the command.
	set +e
	(set -e; "$@") >>"$LOG" 2>&1 </dev/null
	status=$?
	set -e
	if [ $status != 0 ]; then
		printf 'failed\n' >&2
		tail -n 15 "$LOG" >&2
		die "$what: failed, see $LOG"
	fi
	printf '%d s\n' $((SECONDS - start)) >&2
}

# make_once DIR FUNCTION: FUNCTION fills the directory $TMP, which then becomes
# DIR. Whoever comes second waits, and finds it made. A crash leaves a
# directory that the next run removes; anything less removes it at once.
make_once() {
	local dir=$1 lock
	exec {lock}>"$CACHE/${dir##*/}.lock"
	if ! flock -n "$lock"; then
		echo "  waiting for another run that makes ${dir##*/}" >&2
		flock "$lock"
	fi
	if [ ! -d "$dir" ]; then
		TMP=$dir.tmp
		LOG=$CACHE/log/${dir##*/}.log
		: >"$LOG"
		rm -rf --one-file-system "$TMP"
		trap 'rm -rf --one-file-system "$TMP"' EXIT
		mkdir -p "$TMP"
		"$2"
		mv "$TMP" "$dir"
		trap - EXIT
	fi
	exec {lock}>&-
}
