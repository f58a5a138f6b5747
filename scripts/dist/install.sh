#!/bin/sh
# Copies these files below a folder, after a look at the machine.
#
# usage: ./install.sh [PREFIX]              default: ~/.local
#        ./install.sh --uninstall [PREFIX]

set -eu

refuse() {
    echo "error: $1" >&2
    exit 1
}

here=$(cd "$(dirname "$0")" && pwd)
uninstall=
if [ "${1:-}" = --uninstall ]; then
    uninstall=yes
    shift
fi
prefix=${1:-$HOME/.local}

cd "$here"
if [ -n "$uninstall" ]; then
    find bin lib include share -type f | while read -r file; do rm -f "$prefix/$file"; done
    exit 0
fi

[ "$(uname -sm)" = "Linux x86_64" ] ||
    refuse "these programs are for Linux on x86-64, this is $(uname -sm): build from source"
libc=$(getconf GNU_LIBC_VERSION 2>/dev/null || true)
case $libc in
    glibc\ *) ;;
    *) refuse "these programs need glibc 2.28 or newer, and this system has none (musl?): build from source" ;;
esac
minor=${libc#glibc 2.}
[ "${minor%%.*}" -ge 28 ] ||
    refuse "these programs need glibc 2.28 or newer, this system has $libc: build from source"
grep -qw avx2 "${JOLA_CPUINFO:-/proc/cpuinfo}" ||
    refuse "these programs need a processor with AVX2, this one has none: build from source"

find bin lib include share -type f | while read -r file; do
    mkdir -p "$prefix/$(dirname "$file")"
    cp "$file" "$prefix/$file"
done
case :$PATH: in
    *:"$prefix/bin":*) ;;
    *) echo "note: $prefix/bin is not on the PATH" >&2 ;;
esac
