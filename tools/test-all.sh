#!/usr/bin/env bash
# test-all.sh - `make test` on the first interpreter, its Python part on the others; ends with
# the summary lines of all the test runners again.
#
#   test-all.sh PYTHON...    as python.sh takes them; "default" is what it picks by itself
#
# JOBS of them (2) run at once, begun in this order; what `make test` does before it builds is one of its own. Most
# tests use one core, and some wait for children. Each line says whose it is; target/logs has each job's own.
#
# Every interpreter has its turn, whatever fails before it. One that cannot be had on this
# machine counts as a failure: name fewer if that is what you want.
set -euo pipefail
cd "$(dirname "$0")/.."

export logs=target/logs
rm -rf "$logs"; mkdir -p "$logs"
status=0
tags=
jobs=()

# Interpreters are found, and unpacked, one after the other: two at once would share a folder.
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
    : >"$logs/$tag"
    if [ ${#jobs[@]} = 0 ]; then
        tags+=" check $tag"
        jobs=("check check $python" "$tag test-built $python")
    else
        tags+=" $tag"
        jobs+=("$tag test-python $python")
    fi
done

# run TAG GOAL PYTHON
run() {
    local tag goal python
    read -r tag goal python <<<"$1"
    {
        "${MAKE:-make}" --no-print-directory "$goal" PYTHON="$python" 2>&1 ||
            { echo "FAILED: make $goal, $python"; false; }
    } | tee "$logs/$tag" | sed -u "s/^/$tag | /"
}
export -f run

# Not by the shell's own `&`: what that starts ignores SIGINT, which many tests are about.
if [ ${#jobs[@]} != 0 ]; then
    printf '%s\n' "${jobs[@]}" |
        xargs -d '\n' -n 1 -P "${JOBS:-2}" bash -o pipefail -c 'run "$1"' run || status=1
fi

# The closing lines of cargo test, of pytest, of unittest, and of runners that end with plain counts;
# before them, what pytest says of each test that failed.
closing='^(test result: .*|=+ .*[0-9]+ (passed|failed|errors?|skipped).* in [0-9].*=+'
closing+='|(FAILED|ERROR) [^ ]+::.*|Ran [0-9]+ tests? in .*|([A-Za-z-]+: )?[0-9]+ passed, [0-9]+ failed(, [0-9]+ skipped)?|(FAILED|NOT TESTED): .*)$'
printf '\n== summary\n'
for tag in $tags; do
    if [ "$tag" = check ]; then printf '\n-- check\n'; else printf '\n-- Python %s\n' "$tag"; fi
    if ! grep -hE "$closing" "$logs/$tag"; then echo "no test ran"; status=1; fi
done
exit "$status"
