#!/usr/bin/env bash
# test-all.sh - `make test` on the first interpreter, its Python part on the others; ends with
# the summary lines of all the test runners again.
#
#   test-all.sh PYTHON...    as python.sh takes them; "default" is what it picks by itself
#
# Every interpreter has its turn, whatever fails before it. One that cannot be had on this
# machine counts as a failure: name fewer if that is what you want.
set -euo pipefail
cd "$(dirname "$0")/.."

logs=target/logs
rm -rf "$logs"; mkdir -p "$logs"
goal=test
status=0
tags=

for wanted; do
    name=$wanted; [ "$wanted" != default ] || name=
    if ! python=$(PYTHON=$name tools/python.sh); then
        tag=${wanted//\//_}
        tags+=" $tag"; status=1
        echo "NOT TESTED: no such interpreter on this machine" | tee "$logs/$tag"
        continue
    fi
    tag=$(PYTHON=$python tools/python.sh --tag)
    [ ! -e "$logs/$tag" ] || continue  # named twice: the default one is in the list, too
    tags+=" $tag"
    if ! "${MAKE:-make}" --no-print-directory "$goal" PYTHON="$python" 2>&1 | tee "$logs/$tag"; then
        echo "FAILED: make $goal, Python $tag" | tee -a "$logs/$tag"; status=1
    fi
    goal=test-python
done

# The closing lines of cargo test, of pytest, of unittest, and of runners that end with plain counts;
# before them, what pytest says of each test that failed.
closing='^(test result: .*|=+ .*[0-9]+ (passed|failed|errors?|skipped).* in [0-9].*=+'
closing+='|(FAILED|ERROR) [^ ]+::.*|Ran [0-9]+ tests? in .*|([A-Za-z-]+: )?[0-9]+ passed, [0-9]+ failed(, [0-9]+ skipped)?|(FAILED|NOT TESTED): .*)$'
printf '\n== summary\n'
for tag in $tags; do
    printf '\n-- Python %s\n' "$tag"
    if ! grep -hE "$closing" "$logs/$tag"; then echo "no test ran"; status=1; fi
done
exit "$status"
