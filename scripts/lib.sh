# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034 # variables for those who source this
#
# Sourced by the scripts: where things are, and how the scripts report.
#
# If the checkout, the cache or the user is unfit, one sentence says so before anything is
# done.
#
# The cache, outside the checkout, has four kinds of directory. Each is named
# after a hash of all that went into it, appears under that name only when it
# is complete, and is never changed afterwards:
#
#   root-HASH     a Debian root with every tool that is used here (make-root)
#   kernel-HASH   a stock kernel, its source, and a tree to build modules for
#                 it (make-kernel); seen as /kernel inside the root
#   debug-HASH    a kernel with checkers from the same source (make-debug-kernel);
#                 seen as /kernel instead, if FMAP_KERNEL is "debug"
#   deb-HASH      an older Debian root, to build and package the tools (make-deb-root); entered
#                 if FMAP_ROOT is "deb"
#
# Beside them: newest-HASH, the kernel that is used if FMAP_KERNEL names none (newest-kernel); cargo/
# (crates); log/ (the full output of what was built).
#
# FMAP_KERNEL is a name of scripts/kernels; "stock", or empty, for the newest kernel that the archive
# had when the cache was made; or "debug" for a kernel with checkers from the source of that one.

set -euo pipefail

die() {
	echo "${0##*/}: $*" >&2
	exit 1
}

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
# The uid and gid that own what is made, when sudo is in between.
OWNER=${FMAP_OWNER:-$(id -u):$(id -g)}
CACHE=${FMAP_CACHE:-${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}}
[ -n "$CACHE" ] || die "HOME is not set, and without it there is no place for the cache: set HOME, or XDG_CACHE_HOME"
[ -n "${FMAP_CACHE-}" ] || CACHE+=/fuse-dax-fmap

# fit_to_work: report what would fail in the middle, before anything is begun.
fit_to_work() {
	local path reason
	for path in "$TOP" "$CACHE"; do
		case $path in
		*[[:space:]:,\;\"\'\`\\\$\#%\&\*\?\[\]\(\)\{\}\<\>\|]*)
			die "make, kbuild and QEMU cannot work in '$path': a path may have letters, digits and -_.+@~=, no spaces" ;;
		/*) ;;
		*) die "the cache has to be an absolute path, not '$path': see XDG_CACHE_HOME and HOME" ;;
		esac
	done
	# The owner is checked both before and after it is made.
	mine "$CACHE" "$CACHE/cargo" "$CACHE/log"
	reason=$(mkdir -p "$CACHE/log" "$CACHE/cargo" 2>&1) ||
		die "the cache $CACHE cannot be made (${reason##*: }): set XDG_CACHE_HOME to a directory of yours"
	if [ ! -w "$TOP/build" ] && { [ -e "$TOP/build" ] || [ ! -w "$TOP" ]; }; then
		path=$TOP/build
		[ -e "$path" ] || path=$TOP
		die "you may not write to $path, which belongs to $(user "$(stat -c %u "$path")"): remove it, or work in a copy of your own"
	fi
}

user() {
	id -nu "$1" 2>/dev/null || echo "user $1"
}

# mine DIR...: check that none of them belongs to another user, who could not use it later.
# Root may write anywhere, so for root check the parents of missing ones, too.
mine() {
	local dir
	for dir in "$@"; do
		[ "$OWNER" != 0:0 ] || while [ ! -e "$dir" ]; do dir=$(dirname "$dir"); done
		[ ! -e "$dir" ] || [ "$(stat -L -c %u "$dir")" = "${OWNER%:*}" ] ||
			die "$dir belongs to $(user "$(stat -L -c %u "$dir")"), and this is $(user "${OWNER%:*}"):" \
				"work as that user, or set XDG_CACHE_HOME to a directory of yours"
	done
}

fit_to_work

# Set in the process that makes something (make_once): the descriptor of its lock.
MAKING=${FMAP_MAKING-}
unset FMAP_MAKING

hash_of() {
	cat "$@" | sha256sum | cut -c1-12
}

# kernels USE...: print the names of the kernels with one of these uses, in order (scripts/kernels).
kernels() {
	awk -v use=" $* " '!/^#/ && NF && index(use, " " $5 " ") { print $1 }' "$TOP/scripts/kernels"
}

# use_kernel NAME: set the place of that kernel, and the root that belongs to it.
use_kernel() {
	local line
	KERNEL_NAME=$1
	line=$(awk -v name="$KERNEL_NAME" '!/^#/ && $1 == name { print $2, $3, $4; exit }' "$TOP/scripts/kernels")
	[ -n "$line" ] || case $KERNEL_NAME in
	*rt*) die "no rt kernel can work: it has no transparent huge pages, and so none of the drivers of DAX devices" ;;
	*) die "there is no kernel $KERNEL_NAME, but: $(kernels newest untried named | xargs) (another one is a line in scripts/kernels)" ;;
	esac
	read -r KERNEL_SUITE SERIES FLAVOUR <<<"$line"
	case $KERNEL_SUITE in
	experimental) SUITE=sid ;;
	*) SUITE=${KERNEL_SUITE%-backports} ;;
	esac
	ROOT_KEY=$(echo "$SUITE" | hash_of - "$TOP"/scripts/{make-root,apt-sources,packages})
	ROOT=$CACHE/root-$ROOT_KEY
	STOCK_KERNEL=$CACHE/kernel-$(echo "$ROOT_KEY $line" |
		hash_of - "$TOP"/scripts/{make-kernel,choose-kernel,apt-lists})
}

# use_newest: use the kernel that newest-kernel chose. KERNEL_NAME is empty if newest-kernel has to
# choose: it never did, or the kernel that it chose is gone.
use_newest() {
	local first
	first=$(kernels newest untried | head -n 1)
	use_kernel "$first"
	NEWEST=$CACHE/newest-$(echo "$STOCK_KERNEL" | hash_of - "$TOP"/scripts/{kernels,newest-kernel})
	if [ -s "$NEWEST" ]; then
		use_kernel "$(head -n 1 "$NEWEST")"
		[ ! -d "$STOCK_KERNEL" ] || return 0
	fi
	KERNEL_NAME='' STOCK_KERNEL=$CACHE/kernel-none
}

# say_kernel: print one line with the kernel that is used, and why the others are not.
say_kernel() {
	local left=
	case ${FMAP_KERNEL:-stock} in
	stock | debug)
		use_newest
		left=$(sed '1d; s/^/; not /' "$NEWEST" | tr -d '\n')
		;;
	esac
	echo "  kernel $KERNEL_NAME: $(cat "$STOCK_KERNEL/release")$left" >&2
}

case ${FMAP_KERNEL:-stock} in
stock | debug) use_newest ;;
# One that is being made: which one it is decides about the root and the source.
/*) use_kernel "${FMAP_KERNEL_NAME:?has to be set if FMAP_KERNEL is a directory}" ;;
*) use_kernel "$FMAP_KERNEL" ;;
esac
# The source and the compilers, not the rest of the root: it takes too long. As long
# as they are not there, nothing is known.
DEBUG_KEY=$({
	cat "$STOCK_KERNEL/manifest"
	grep -E '^(clang-19|lld-19|rustc|bindgen|pahole) ' "$ROOT/manifest" || :
} 2>/dev/null | hash_of - "$TOP/scripts/make-debug-kernel" "$TOP/scripts/debug.config")
DEBUG_KERNEL=$CACHE/debug-$DEBUG_KEY
case ${FMAP_KERNEL:-stock} in
debug) KERNEL=$DEBUG_KERNEL ;;
/*) KERNEL=$FMAP_KERNEL OWNER=0:0 ;; # one that is being made: root's, as the root is
*) KERNEL=$STOCK_KERNEL ;;
esac

# The oldest release on which the tools have to run.
DEB_SUITE=bookworm
DEB_ROOT=$CACHE/deb-$(echo "$DEB_SUITE" | hash_of - "$TOP"/scripts/{make-deb-root,apt-sources,deb-packages})
[ "${FMAP_ROOT-}" != deb ] || ROOT=$DEB_ROOT

# Start over as root, through sudo if necessary.
as_root() {
	local name pass=()
	[ "$(id -u)" = 0 ] && return
	command -v sudo >/dev/null ||
		die "making and entering the build root takes root, and there is no sudo"
	for name in FMAP_MIRROR FMAP_SECURITY_MIRROR FMAP_KERNEL FMAP_KERNEL_NAME FMAP_ROOT FMAP_ANY_SERIES http_proxy https_proxy no_proxy; do
		[ -z "${!name-}" ] || pass+=("$name=${!name}")
	done
	exec sudo env FMAP_CACHE="$CACHE" FMAP_OWNER="$OWNER" "${pass[@]}" "$0" "$@"
}

# step WHAT COMMAND...: one line on the terminal, all output in $LOG. If COMMAND fails, print a
# sentence or the end of the output, and return its status.
step() {
	local what=$1 start=$SECONDS status said
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
		# A message of one of our scripts is enough.
		tac "$LOG" | sed '/^== /,$d' | tac >"$LOG.step"
		said=$(sed -En '/^(apt-lists|check-kernel|choose-kernel|make-deb-root|make-kernel|make-root): /,$p' "$LOG.step")
		rm "$LOG.step"
		if [ -n "$said" ]; then
			printf '%s\n' "$said" >&2
			exit $status
		fi
		tail -n 15 "$LOG" >&2
		die "$what: failed, see $LOG"
	fi
	printf '%d s\n' $((SECONDS - start)) >&2
}

# make_once DIR FUNCTION [BEFORE]: FUNCTION fills the directory $TMP, which then becomes
# DIR; BEFORE prepares the host. A second caller waits, and finds it made.
#
# FUNCTION runs in a second instance of the calling script, in its own namespaces for
# mounts and processes. So none of its processes and mounts remain, however it or the
# caller ends. Only then is what it has left removed: by the caller, or, if that was
# killed, by the next run.
make_once() {
	local dir=$1 lock status=0
	TMP=$dir.tmp LOG=$CACHE/log/${dir##*/}.log
	if [ -n "$MAKING" ]; then
		lock=$MAKING # held by this name, so that FUNCTION can close it
		mkdir "$TMP"
		"$2"
		mv "$TMP" "$dir"
		trap - EXIT
		return
	fi
	exec {lock}>"$CACHE/${dir##*/}.lock"
	if ! flock -n "$lock"; then
		echo "  waiting for another run that makes ${dir##*/}" >&2
		flock "$lock"
	fi
	if [ ! -d "$dir" ]; then
		enough_room "$dir"
		${3-}
		: >"$LOG"
		rm -rf --one-file-system "$TMP"
		CHILD=
		trap stop_making EXIT
		trap 'exit 129' HUP
		trap 'exit 130' INT
		trap 'exit 143' TERM
		FMAP_MAKING=$lock setpriv --pdeathsig KILL \
			unshare --mount --propagation private --pid --fork --kill-child --mount-proc "$0" &
		CHILD=$!
		wait "$CHILD" || status=$?
		CHILD=
		[ $status = 0 ] || exit $status
		trap - EXIT HUP INT TERM
	fi
	exec {lock}>&-
}

# The first process of the namespace is gone when all the others are, and unshare after it.
stop_making() {
	local first
	trap '' HUP INT TERM
	if [ -n "$CHILD" ]; then
		first=$(cat "/proc/$CHILD/task/$CHILD/children" 2>/dev/null || :)
		# shellcheck disable=SC2086 # one, or none yet
		kill -KILL ${first:-$CHILD} 2>/dev/null || :
		wait "$CHILD" || :
	fi
	rm -rf --one-file-system "$TMP"
}

# enough_room DIR: check the space for it and what is sure to be made after it. In MiB,
# while it is made.
enough_room() {
	local want have
	case ${1##*/} in
	root-*) want=7000 ;;
	kernel-*) want=3500 ;;
	*) want=4000 ;;
	esac
	have=$(df -Pm "$CACHE" | awk 'NR == 2 { print $4 }')
	[ "$have" -ge "$want" ] ||
		die "$CACHE has $have MiB left, and this takes $want: make room, or set XDG_CACHE_HOME"
}
