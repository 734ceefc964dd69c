#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What fmapctl says to programs: `status --json` is JSON, `--watch` prints it again, and
# `metrics` is OpenMetrics text with the numbers of the kernel: of mounts, and of their devices.
# `status --devices` and `status --files` show the numbers of those.

# shellcheck disable=SC2317 # functions are called by check, and by the trap

# shellcheck source=../lib/ktap.bash
. "$(dirname "$0")/ktap.bash"
# A name that has to be escaped.
need_one_file "fmapctl fmapfs python3" 'a "b" \c'

tidy_up() {
	umount "$dir" 2>/dev/null
	fmapctl unload striped >/dev/null 2>&1
	rm -rf "$tmp"
}
trap tidy_up EXIT

# A strict reader of OpenMetrics: HELP, TYPE and UNIT come first, once; no sample is there twice.
# Prints the number of the sample that is named.
cat >"$tmp/openmetrics.py" <<'EOF'
import re, sys
text = sys.stdin.read()
assert text.endswith("# EOF\n") and text.count("# EOF") == 1
label = r'[a-z_]+="(?:[^"\\\n]|\\[\\"n])*"'
sample = re.compile(r"([a-z][a-z0-9_]*)(?:\{(%s(?:,%s)*)\})? ([0-9]+)" % (label, label))
seen, kinds, current = {}, {}, None
for line in text.splitlines()[:-1]:
    if line.startswith("# "):
        _, what, name, value = line.split(" ", 3)
        assert name.startswith("fuse_dax_fmap_"), line
        if what == "HELP":
            assert name not in kinds, line
            current = name
        elif what == "TYPE":
            assert name == current and value in ("counter", "gauge"), line
            kinds[name] = value
        else:
            assert what == "UNIT" and name == current and name.endswith("_" + value), line
        continue
    match = sample.fullmatch(line)
    assert match, line
    name, labels, number = match.groups()
    wanted = current + "_total" if kinds[current] == "counter" else current
    assert name == wanted, line
    key = name + ("{" + labels + "}" if labels else "")
    assert key not in seen, line
    seen[key] = int(number)
print(seen[sys.argv[1]] if len(sys.argv) > 1 else len(seen))
EOF
metrics() { # SAMPLE
	fmapctl metrics | python3 "$tmp/openmetrics.py" "$@"
}
is() { # WANTED COMMAND...
	local wanted=$1
	shift
	"$@"
	[ "$("$@")" = "$wanted" ]
}
json() { # EXPRESSION
	fmapctl status --json | python3 -c '
import json, sys
mounts = json.load(sys.stdin)["mounts"]
print(eval(sys.argv[1]))' "$1"
}
# shellcheck disable=SC1003 # no quote is escaped
labels='mount="'$tmp'/a \"b\" \\c",ops="striped"'

echo "TAP version 13"
check "nothing is mounted: JSON" is '[]' json mounts
check "nothing is mounted: metrics" is 0 metrics 'fuse_dax_fmap_mounts'
check "ops are loaded" fmapctl load "$bpf"
check "a server mounts" fmapfs --daemon "$manifest" "$dir"
# fmapfs has zeroed the file.
written=$(($(json 'mounts[0]["counters"]["written_bytes"]') + (3 << 20)))
dd if=/dev/zero of="$dir/file" bs=1M count=3 conv=notrunc status=none
check "status is JSON, and names the mount" is "['$tmp/a \"b\" \\\\c']" json 'mounts[0]["paths"]'
check "... the ops" is "('striped', 'registered')" json '(mounts[0]["ops"], mounts[0]["ops_state"])'
check "... the device" is "[('${device##*/}', False)]" \
	json '[(d["name"], d["failed"]) for d in mounts[0]["devices"]]'
check "... and what was counted" is "$written" json 'mounts[0]["counters"]["written_bytes"]'
check "metrics says the same" is "$written" metrics "fuse_dax_fmap_written_bytes_total{$labels}"
check "... of the files" is 1 metrics "fuse_dax_fmap_mapped_files{$labels}"
check "... of the device" is 0 metrics \
	"fuse_dax_fmap_device_failed{$labels,device=\"${device##*/}\"}"
python3 -c 'import mmap, sys; file = open(sys.argv[1], "r+b"); mmap.mmap(file.fileno(), 0)[0]' "$dir/file"
check "... of a page fault" is 1 metrics "fuse_dax_fmap_faults_total{$labels,size=\"2MiB\"}"

# The mount has only this device, so it has the same numbers.
of_device() { # KEY
	json 'mounts[0]["devices"][0]["counters"]["'"$1"'"]'
}
check "the device of a mount" is "$written" of_device written_bytes
check "... and its faults" is 1 of_device faults_2m
check "... and its pages that have failed" is 0 json 'mounts[0]["devices"][0]["poisoned_pages"]'
check "... of all devices of the mount" is 0 json 'mounts[0]["poisoned_pages"]'
check "metrics of the device" is "$written" metrics \
	"fuse_dax_fmap_device_written_bytes_total{$labels,device=\"${device##*/}\"}"
check "... of its faults" is 1 metrics \
	"fuse_dax_fmap_device_faults_total{$labels,device=\"${device##*/}\",size=\"2MiB\"}"
check "... of its pages that have failed" is 0 metrics \
	"fuse_dax_fmap_device_poisoned_pages{$labels,device=\"${device##*/}\"}"
check "... of all devices of the mount" is 0 metrics "fuse_dax_fmap_poisoned_pages{$labels}"
no_files() {
	! fmapctl metrics | grep -E 'fuse_dax_fmap_file_|nodeid'
}
check "metrics have no files" no_files
file_json() { # EXPRESSION
	fmapctl status --json --files | python3 -c '
import json, sys
files = json.load(sys.stdin)["mounts"][0]["file_counters"]
print(eval(sys.argv[1]))' "$1"
}
check "the files of a mount" is "['/file']" file_json '[f["file"] for f in files]'
# fmapfs has zeroed it by another file.
own=$((3 << 20))
check "... and what was counted of one" is "($own, 1, 0)" file_json \
	'tuple(files[0]["counters"][c] for c in ("written_bytes", "faults_2m", "mappings_refused"))'
check "... only if they are wanted" is False json '"file_counters" in mounts[0]'
check "... and no more of them" is 0 file_json 'len(files) - 1'
said() { # ERE ARGUMENT...
	local ere=$1
	shift
	fmapctl status "$@" >"$tmp/table"
	cat "$tmp/table"
	grep -qE "$ere" "$tmp/table"
}
check "a table of devices" said "^0:${device##*/} +ok +0 +1 +0 +[0-9]+ +$written +$tmp/a" --devices
check "a table of files" said "^[0-9]+ +[0-9]+ +1 +0 +[0-9]+ +$own +0 +0 +/file +$tmp/a" --files
check "... of a number of them" said '^NODEID ' --files 1
check "... of both" said '^NODEID ' --devices --files 3

check "the module is loaded" is 1 metrics 'fuse_dax_fmap_module_loaded'

# A file, for node_exporter.
umask 077
check "metrics into a file" fmapctl metrics --output "$tmp/x.prom"
check "... that is complete" python3 "$tmp/openmetrics.py" <"$tmp/x.prom"
check "... and can be read by all" is 644 stat -c %a "$tmp/x.prom"
check "... and is replaced" fmapctl metrics --output "$tmp/x.prom"
only_file() {
	ls -A "$tmp"
	[ "$(find "$tmp" -maxdepth 1 -name '.*' -not -name . | wc -l)" = 0 ]
}
check "... without leaving anything" only_file
no_room() {
	local status=0
	fmapctl metrics --output "$tmp/no/x.prom" 2>"$tmp/said" || status=$?
	cat "$tmp/said"
	[ "$status" = 1 ] && [ "$(<"$tmp/said")" = "fmapctl: $tmp/no/x.prom: No such file or directory" ]
}
check "a directory that is not there" no_room

# Again and again, until the reader has gone.
watched() { # ARGUMENT...
	timeout 20 fmapctl status --watch 1 "$@" | head -n "$lines" >"$tmp/said"
	cat "$tmp/said"
	[ "${PIPESTATUS[0]}" = 0 ]
}
lines=3
check "JSON, a line each time" watched --json
each_line() {
	python3 -c 'import json, sys; print(len([json.loads(line)["mounts"][0] for line in sys.stdin]))' \
		<"$tmp/said" | grep -qx 3
}
check "... each of which is complete" each_line
writes() {
	while [ -e "$tmp/said" ]; do
		dd if=/dev/zero of="$dir/file" bs=64k count=1 conv=notrunc status=none
		sleep 0.05
	done &
	timeout 100 fmapctl status --watch=1 | tee "$tmp/watched" |
		grep -m 1 -E '^  bytes written +[0-9]+ +[0-9]+/s$'
	found=${PIPESTATUS[2]}
	rm "$tmp/said"
	wait
	[ "$found" = 0 ] || cat "$tmp/watched"
	return "$found"
}
check "text, with how fast the counters grow" writes

finish
