#!/usr/bin/env bash
# pythons.sh - CPython interpreters for building and testing, on a Debian machine.
#
#   pythons.sh SPEC...          make each interpreter available; print its path, one a line
#   pythons.sh --where SPEC...  print the paths of those already there; install nothing
#   pythons.sh --list           name what is installed, and what could be
#
# SPEC     what it is                                           where it comes from
#   3.11 3.12        the release build                          pyenv, else python3.X on PATH
#   3.13 3.14 3.15   the release build, newest patch level      Debian's packages of a newer suite
#   3.13d 3.14d 3.15d  the --with-pydebug build of the same (sys.gettotalrefcount)   likewise
#   3.13.0 (X.Y.Z)   exactly that version                       pyenv
#   3.13-aarch64 ... the release build for aarch64, in qemu      Debian's packages; qemu-user
# A free-threaded one (3.14t) is refused with status 3: Debian does not package it.
#
# The path of one for aarch64 is that of a script, which runs it in qemu's user mode: for a program, not for venvs
# or for what starts `sys.executable`.
#
# How a Debian interpreter is made: the .deb files of the interpreter and of everything it
# depends on, the newer suite's C library included, are downloaded by apt (own lists, own
# empty package state, the machine's apt is left as it is) and unpacked into one folder; then
# patchelf points the interpreter at the C library and at the shared libraries in that folder.
# It runs straight from the shell, makes venvs, and loads extensions built by the machine's own
# cargo and gcc. No root is needed but for `apt-get install patchelf`, where it is missing.
# The suite's Release files are verified by apt with the machine's Debian keys.
#
# Environment
#   VELODROME_PYTHONS        cache folder; default ${XDG_CACHE_HOME:-~/.cache}/velodrome-pythons.
#                            A folder is fixed to its path: do not move it (remove and run again).
#   VELODROME_PYTHON_SUITES  Debian suites to look in, in order; default "forky sid"
#   VELODROME_REFRESH=1      install again, in the suite's present version
#
# Exit status: 0 every path was printed; 1 an install failed; 2 usage; 3 no such interpreter here.
set -euo pipefail

cache=${VELODROME_PYTHONS:-${XDG_CACHE_HOME:-$HOME/.cache}/velodrome-pythons}
suites=${VELODROME_PYTHON_SUITES:-forky sid}
say() { printf 'pythons.sh: %s\n' "$*" >&2; }
die() { local status=$1; shift; say "$*"; exit "$status"; }

# Unpacked for their dependency only; an interpreter does not need them.
skip_debs='^(debconf|netbase|media-types|net-tools|ca-certificates|openssl|readline-common|tzdata|linux-libc-dev|libc6-dev|libc-dev-bin|libexpat1-dev|zlib1g-dev|libselinux1|libpcre2-8-0|libc-gconv-modules-extra|gcc-[0-9]+-base)_'

# ---- where the Debian archive is: what the machine's own apt already uses ------------------
archive_uri() {
    local release uri
    # shellcheck disable=SC1091
    release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    # shellcheck disable=SC2016
    uri=$(apt-get indextargets --no-release-info --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' \
        'Identifier: Packages' | awk -v r="$release" '$2 == r && $3 == "main" { print $1; exit }')
    [ -n "$uri" ] || die 1 "apt has no source for Debian ${release:-?} main"
    printf '%s\n' "$uri"
}

# ---- a private apt: its own sources, lists, archives, and no installed packages ------------
apt_ready=
private_apt() {  # private_apt SUITE ARCHITECTURE
    local suite=$1 architecture=$2 dir=$cache/apt/$1 uri
    [ "$architecture" = "$(dpkg --print-architecture)" ] || dir+=-$architecture
    if [ "$apt_ready" != "$dir" ]; then
        uri=$(archive_uri) || exit 1
        mkdir -p "$dir"/state/lists/partial "$dir"/archives/partial
        : >"$dir/status"
        printf 'deb %s %s main\n' "$uri" "$suite" >"$dir/sources.list"
        cat >"$dir/apt.conf" <<CONF
Dir::Etc::SourceList "$dir/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State "$dir/state";
Dir::State::status "$dir/status";
Dir::Cache "$dir";
Dir::Cache::archives "$dir/archives";
Dir::Log "$dir";
APT::Architecture "$architecture";
APT::Architectures { "$architecture"; };
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::Retries "3";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
Debug::NoLocking "true";
CONF
        apt_ready=$dir
    fi
    PRIVATE_APT=$dir/apt.conf
    if [ -z "$(find "$dir" -maxdepth 1 -name updated -mmin -720 -print)" ]; then private_update; fi
}
papt() { APT_CONFIG=$PRIVATE_APT "$@"; }
private_update() {
    papt apt-get update -qq >&2 || die 1 "the package lists of Debian $apt_ready could not be read"
    touch "$(dirname "$PRIVATE_APT")/updated"
}

need_patchelf() {
    command -v patchelf >/dev/null && return
    say "installing patchelf"
    apt-get install -y -qq patchelf >/dev/null 2>&1 ||
        { apt-get update -qq && apt-get install -y -qq patchelf >/dev/null; } ||
        die 1 "patchelf could not be installed"
}

download() {  # download FOLDER VERSION SUFFIX PACKAGES
    rm -f "$1"/*.deb
    # With no installed package in its state, apt downloads the whole closure. $4 is a list.
    # shellcheck disable=SC2086
    papt apt-get install -y -qq --download-only $4 >/dev/null || return 1
    [ -n "$3" ] || return 0
    # By themselves, so without the X libraries that the debug build's tkinter asks for.
    (cd "$1" && papt apt-get download -qq "python$2-dbg" "libpython$2-dbg" >/dev/null)
}

# ---- one interpreter out of a suite's packages -----------------------------------------------
unpack_debian() {  # unpack_debian VERSION SUFFIX ('' or d) ARCHITECTURE PACKAGES FOLDER; sets found
    local v=$1 debug=$2 architecture=$3 want=$4 tmp=$5 suite deb debs archives
    found=
    for suite in $suites; do
        private_apt "$suite" "$architecture"
        if [ -n "$(papt apt-cache pkgnames "python$v-minimal")" ]; then found=$suite; break; fi
    done
    [ -n "$found" ] || die 3 "no python$v in Debian's $suites"

    archives=$(dirname "$PRIVATE_APT")/archives
    rm -rf "$tmp"; mkdir -p "$tmp"
    if ! download "$archives" "$v" "$debug" "$want"; then
        # The suite may have moved on since its lists were read.
        private_update
        download "$archives" "$v" "$debug" "$want" || die 1 "python$v could not be downloaded from Debian $found"
    fi
    debs=$(cd "$archives" && ls -- *.deb)
    for deb in $debs; do
        [[ $deb =~ $skip_debs ]] || dpkg-deb -x "$archives/$deb" "$tmp"
    done
    rm -f "$archives"/*.deb

    # Debian merged /lib into /usr/lib: a package that still ships /lib files goes there too.
    local d
    for d in lib lib64 bin; do
        if [ -d "$tmp/$d" ]; then cp -a "$tmp/$d/." "$tmp/usr/$d/"; rm -rf "${tmp:?}/$d"; fi
    done
}

install_emulated() {  # install_emulated VERSION PREFIX
    local v=$1 prefix=$2 tmp=$2.new qemu
    qemu=$(type -P qemu-aarch64-static || type -P qemu-aarch64) ||
        die 3 "$v-aarch64: no qemu here (apt-get install qemu-user-static)"
    unpack_debian "$v" '' arm64 "python$v libgcc-s1" "$tmp"
    ln -s usr/lib "$tmp/lib"
    # shellcheck disable=SC2016
    printf '#!/bin/sh\nexec %s -L %s %s "$@"\n' "$qemu" "$prefix" "$prefix/usr/bin/python$v" >"$tmp/python$v-aarch64"
    chmod +x "$tmp/python$v-aarch64"
    rm -rf "$prefix"; mv "$tmp" "$prefix"
    "$prefix/python$v-aarch64" -c 'import ssl, _asyncio, os; assert os.uname().machine == "aarch64"' ||
        die 1 "$prefix/python$v-aarch64 does not work"
    printf '%s\n' "$found" >"$prefix/.complete"
    say "python$v for aarch64, in qemu, from Debian $found"
}

install_debian() {  # install_debian VERSION SUFFIX ('' or d) PREFIX
    local v=$1 debug=$2 prefix=$3 tmp=$3.new
    need_patchelf
    # libgcc-s1 is not Python's, but the extensions that Rust builds load it.
    unpack_debian "$v" "$debug" "$(dpkg --print-architecture)" \
        "python$v python$v-venv python$v-dev libpython$v-testsuite libgcc-s1" "$tmp"

    [ -z "$debug" ] || rm -f "$tmp/usr/bin/python$v"  # not patched: it would not start

    local exe=$tmp/usr/bin/python$v$debug ld libdir
    ld=$(basename "$(patchelf --print-interpreter "$exe")")
    libdir=$(find "$tmp/usr/lib" -name libc.so.6 -printf '%P\n' -quit); libdir=$(dirname "$libdir")
    [ -e "$tmp/usr/lib/$libdir/$ld" ] || die 1 "no $ld in the unpacked packages"
    # DT_RPATH rather than DT_RUNPATH: it holds for what the extensions load, too.
    patchelf --set-interpreter "$prefix/usr/lib/$libdir/$ld" \
        --force-rpath --set-rpath "$prefix/usr/lib/$libdir" "$exe"

    # Debian's build has absolute paths for headers and for ensurepip's wheels.
    local data
    while IFS= read -r data; do
        sed -i -e "s#/usr/share/python-wheels#$prefix&#g" \
               -e "s#\([\"' ]\)\(/usr/include/python\)#\1$prefix\2#g" \
               -e "s#\([\"' ]\)\(/usr/lib/python$v\)#\1$prefix\2#g" "$data"
    done < <(find "$tmp/usr/lib/python$v" -maxdepth 1 -type f -name '_sysconfig*data*.py' -o \
                  -maxdepth 1 -type f -name '_sysconfig_vars*.json')
    # It is ours, not the system's: pip may install into it.
    rm -f "$tmp/usr/lib/python$v/EXTERNALLY-MANAGED"

    rm -rf "$prefix"; mv "$tmp" "$prefix"
    exe=$prefix/usr/bin/python$v$debug
    "$exe" -c 'import ctypes, hashlib, lzma, sqlite3, ssl, venv, zlib, _asyncio, test.test_asyncio' ||
        die 1 "$exe does not work"
    printf '%s\n' "$found $("$exe" -c 'import sys; print(sys.version)' | tr '\n' ' ')" >"$prefix/.complete"
    say "python$v$debug: $(cat "$prefix/.complete")"
}

pyenv_root() { printf '%s\n' "${PYENV_ROOT:-$HOME/.pyenv}"; }

locate() {  # locate SPEC: the path of an interpreter that is already there, or nothing
    local spec=$1 v=${1%[dt]} exe best=
    case $spec in
    3.1[3-9]-aarch64)
        exe=$cache/debian-$spec/python$spec
        if [ -e "$cache/debian-$spec/.complete" ] && "$exe" -c '' 2>/dev/null; then
            printf '%s\n' "$exe"
        fi ;;
    3.1[3-9] | 3.1[3-9]d)
        exe=$cache/debian-$spec/usr/bin/python$spec
        if [ -e "$cache/debian-$spec/.complete" ] && "$exe" -c '' 2>/dev/null; then
            printf '%s\n' "$exe"
        fi ;;
    3.*.*)
        exe=$(pyenv_root)/versions/$spec/bin/python
        if [ -x "$exe" ]; then printf '%s\n' "$exe"; fi ;;
    *)
        for exe in "$(pyenv_root)/versions/$v".*/bin/python"$v"; do
            [ -x "$exe" ] && best=$best$exe$'\n'
        done
        if [ -n "$best" ]; then printf '%s' "$best" | sort -V | tail -n 1
        else
            exe=$(type -P "python$v" || true)
            # A pyenv shim is there for versions that are not chosen, too.
            if [ -n "$exe" ] && "$exe" -c '' 2>/dev/null; then "$exe" -c 'import sys; print(sys.executable)'; fi
        fi ;;
    esac
}

provide() {  # provide SPEC
    local spec=$1 path
    case $spec in
    *t) die 3 "$spec: Debian packages no free-threaded CPython" ;;
    3.1[3-9] | 3.1[3-9]d | 3.1[3-9]-aarch64)
        if [ -n "${VELODROME_REFRESH:-}" ] || [ -z "$(locate "$spec")" ]; then
            case $spec in
            *-aarch64) install_emulated "${spec%-aarch64}" "$cache/debian-$spec" ;;
            *d) install_debian "${spec%d}" d "$cache/debian-$spec" ;;
            *) install_debian "$spec" '' "$cache/debian-$spec" ;;
            esac
        fi ;;
    3.[0-9]* ) ;;
    *) die 2 "$spec: not a version (3.14, 3.14d, 3.13.0)" ;;
    esac
    path=$(locate "$spec")
    [ -n "$path" ] || die 3 "$spec: not here (looked in pyenv and on PATH)"
    printf '%s\n' "$path"
}

case ${1:-} in
'' | -h | --help) sed -n '2,/^set -/p' "$0" | sed -e '/^set -/d' -e 's/^# \{0,1\}//'; [ -n "${1:-}" ] || exit 2 ;;
--list)
    for spec in 3.11 3.12 3.13 3.14 3.15 3.13d 3.14d 3.15d; do
        path=$(locate "$spec")
        printf '%-6s %s\n' "$spec" "${path:-(not installed)}"
    done ;;
--where)
    shift
    for spec; do
        path=$(locate "$spec"); [ -n "$path" ] || die 3 "$spec: not installed"
        printf '%s\n' "$path"
    done ;;
-*) die 2 "unknown option $1" ;;
*)
    mkdir -p "$cache"
    exec 9>"$cache/.lock"; flock 9
    for spec; do provide "$spec"; done ;;
esac
