#!/usr/bin/env bash
# Runs tests under valgrind's memcheck: reads of what was never written, of what is freed or
# beyond its end, and what nobody frees.
#
# usage: scripts/sanitize.sh [edit|engine]...
#
#   edit     all unit tests of jola-edit
#   engine   unit tests of llama-jola: imports, data, templates, and calls of llama.cpp, which
#            is compiled once more
#
# Without a word: both. Needs valgrind (scripts/setup.sh valgrind).

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# Thirty times slower than usual: few random cases are enough to reach every line.
export PROPTEST_CASES=${PROPTEST_CASES:-8}
# Valgrind does not know the newest instructions, so nothing is compiled for this processor.
export RUSTFLAGS="-C target-cpu=x86-64-v2"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/valgrind

# check PACKAGE [FILTER]...: the package's unit tests whose names have one of the filters.
check() {
    local package=$1 binary
    shift
    echo "== $package $*"
    cargo test --release --locked -p "$package" --lib --no-run
    binary=$(cargo test --release --locked -p "$package" --lib --no-run 2>&1 |
        sed -n 's/.*Executable.*(\(.*\))$/\1/p')
    [ -x "$binary" ] || { echo "no test program of $package" >&2; exit 1; }
    valgrind --quiet --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite \
        "$binary" --test-threads=1 "$@"
}

[ $# -gt 0 ] || set -- edit engine
for part in "$@"; do
    case $part in
        edit) check jola-edit ;;
        engine) check llama-jola import:: jinja:: data:: chat:: native:: ggml:: ;;
        *)
            sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
            exit 2
            ;;
    esac
done
