#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# install.sh: what "make install" puts on a host. It all goes below DESTDIR, and "make uninstall"
# removes all of it but a configuration that was changed; what shells, man and systemd read, they
# can read; the script that binds listed devices reads the whole list.
#
# It runs in the root that packages are made in, which has zsh, fish, man and systemd, after "make
# module bpf host". Prints KTAP. On other systems the checks whose program is missing are skipped.

set -uo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd -P)
build=${BUILD:-$top/build}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export LC_ALL=C.UTF-8

# shellcheck source=../lib/ktap.bash
. "$top/tests/lib/ktap.bash"

# with PROGRAM TEXT COMMAND...: ok if the command prints nothing.
with() {
	local program=$1 text=$2
	shift 2
	if type -P "$program" >/dev/null; then
		result "$text" "$("$@" 2>&1 || echo "status $?")"
	else
		skipped "$text" "there is no $program here"
	fi
}

for file in host/bin/fmapctl host/pages/man8/fmapctl.8 bpf/striped.bpf.o fuse-dax-fmap.ko; do
	[ -e "$build/$file" ] || { echo "1..0 # SKIP $build/$file is not there: run \"make module bpf host\""; exit 4; }
done

dest=$work/dest
files() {
	(cd "$dest" && find . -mindepth 1 | sort)
}
put() { # [OPTION]
	BUILD=$build DESTDIR=$dest PREFIX=/usr "$top/scripts/install" "$@" 2>&1
}

result "it is installed" "$(put || echo "status $?")"
missing=()
for path in usr/sbin/{fmapctl,fmapfs,mount.fmapfs,mount.fuse.fmapfs} usr/lib/fuse-dax-fmap/{striped,famfs}.bpf.o \
	usr/include/linux/fuse_dax_fmap.h usr/share/man/man8/{fmapctl,fmapctl-load,fmapfs,mount.fmapfs}.8 \
	usr/share/bash-completion/completions/fmapctl usr/lib/systemd/system/{fuse-dax-fmap-ops,fmapfs@}.service \
	usr/lib/udev/rules.d/91-fuse-dax-fmap.rules usr/lib/modules-load.d/fuse-dax-fmap.conf etc/default/fuse-dax-fmap; do
	[ -e "$dest/$path" ] || [ -L "$dest/$path" ] || missing+=("no $path")
done
result "everything is there" "${missing[@]}"
result "one module, for the kernel that it was built for" \
	"$([ "$(find "$dest/lib/modules" -path '*/updates/fuse-dax-fmap.ko' | wc -l)" = 1 ] || files)"
result "no placeholder is left" "$(grep -rIlE '@[A-Z]+@' "$dest/usr/lib" "$dest/etc")"
before=$(files)
result "installing again changes nothing" "$(put; diff <(echo "$before") <(files))"
# In the middle of the list is something that "rm -f" does not remove.
page=$dest/usr/share/man/man8/fmapctl.8
rm "$page" && mkdir "$page"
put --uninstall >/dev/null
result "uninstalling that fails in the middle can be done again" \
	"$([ -e "$dest/usr/lib/fuse-dax-fmap/installed" ] || echo "the record is gone")"
rmdir "$page"
result "it is uninstalled" "$(put --uninstall || echo "status $?")"
result "nothing is left" "$(files)"

put >/dev/null
echo 'OPS="/mine.bpf.o"' >"$dest/etc/default/fuse-dax-fmap"
said=$(put)
result "a changed configuration stays" "$(grep -q 'mine' "$dest/etc/default/fuse-dax-fmap" || echo "it is gone"
	grep -q 'was changed, and stays' <<<"$said" || echo "said: $said")"
put --uninstall >/dev/null
result "also when it is uninstalled, and nothing else" "$(files | grep -vxE './etc(/default(/fuse-dax-fmap)?)?')"
rm -rf "$dest"
said=$(put --uninstall)
result "uninstalling what is not installed is one sentence" \
	"$([ "$(wc -l <<<"$said")" = 1 ] && grep -q 'nothing is known to be installed' <<<"$said" || echo "$said")"
mkdir -p "$work/empty"
said=$(BUILD=$work/empty DESTDIR=$dest "$top/scripts/install" 2>&1)
result "installing what is not built is one sentence" \
	"$([ "$(wc -l <<<"$said")" = 1 ] && grep -q 'run "make module" first' <<<"$said" || echo "$said")"
said=$(DESTDIR=relative "$top/scripts/install" 2>&1)
result "DESTDIR has to be absolute" "$(grep -q 'absolute' <<<"$said" || echo "$said")"

# bind-listed, with a node that is there, a list of this test, and a fmapctl that says what it is told.
mkdir -p "$work/sbin" "$work/etc"
printf '#!/bin/sh\necho "$@"\n' >"$work/sbin/fmapctl"
sed "s,@SBINDIR@,$work/sbin,; s,/etc/fuse-dax-fmap,$work/etc," "$top/host/bind-listed.in" >"$work/bind-listed"
chmod 755 "$work/sbin/fmapctl" "$work/bind-listed"
ln -s /dev/null "$work/by-test"
listed() { # LIST WANTED
	local said
	# shellcheck disable=SC2059 # the list has escapes
	printf "$1" >"$work/etc/devices"
	said=$("$work/bind-listed" null 2>&1)
	[ "$said" = "$2" ] || echo "list $1: said: $said"
}
result "a device that is listed is bound, and no other" \
	"$(listed "# mine\n\n$work/none\n$work/by-test mine\n" "bind /dev/null"
	listed "# $work/by-test\n$work/none\n" "")"
result "... also by a last line without an end" "$(listed "# mine\n$work/by-test" "bind /dev/null")"

pages=$build/host/pages
for tool in fmapctl fmapfs; do
	with bash "bash can read the completion of $tool" bash -n "$pages/bash/$tool"
	with zsh "zsh can read the completion of $tool" zsh -n "$pages/zsh/_$tool"
	with fish "fish can read the completion of $tool" fish -n "$pages/fish/$tool.fish"
done
for page in "$pages"/man8/*.8; do
	name=$(basename "$page")
	# shellcheck disable=SC2016 # expanded inside
	with man "$name: man has no warnings" bash -c 'man --warnings -E UTF-8 -l -Tutf8 -Z "$1" >/dev/null' man "$page"
	# shellcheck disable=SC2016 # expanded inside
	with mandoc "$name: mandoc has no errors" mandoc -T lint -W error "$page"
done

mkdir "$work/units"
for file in "$top"/host/*.service.in; do
	sed "s,@SBINDIR@,$build/host/bin,; s,@LIBDIR@,$top/host," "$file" >"$work/units/$(basename "${file%.in}")"
done
install -m 755 "$top/host/bind-listed.in" "$work/units/bind-listed"
sed -i "s,$top/host/bind-listed,$work/units/bind-listed," "$work"/units/*.service
cp "$top"/host/*.timer "$work/units/"
for unit in "$work"/units/*.{service,timer}; do
	name=$(basename "$unit")
	# A template is looked at as an instance of it.
	case $name in *@.*) ln -s "$name" "${unit/@./@dax0.0.}"; unit=${unit/@./@dax0.0.} ;; esac
	with systemd-analyze "$name: systemd has no complaint" \
		env SYSTEMD_UNIT_PATH="$work/units:" systemd-analyze verify --man=no "$unit"
done
sed "s,@SBINDIR@,/usr/sbin," "$top/host/91-fuse-dax-fmap.rules.in" >"$work/91-fuse-dax-fmap.rules"
if udevadm verify --help >/dev/null 2>&1; then
	with udevadm "the udev rules are sound" udevadm verify --no-summary "$work/91-fuse-dax-fmap.rules"
else
	skipped "the udev rules are sound" "udevadm cannot verify before systemd 254"
fi

finish
