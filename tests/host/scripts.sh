#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# scripts.sh: the scripts that make the build root, the kernel and the module, when something is
# wrong. An unsuitable place is an error of one sentence and nothing else; a script that is killed
# leaves nothing running or mounted; an archive that has lost packages, or a machine without
# rustfmt, is no reason to fail. A kernel of a series that nobody tried is refused; "make kernels"
# builds and tests what the archive has.
#
# Nothing is downloaded: where the root is made, mmdebstrap is a stand-in that records its
# arguments; the root and the kernel that are entered are those of "make check". All of it happens
# in a copy of the source. Prints KTAP.

set -uo pipefail
source=$(cd "$(dirname "$0")/../.." && pwd -P)
work=$(mktemp -d)
chmod 755 "$work"
top=$work/source
export LC_ALL=C

root=()
[ "$(id -u)" = 0 ] || root=(sudo)
trap '"${root[@]}" rm -rf --one-file-system "$work"' EXIT

# shellcheck source=../lib/ktap.bash
. "$source/tests/lib/ktap.bash"

# refused TEXT PATTERN COMMAND...: the command fails, and prints one line with the pattern.
refused() {
	local text=$1 pattern=$2 output status=0
	shift 2
	output=$(timeout 60 "$@" 2>&1 </dev/null) || status=$?
	if [ $status != 0 ] && [ "$(wc -l <<<"$output")" = 1 ] && grep -qE -- "$pattern" <<<"$output"; then
		result "$text"
	else
		result "$text" "status $status, wanted one line with: $pattern" "$output"
	fi
}

mkdir "$top"
tar -C "$source" --exclude=./build --exclude=./.git -c . | tar -C "$top" -x

# --- places ----------------------------------------------------------------------------------

make_root=$top/scripts/make-root
refused "HOME is not set" "HOME is not set.* XDG_CACHE_HOME" env -u HOME -u XDG_CACHE_HOME "$make_root"
refused "the cache has a space" "'$work/a b/fuse-dax-fmap'.*no spaces" \
	env XDG_CACHE_HOME="$work/a b" "$make_root"
refused "the cache is a relative path" "absolute path.*'cache/fuse-dax-fmap'" \
	env XDG_CACHE_HOME=cache "$make_root"

mkdir -p "$work/a b" "$work/a"
cp -r "$top/Makefile" "$top/scripts" "$work/a b/"
refused "the source has a space: make" "cannot work in '$work/a b'.*no spaces" \
	make -s -C "$work/a b" demo
refused "the source has a space: a script" "cannot work in '$work/a b'.*no spaces" \
	"$work/a b/scripts/build-quietly" module
make -s -C "$work/a b" clean >/dev/null 2>&1
result "the source has a space: clean removes nothing else" \
	"$([ -d "$work/a" ] || echo "$work/a is gone")"

mkdir -p "$work/other/fuse-dax-fmap"
"${root[@]}" chown 4321 "$work/other/fuse-dax-fmap"
refused "the cache is somebody else's" "$work/other/fuse-dax-fmap belongs to .*XDG_CACHE_HOME" \
	env XDG_CACHE_HOME="$work/other" "$make_root"
mkdir "$work/home"
"${root[@]}" chown 4321 "$work/home"
refused "root in a home of somebody else" "$work/home belongs to .*XDG_CACHE_HOME" \
	"${root[@]}" env -u XDG_CACHE_HOME HOME="$work/home" "$make_root"
result "root in a home of somebody else: leaves nothing there" "$(ls -A "$work/home")"
mkdir -m 700 "$top/build"
"${root[@]}" chown 0:0 "$top/build"
refused "build/ is root's" "may not write to $top/build, which belongs to root" \
	"${root[@]}" setpriv --reuid 4321 --regid 4321 --clear-groups env -u XDG_CACHE_HOME HOME="$work/home" \
	"$top/scripts/build-quietly" module
"${root[@]}" rmdir "$top/build"

mkdir "$work/small"
# shellcheck disable=SC2016 # expanded inside
refused "the disk is full" "$work/small/fuse-dax-fmap has [0-9]+ MiB left, and this takes [0-9]+" \
	"${root[@]}" unshare --mount --propagation private bash -c '
	mount -t tmpfs -o size=8m tmpfs "$1" && XDG_CACHE_HOME=$1 exec "$2"' bash "$work/small" "$make_root"

# --- what the root is made of -------------------------------------------------------------------

mkdir -p "$work/bin" "$work/cache"
cat >"$work/bin/mmdebstrap" <<-'END'
	#!/bin/bash
	printf '%s\n' "$@" >"$WORK/arguments"
	for target in "$@"; do case $target in *.tmp) break ;; esac; done
	mkdir -p "$target"/{proc,usr/share/keyrings}
	[ -z "${HANG-}" ] || {
		mount -t proc proc "$target/proc"
		# dpkg has a session of its own; this one goes on writing, too.
		setsid "$WORK/bin/writer" "$target"
	}
END
# The writer records if its directory is removed while it writes.
cat >"$work/bin/writer" <<-'END'
	#!/bin/bash
	: >"$WORK/writing"
	while sleep 0.02; do
		: >"$1/$((i++))" && [ -e "$1/0" ] || : >"$WORK/removed-under-it"
	done
END
printf '#!/bin/sh\n' >"$work/bin/chroot"
chmod 755 "$work"/bin/*
"${root[@]}" chown 0:0 "$work/cache"

# A dated archive, and its security suite.
day=20010203T040506Z
archive=$work/archive/debian/$day
mkdir -p "$archive" "$work/archive/debian-security/$day/dists/trixie-security"
: >"$work/archive/debian-security/$day/dists/trixie-security/InRelease"
printf '%s;\n' 'Acquire::http::Proxy "http://proxy.invalid:3128"' \
	'Acquire::http::Proxy::near.invalid "DIRECT"' >"$work/apt.conf"

make_it() { # [VARIABLE=VALUE]...
	"${root[@]}" timeout 120 env PATH="$work/bin:$PATH" WORK="$work" XDG_CACHE_HOME="$work/cache" \
		APT_CONFIG="$work/apt.conf" "$@" "$make_root"
}
forget_it() {
	"${root[@]}" rm -rf --one-file-system "$work"/cache/fuse-dax-fmap/root-*
	"${root[@]}" rm -f "$work/writing" "$work/removed-under-it"
}

output=$(make_it FMAP_MIRROR="file:$archive" 2>&1) || output="failed: $output"
lines=$(grep '^deb ' "$work/arguments")
result "a root is made" "$(sed -n '/^failed/,$p' <<<"$output")"
result "the keys of debian-archive-keyring only" "$({
	grep -vE '^deb \[([^]]* )?signed-by=/usr/share/keyrings/debian-archive-keyring\.(gpg|pgp)[] ]' <<<"$lines"
	grep -E '^--keyring=' "$work/arguments" | grep -vE '/debian-archive-keyring\.(gpg|pgp)$'
})"
result "the security suite, of the same day" "$(grep -qE \
	"^deb .* file:$work/archive/debian-security/$day/? trixie-security main$" <<<"$lines" || echo "$lines")"
result "a dated archive may have expired" "$(grep -v 'check-valid-until=no' <<<"$lines")"
sed -n 's/^--aptopt=//p' "$work/arguments" >"$work/pasted.conf"
want=$(APT_CONFIG=$work/apt.conf apt-config dump | grep '^Acquire::http::Proxy')
have=$(APT_CONFIG=$work/pasted.conf apt-config dump 2>&1 | grep -E '^Acquire::http::Proxy|^E:')
grep -q invalid <<<"$want" || want="apt-config says nothing of a proxy"
result "apt can read the proxy" "$([ "$want" = "$have" ] || diff <(echo "$want") <(echo "$have"))"
forget_it

# --- killed ---------------------------------------------------------------------------------------

# Processes that this test has started, without the wrappers (sudo, timeout, env).
makers() { # PATTERN
	local file
	for file in /proc/[0-9]*/cmdline; do
		[[ $( (tr '\0' ' ' <"$file") 2>/dev/null) != /bin/bash\ $1* ]] || basename "${file%/cmdline}"
	done | sort -n
}

# kill_it SIGNAL: kills make-root itself while its children write. Waits for its end.
kill_it() {
	local i
	make_it HANG=1 FMAP_MIRROR="file:$archive" >"$work/output" 2>&1 &
	for ((i = 0; i < 300; i++)); do
		[ ! -e "$work/writing" ] || break
		sleep 0.1
	done
	"${root[@]}" kill -"$1" "$(makers "$make_root" | head -n 1)"
	wait $! 2>/dev/null
}

# Ends and unmounts what should not be left, and would disturb the next test.
clean_up() {
	local pid
	for pid in $(makers "$work/bin/writer") $(makers "$work/bin/mmdebstrap") $(makers "$make_root"); do
		"${root[@]}" kill -KILL "$pid"
	done
	"${root[@]}" umount -l "$work"/cache/fuse-dax-fmap/*.tmp/proc
} 2>/dev/null

left() {
	sleep 1
	makers "$work/bin/writer" | sed 's/^/still running: /'
	makers "$make_root" | sed 's/^/still running: /'
	grep -F "$work/cache" /proc/self/mounts | sed 's/^/still mounted: /'
}

kill_it TERM
result "SIGTERM: nothing stays" "$(left; compgen -G "$work/cache/fuse-dax-fmap/*.tmp")"
result "SIGTERM: nothing is removed before what writes to it has ended" \
	"$([ -e "$work/writing" ] || cat "$work/output"; compgen -G "$work/removed-under-it")"
clean_up
forget_it

kill_it KILL
result "SIGKILL: nothing stays running or mounted" "$([ -e "$work/writing" ] || cat "$work/output"; left)"
output=$(make_it FMAP_MIRROR="file:$archive" 2>&1) && output=
result "SIGKILL: the next run makes it" "$output"
clean_up
forget_it

# --- an ordinary user ---------------------------------------------------------------------------

# The root of "make check", in the cache of another user.
made=$(cd "$source" && . scripts/lib.sh && echo "$ROOT")
mkdir -p "$work/users/fuse-dax-fmap" "$work/kernel/source"
ln -s "$made" "$work/users/fuse-dax-fmap/"
"${root[@]}" chown -R 0:0 "$work/kernel"
"${root[@]}" chown -R 4321:4321 "$work/users"
output=$("${root[@]}" env FMAP_CACHE="$work/users/fuse-dax-fmap" FMAP_OWNER=4321:4321 \
	FMAP_KERNEL="$work/kernel" FMAP_KERNEL_NAME=7.3 "$top/scripts/enter" mkdir /kernel/apt 2>&1)
result "a kernel can be made for an ordinary user with sudo" \
	"$output$([ -d "$work/kernel/apt" ] || echo "it has not been written to")"

# --- what the archive has ---------------------------------------------------------------------------

enter=$top/scripts/enter
repo=$top/repo

# archive_of DIR: an archive with the packages that stdin names: NAME VERSION [DEPENDS]. Its
# Release expired long ago.
archive_of() {
	local dir=$1 suite name version depends
	mkdir -p "$dir/packages"
	while read -r name version depends; do
		printf 'Package: %s\nVersion: %s\nArchitecture: amd64\nMaintainer: none\n' "$name" "$version"
		[ -z "$depends" ] || echo "Depends: $depends"
		printf 'Filename: none.deb\nSize: 1\nSHA256: %064d\nDescription: none\n\n' 0
	done >"$dir/packages/Packages"
	for suite in trixie trixie-updates trixie-backports; do
		mkdir -p "$dir/dists/$suite/main/binary-amd64"
		cp "$dir/packages/Packages" "$dir/dists/$suite/main/binary-amd64/"
		printf '%s\n' "Suite: $suite" "Codename: $suite" 'Architectures: amd64' 'Components: main' \
			'Date: Sat, 03 Feb 2001 04:05:06 UTC' 'Valid-Until: Sat, 10 Feb 2001 04:05:06 UTC' SHA256: \
			" $(sha256sum <"$dir/packages/Packages" | cut -c1-64) $(stat -c %s "$dir/packages/Packages") main/binary-amd64/Packages" \
			>"$dir/dists/$suite/Release"
	done
}

# choose DIR [FMAP_MIRROR=...]: what choose-kernel says of that archive, and its status. WANTED is the
# series and the flavour (7.3).
# shellcheck disable=SC2016 # expanded inside
choose() {
	"$enter" "${@:2}" bash -c '
		SUITE=trixie
		. scripts/apt-sources
		mkdir -p /tmp/apt/lists/partial
		apt_sources key "file:$1" | sed "s/signed-by=key/trusted=yes/" >/tmp/apt/sources.list
		printf "%s;\n" "Dir::State::lists \"/tmp/apt/lists\"" "Dir::Cache \"/tmp/apt\"" \
			"Dir::Etc::sourcelist \"/tmp/apt/sources.list\"" "Dir::Etc::sourceparts \"/dev/null\"" \
			"APT::Architecture \"amd64\"" "APT::Sandbox::User \"root\"" "Acquire::Languages \"none\"" >/tmp/apt/apt.conf
		export APT_CONFIG=/tmp/apt/apt.conf
		apt-get update >/tmp/apt/log 2>&1 || { cat /tmp/apt/log; exit 9; }
		scripts/choose-kernel $2
		echo "status $?"' choose "$repo/$1" "${WANTED-7.3}" 2>&1
}
chosen() { # TEXT DIR WANTED-LINE...
	local text=$1 said line missing=()
	said=$(choose "$2" FMAP_MIRROR=dated)
	for line in "${@:3}"; do
		grep -qF -- "$line" <<<"$said" || missing+=("not said: $line")
	done
	[ ${#missing[@]} = 0 ] || missing+=("but:" "$said")
	result "$text" "${missing[@]}"
}

build_of() { # RELEASE VERSION: all packages of one build
	echo "linux-image-$1 $2 linux-initramfs-tool, linux-base-$1 (= $2), linux-modules-$1 (= $2)"
	printf '%s\n' "linux-base-$1 $2" "linux-modules-$1 $2" "linux-headers-$1 $2" \
		"linux-source-$(grep -oE '^[0-9]+\.[0-9]+' <<<"$1") $2"
}
new=7.3.10+deb13-amd64 old=7.3.9+deb13-amd64
both=$(build_of $new 7.3.10-1; build_of $old 7.3.9-1
	build_of 7.3.11+deb13-rt-amd64 7.3.11-1; build_of 7.3.8+deb13-cloud-amd64 7.3.8-1; build_of 7.30.1+deb13-amd64 7.30.1-1; build_of 7.2.1+deb13-amd64 7.2.1-1)
archive_of "$repo/whole" <<<"$both"
archive_of "$repo/headers" < <(grep -v "^linux-headers-$new" <<<"$both")
archive_of "$repo/source" < <(grep -v "^linux-source-7.3 7.3.10-1" <<<"$both")
archive_of "$repo/modules" < <(grep -v "^linux-modules-$new" <<<"$both")
archive_of "$repo/other" < <(sed "/^linux-headers-$new/s/-1$/-2/" <<<"$both")
archive_of "$repo/none" < <(grep -v '^linux-headers-7.3\.' <<<"$both")
archive_of "$repo/gone" < <(grep -v '7\.3\.' <<<"$both")

archive_of "$repo/rc" < <(build_of 7.5-amd64 7.5~rc7-1)

chosen "the newest kernel" whole "$new" "linux-headers-$new=7.3.10-1 linux-source-7.3=7.3.10-1" "status 0"
for lost in headers modules; do
	chosen "a kernel whose $lost are gone is passed over" $lost "$old" \
		"linux-image-$old=7.3.9-1 linux-base-$old=7.3.9-1 linux-modules-$old=7.3.9-1" \
		"passed over: $new 7.3.10-1: there is no linux-$lost-$new" "status 0"
done
chosen "a kernel whose source is gone is passed over" source "$old" "there is no linux-source-7.3" "status 0"
chosen "headers of another build do not count" other "$old" "there is no linux-headers-$new" "status 0"
chosen "no kernel is whole: what there is, and what to do" none "no kernel 7.3 for amd64" \
	"$new 7.3.10-1: there is no linux-headers-$new" "$old 7.3.9-1: there is no linux-headers-$old" \
	"of other series there are: 7.2, 7.30" "Set FMAP_MIRROR" "status 3"
chosen "no kernel at all: what there is, and what to do" gone "no kernel 7.3 for amd64" \
	"of other series there are: 7.2, 7.30" "Set FMAP_MIRROR" "status 3"
WANTED="any" chosen "the newest of any series" whole 7.30.1+deb13-amd64 "status 0"
WANTED="7.3 cloud-amd64" chosen "another flavour" whole 7.3.8+deb13-cloud-amd64 "status 0"
WANTED="7.4" chosen "a series that is not there" whole "no kernel 7.4 for amd64" "status 3"
WANTED="any" chosen "a release candidate" rc "7.5-amd64" "linux-source-7.5=7.5~rc7-1" "status 0"
result "any other archive may not" "$(choose whole | grep -E 'status 0' && echo "it is taken")"

# An archive that cannot be read is said to be one, and in our words.
refused "an archive that is not there" "^apt-lists: the archive's suite trixie cannot be read: .*FMAP_MIRROR=URL" \
	"${root[@]}" env FMAP_KERNEL="$work/kernel" FMAP_KERNEL_NAME=7.3 "$enter" bash -c \
	'scripts/apt-lists trixie "deb [trusted=yes] file:/nowhere trixie main" 2>&1 >/dev/null'
refused "a suite that the root does not know" "^apt-lists: the root knows no archive with the suite none" \
	"${root[@]}" env FMAP_KERNEL="$work/kernel" FMAP_KERNEL_NAME=7.3 "$enter" scripts/apt-lists none
refused "a kernel in a directory, without its name" "FMAP_KERNEL_NAME.*has to be set" \
	env FMAP_KERNEL="$work/kernel" "$enter" true
refused "a kernel that there is not" "there is no kernel 6\.1, but: .*7\.3 " env FMAP_KERNEL=6.1 "$make_root"
refused "an rt kernel" "no rt kernel can work" env FMAP_KERNEL=7.3-rt "$make_root"

# --- the kernel that was found -----------------------------------------------------------------------

tree=$top/tree image=$top/image
mkdir -p "$tree/include/config" "$image/usr/lib/modules/7.3.4/kernel/drivers/dax"
echo 7.3.4 >"$tree/include/config/kernel.release"
: >"$image/usr/lib/modules/7.3.4/kernel/drivers/dax/kmem.ko"
# shellcheck disable=SC2016 # expanded inside
"$enter" rustc --version | sed 's/.*/CONFIG_RUSTC_VERSION_TEXT="&"/' >"$tree/.config"
refused "a kernel without fsdev_dax" "7\.3\.4 has no fsdev_dax \(CONFIG_DEV_DAX_FSDEV\)" \
	"$enter" scripts/check-kernel "$tree" "$image"
refused "a tree and an image of different kernels" "the tree is for 7\.3\.4, but $work.* is not" \
	"$enter" scripts/check-kernel "$tree" "$work"

# A tree of a series that is not in scripts/kernels, and then one that is.
mkdir -p "$tree/include/config"
: >"$tree/include/config/auto.conf"
echo 6.12.0-amd64 >"$tree/include/config/kernel.release"
refused "a kernel of a series that was not tried" "6\.12\.0-amd64 is of no series .*7\.3 7\.2.*FMAP_ANY_SERIES=1" \
	"$enter" scripts/build-module "$tree" "$top/build/none"
refused "... is tried if one asks for it" "is built without CONFIG_RUST" \
	env FMAP_ANY_SERIES=1 "$enter" scripts/build-module "$tree" "$top/build/none"
echo 7.3.4-amd64 >"$tree/include/config/kernel.release"
refused "a kernel of a series that was tried" "is built without CONFIG_RUST" \
	"$enter" scripts/build-module "$tree" "$top/build/none"
# DKMS has the same list, in a pattern of bash.
pattern=$(sed -n 's/^BUILD_EXCLUSIVE_KERNEL="\(.*\)"$/\1/p' "$top/debian/fuse-dax-fmap-dkms.dkms" |
	sed "s/@SERIES@/$("$top/scripts/series" --pattern)/")
result "DKMS takes the series that the build takes, and no others" "$(
	for release in $("$top/scripts/series" | sed 's/$/.4+deb13-amd64/') 7.3-amd64; do
		[[ $release =~ $pattern ]] || echo "$pattern does not take $release"
	done
	for release in 6.12.1-amd64 7.1.9-amd64 7.30.1-amd64 17.3.1-amd64 8.0.1-amd64; do
		[[ ! $release =~ $pattern ]] || echo "$pattern takes $release"
	done)"

# --- all kernels --------------------------------------------------------------------------------------

# Of three kernels the archive has two. What builds and tests is a stand-in that records what it is to
# do; the kernels are directories.
mkdir -p "$work/all"
cp -r "$top/Makefile" "$top/README.md" "$top/scripts" "$work/all/"
stand_in() { # SCRIPT LINE...
	printf '%s\n' '#!/bin/bash' "${@:2}" >"$work/all/scripts/$1"
}
stand_in make-kernel
# shellcheck disable=SC2016 # expanded inside
{
	stand_in newest-kernel 'printf "%s\n" "7.4 no it has none" "7.3 yes 7.3.4-amd64" "7.2 yes 7.2.1-amd64"'
	stand_in build-quietly 'echo "build $FMAP_KERNEL" >>"$CALLS"; mkdir -p "build/$FMAP_KERNEL"'
	stand_in check 'echo "check $*" >>"$CALLS"; echo "5 passed, 0 failed"'
	stand_in find-kernel '. "${0%/*}/lib.sh"' 'echo "$STOCK_KERNEL"; use_newest; echo 7.3 >"$NEWEST"'
}
chmod 755 "$work/all/scripts/find-kernel"
export CALLS=$work/all/calls
all_kernels() { # COMMAND...
	: >"$CALLS"
	(cd "$work/all" && XDG_CACHE_HOME=$work/all-cache "$@") 2>&1
}
for name in 7.3 7.2; do
	place=$(all_kernels env FMAP_KERNEL=$name scripts/find-kernel)
	mkdir -p "$place/build"
	echo "$name.9-amd64" >"$place/release"
	echo 'proof: compiler: rustc 1.85.1 (4eb161250)' >"$place/manifest"
	echo 'CONFIG_CC_VERSION_TEXT="x86_64-linux-gnu-gcc-14 (Debian)"' >"$place/build/.config"
done
done_to() { # CALLS ROW [COMMAND]...
	local said
	said=$(all_kernels "${@:3}")
	if ! diff <(echo "$1") "$CALLS" || ! grep -qxF "$2" "$work/all/README.md"; then
		echo "$said"
		grep -A 5 '^| `KERNEL' "$work/all/README.md"
	fi
}
# shellcheck disable=SC2016 # not for the shell
{
	row='| `7.2` | 7.2.9-amd64 | rustc 1.85.1, gcc-14 | builds |'
	built=$'build 7.3\nbuild 7.2'
	tested=$'build 7.3\ncheck --kernel 7.3\nbuild 7.2\ncheck --kernel 7.2'
	result "make kernels TEST=0 only builds" "$(done_to "$built" "$row not run |" make -s kernels TEST=0)"
	result "make kernels builds and tests all that the archive has" \
		"$(done_to "$tested" "$row 5 passed, 0 failed |" make -s kernels)"
	result "... and its results stay" "$(done_to "$built" "$row 5 passed, 0 failed |" make -s kernels TEST=0)"
	one=$'build 7.3\ncheck --kernel 7.3 --test sizes\nbuild 7.2\ncheck --kernel 7.2 --test sizes'
	result "make kernels TEST=NAME runs that test" "$(done_to "$one" \
		'| `7.4` | not there: it has none | | | |' make -s kernels TEST=sizes)"
}
cp "$work/all/README.md" "$work/all/before"
result "all-kernels --other builds for one that is not the newest, and writes nothing" "$(
	done_to 'build 7.2' '# fuse_dax_fmap' scripts/all-kernels --other
	cmp "$work/all/before" "$work/all/README.md")"

# --- the module ---------------------------------------------------------------------------------------

# shellcheck disable=SC2016 # expanded inside
build() { # OUT
	"$enter" bash -c '
		mkdir /tmp/bin
		ln -s /usr/bin/* /usr/sbin/* /tmp/bin 2>/dev/null
		rm /tmp/bin/rustfmt
		PATH=/tmp/bin scripts/build-module /kernel/build "$1"' build "$top/build/$1" 2>&1
}
output=$(build module) && output=
result "the module is built without rustfmt" "$(grep -A 8 -E '^error|\*\*\*|build-module:' <<<"$output")"
want=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$top/tools/Cargo.toml")
have=$("$enter" modinfo -F version "$top/build/module/fuse-dax-fmap.ko" 2>&1)
result "modinfo has the version" "$([ -n "$want" ] && [ "$want" = "$have" ] || echo "'$have', and not '$want'")"

cat >>"$top/stats.rs" <<'END'

/// Names that do not exist, where the compiler takes them for new variables.
#[allow(dead_code, unused_variables)]
fn errnos(e: Error, r: Result<()>) -> bool {
    let first = matches!(e, EUNKNOWN1);
    let second = match r {
        Err(EUNKNOWN2) => true,
        Ok(()) => false,
    };
    let third = if let EUNKNOWN3 = e { true } else { false };
    first || second || third
}
END
output=$(build module)
for name in EUNKNOWN{1,2,3}; do
	grep -A 12 '^error: ' <<<"$output" | grep "$name" >/dev/null || echo "nothing is said of $name"
done >"$work/unsaid"
result "an unknown errno in a pattern is an error" "$(cat "$work/unsaid"; [ ! -s "$work/unsaid" ] || echo "$output")"

finish
