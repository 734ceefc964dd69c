#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# results.sh: the output of scripts/results for KTAP as tests/run and others print it, also for
# KTAP that ends too early. Runs in the build root. Prints KTAP.

set -uo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd -P)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
count=0 failed=0

# expect TEXT COUNTS LINE...: the KTAP on stdin gives these counts and lines. Lines that begin
# with a space are those of the failures, which are shown at the end.
expect() {
	local text=$1 want
	want=$(printf '%s\n' "${@:2}")
	count=$((count + 1))
	rm -f "$work"/{x.*,failed}
	"$top/scripts/results" x "$work" >"$work/said" 2>&1
	{
		cat "$work/x.count"
		cat "$work/said"
		! [ -e "$work/failed" ] || grep '^ ' "$work/failed"
	} | tr -s ' ' >"$work/have"
	if [ "$(<"$work/have")" = "$want" ]; then
		echo "ok $count $text"
	else
		failed=1
		diff <(echo "$want") "$work/have" | sed 's/^/# /'
		echo "not ok $count $text"
	fi
}

echo "KTAP version 1"

expect "programs, with results of their own and without" "6 0 1" \
	"x module 1 passed" "x one 3 passed, 1 skipped" "x two 2 passed" <<'END'
KTAP version 1
# kernel 1.2.3, nvdimm
ok 1 - the module loads
    KTAP version 1
    # Subtest: one
    1..3
    # Starting 3 tests from 1 test cases.
    #  RUN           one.a ...
    ok 1 one.a
    ok 2 one.b # SKIP there is no b
    ok 3 one.c
    # Totals: pass:2 fail:0
ok 2 - one
ok 3 - one: nothing left behind
    KTAP version 1
    # Subtest: two
    it says nothing of tests
ok 4 - two
ok 5 - two: nothing left behind
1..5
END

expect "a test fails, and what it said" "2 1 0" \
	"x FAILED one: one.a" "x FAILED one: exit status 1" "x one 2 passed, 1 failed" \
	" one.c:7:a:Expected 0 == 1" " FAIL one.a" <<'END'
KTAP version 1
    KTAP version 1
    # Subtest: one
    1..2
    #  RUN           one.a ...
    # one.c:7:a:Expected 0 == 1
    #          FAIL  one.a
    not ok 1 one.a
    ok 2 one.b
# exit status 1
not ok 1 - one
ok 2 - one: nothing left behind
1..2
END

expect "a program has no plan, and is skipped as a whole" "3 0 1" \
	"x one.sh 3 passed" "x two 0 passed, 1 skipped" <<'END'
    KTAP version 1
    # Subtest: one.sh
    ok 1 it works
    ok 2 it works twice
ok 1 - one.sh
ok 2 - one.sh: nothing left behind
    KTAP version 1
    # Subtest: two
    1..0 # SKIP root is needed
ok 3 - two # SKIP root is needed
END

expect "the kernel log tells of trouble, with any characters" "2 1 0" \
	"x FAILED one: left behind: kernel log: WARNING: CPU: 0 #1 x#y" \
	"x one 1 passed, 1 failed" "x two 1 passed" \
	" kernel log: WARNING: CPU: 0 #1 x#y" " WARNING: CPU: 0 #1 x#y" " Call Trace:" <<'END'
    KTAP version 1
    # Subtest: one
    1..1
    ok 1 one.a
ok 1 - one
# kernel log: WARNING: CPU: 0 #1 x#y
# WARNING: CPU: 0 #1 x#y
# Call Trace:
not ok 2 - one: left behind
    KTAP version 1
    # Subtest: two
    1..1
    ok 1 two.a
ok 3 - two
END

expect "a program is killed in the middle" "3 1 0" \
	"x FAILED one: killed after 300 s" "x one 2 passed, 1 failed" "x two 1 passed" \
	" not a word more" <<'END'
    KTAP version 1
    # Subtest: one
    1..4
    # Starting 4 tests from 1 test cases.
    ok 1 one.a
    #  RUN           one.b ...
    # not a word more
# killed after 300 s
not ok 1 - one
ok 2 - one: nothing left behind
    KTAP version 1
    # Subtest: two
    1..1
    ok 1 two.a
ok 3 - two
END

expect "a program says nothing, and fails" "1 1 0" \
	"x FAILED one: killed by signal 11" "x one 1 passed, 1 failed" <<'END'
    KTAP version 1
    # Subtest: one
# killed by signal 11
not ok 1 - one
ok 2 - one: nothing left behind
END

# The caller reports a dead machine, and counts it.
expect "the machine dies in a test" "2 0 0" "x one 2 passed" <<'END'
    KTAP version 1
    # Subtest: one
    1..4
    ok 1 one.a
    ok 2 one.b
    #  RUN           one.c ...
END
[ "$(cat "$work/x.last" 2>/dev/null)" = one ] || failed=1
expect "the machine dies before a test" "0 0 0" <<<$'    KTAP version 1\n    # Subtest: one'
expect "the machine dies in a line" "1 0 0" "x one 1 passed" <<'END'
    KTAP version 1
    # Subtest: one
    1..2
    ok 1 one.a
    ok
END

expect "less comes than was planned" "1 1 0" \
	"x FAILED module: 1 results, where 3 were to come" "x module 1 passed, 1 failed" " why" <<'END'
KTAP version 1
1..3
ok 1 a
# why
END

expect "a result that is not as KTAP has it is none that passed" "0 1 0" \
	"x FAILED no result as KTAP has it: not ok 1 a#b" "x module 0 passed, 1 failed" <<'END'
KTAP version 1
not ok 1 a#b
END

expect "several programs without names" "4 0 0" "x module 4 passed" <<'END'
make: entering
KTAP version 1
1..2
ok 1 a
ok 2 b
KTAP version 1
1..2
ok 1 c
ok 2 d
END

expect "nothing at all" "0 0 0" </dev/null

echo "1..$count"
[ $failed = 0 ]
