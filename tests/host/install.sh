#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# install.sh: what "make install" puts on a host. It all goes below DESTDIR, and "make uninstall"
# removes all of it but a configuration that was changed; without DESTDIR, systemd and udev are told,
# in the right order, and with it they are not; what shells, man and systemd read, they can read; the
# script that binds listed devices reads the whole list.
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

# systemctl, udevadm and depmod that record what they are told, and whether the unit was there then. The
# system is this one with an empty /etc, /run and /usr/sbin, in a mount namespace; awk is a link there.
mkdir -p "$work/told" "$work/prefix" "$work/moddir" "$work/empty-sbin" "$work/empty-etc"
! [ -d /etc/alternatives ] || cp -a /etc/alternatives "$work/empty-etc/"
for program in systemctl udevadm depmod; do
	cat >"$work/told/$program" <<-'END'
		#!/bin/bash
		{
			[ -e "$WORK/prefix/lib/systemd/system/fuse-dax-fmap-ops.service" ] || echo -n "without its unit: "
			echo "${0##*/} $*"
		} >>"$WORK/log"
		[[ $* != is-enabled* ]] || [ ! -e "$WORK/disabled" ]
	END
	chmod 755 "$work/told/$program"
done
# unshared COMMAND...: in a mount namespace of which nothing comes out. In the root of scripts/enter,
# which is no mount, propagation cannot be changed; there it is looked at first.
unshared() {
	local canary=/run/install.sh.$$ status=1
	if ! unshare --mount --propagation private true 2>/dev/null; then
		mkdir "$canary" || return
		if unshare --mount --propagation unchanged mount -t tmpfs tmpfs "$canary"; then
			umount "$canary" 2>/dev/null || status=0
		fi
		rmdir "$canary"
		[ $status = 0 ] && unshare --mount --propagation unchanged "$@"
		return
	fi
	unshare --mount --propagation private "$@"
}
# told SYSTEMD [OPTION]: what they were told, without the paths of this test.
told() {
	: >"$work/log"
	# shellcheck disable=SC2016 # expanded inside
	unshared env WORK="$work" BUILD="$build" PREFIX="$work/prefix" \
		MODDIR="$work/moddir" PATH="$work/told:$PATH" bash -c '
		mount -t tmpfs tmpfs /run && mount --bind "$WORK/empty-etc" /etc && mount --bind "$WORK/empty-sbin" /usr/sbin || exit
		[ -z "$1" ] || { mkdir -p /run/systemd/system /run/udev && : >/run/udev/control; }
		"$2/scripts/install" "${@:3}"' told "$1" "$top" "${@:2}" >"$work/said" 2>&1 || cat "$work/said"
	sed "s/depmod [0-9].*/depmod RELEASE/" "$work/log"
}
is_told() { # LINES SYSTEMD [OPTION]
	local said
	said=$(told "${@:2}")
	[ "$said" = "$1" ] || printf '%s\n' "wanted:" "$1" "but:" "$said"
}
files_come="depmod RELEASE
systemctl daemon-reload
udevadm control --reload
udevadm trigger --subsystem-match=dax"
start="systemctl is-enabled --quiet fuse-dax-fmap-ops.service
systemctl restart fuse-dax-fmap-ops.service"
stop="systemctl --quiet disable --now fuse-dax-fmap-metrics.timer
systemctl --quiet disable --now fuse-dax-fmap-ops.service"
: >"$work/log"
rm -rf "$dest"
WORK=$work PATH="$work/told:$PATH" put >/dev/null
WORK=$work PATH="$work/told:$PATH" put --uninstall >/dev/null
result "with DESTDIR, no program of the system is told anything" "$(cat "$work/log")"
if [ "$(id -u)" = 0 ] && unshared true 2>/dev/null; then
	result "the unit of the formats is enabled and started, and devices get their names" "$(is_told \
		"$files_come
systemctl --quiet enable fuse-dax-fmap-ops.service
$start" systemd)"
	: >"$work/disabled"
	result "what an administrator has disabled since stays so" "$(is_told \
		"$files_come
${start%%$'\n'*}" systemd)"
	rm "$work/disabled"
	result "units are disabled before their files go" "$(is_told "$stop
without its unit: ${files_come//$'\n'/$'\n'without its unit: }" systemd --uninstall)"
	result "without systemd and udev, only depmod is told" "$(is_told "depmod RELEASE" ''
		is_told "without its unit: depmod RELEASE" '' --uninstall)"
else
	skipped "systemd and udev are told" "it takes root, and a mount namespace"
fi

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
