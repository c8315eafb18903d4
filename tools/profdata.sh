#!/usr/bin/env bash
# profdata.sh - print the path of an llvm-profdata for this rustc.
#
# LLVM changes the format of profiles now and then, so each candidate is tried: it must read what
# a program of this rustc writes, and rustc must read what it makes of that. First rustup's own,
# which belongs to the compiler, then llvm-profdata on PATH, then llvm-profdata-NN, newest first.
# LLVM_PROFDATA=... names the only candidate.
set -euo pipefail

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

candidates() {
    if [ -n "${LLVM_PROFDATA:-}" ]; then printf '%s\n' "$LLVM_PROFDATA"; return; fi
    printf '%s\n' "$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata" llvm-profdata
    compgen -c llvm-profdata- | grep -E '^llvm-profdata-[0-9]+$' | sort -u -t - -k 3 -n -r || true
}

fits() {
    rm -f "$scratch/merged"
    "$1" merge --output "$scratch/merged" "$scratch/raw" &&
        rustc -Cprofile-use="$scratch/merged" -o "$scratch/program" "$scratch/program.rs"
}

host=$(rustc -vV | sed -n 's/^host: //p')
llvm=$(rustc -vV | sed -n 's/^LLVM version: //p')
echo 'fn main() {}' >"$scratch/program.rs"
rustc -Cprofile-generate -o "$scratch/program" "$scratch/program.rs"
LLVM_PROFILE_FILE=$scratch/raw "$scratch/program"

tried=
while read -r candidate; do
    path=$(type -P "$candidate") || continue
    if answer=$(fits "$path" 2>&1); then
        printf '%s\n' "$path"
        exit
    fi
    tried+="  $path"$'\n'"      ${answer%%$'\n'*}"$'\n'
done < <(candidates)

cat >&2 <<END
velodrome: ${LLVM_PROFDATA:-no llvm-profdata on this machine} cannot be used with this rustc, whose LLVM is $llvm:
${tried:-  nothing to try
}  With rustup: rustup component add llvm-tools
  Without it: apt-get install llvm-${llvm%%.*}, or the nearest older one there is; llvm-19 reads the profiles of LLVM 22
END
exit 1
