#!/usr/bin/env bash
# python.sh - which Python interpreter to build for.
#
#   python.sh          print its path
#   python.sh --tag    print its version and ABI flags: 3.13, 3.14d
#
# The environment variable PYTHON chooses: a path, a command on PATH, or a version that
# pythons.sh knows (3.14, 3.14d). Without it: python3 if that is 3.11 or newer, else the
# newest python3.X on PATH.
set -euo pipefail

die() { printf 'velodrome: %s\n' "$*" >&2; exit 1; }

# Run it to know: a pyenv shim exists for versions that are not chosen, too.
new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

chosen() {
    local python=$PYTHON
    case $PYTHON in 3.[0-9]*) python=$("$(dirname "$0")/pythons.sh" "$PYTHON") || exit 1 ;; esac
    type -P "$python" >/dev/null || die "PYTHON=$PYTHON: no such command"
    new_enough "$python" || die "PYTHON=$PYTHON: does not start, or is older than Python 3.11"
    printf '%s\n' "$python"
}

default() {
    local minor
    for minor in '' .19 .18 .17 .16 .15 .14 .13 .12 .11; do
        if type -P "python3$minor" >/dev/null && new_enough "python3$minor"; then
            printf 'python3%s\n' "$minor"
            return
        fi
    done
    die "no Python 3.11 or newer on PATH.
  Debian 12 and newer:  apt-get install python3 python3-venv
  one somewhere else:   make ... PYTHON=/path/to/python3.X
  a newer one, unpacked from Debian's packages into a cache folder:  make ... PYTHON=3.13"
}

if [ -n "${PYTHON:-}" ]; then python=$(chosen); else python=$(default); fi

case ${1:-} in
'') "$python" -c 'import sys; print(sys.executable)' ;;
--tag) "$python" -c 'import sys; print("%d.%d" % sys.version_info[:2] + sys.abiflags)' ;;
*) die "python.sh: unknown argument $1" ;;
esac
