#!/usr/bin/env bash
# Runs tests of what is unsafe under watch: by valgrind's memcheck (reads of what was never
# written, of what is freed or beyond its end, and what nobody frees), and our C++ by gcc's
# AddressSanitizer and UndefinedBehaviorSanitizer.
#
# usage: scripts/sanitize.sh [hook|edit|engine|plugin]...
#
#   hook     all integration tests of llama-jola, whose C++ the sanitizers watch
#   edit     all unit tests of jola-edit, under valgrind
#   engine   unit tests of llama-jola under valgrind: imports, data, templates, and calls of
#            llama.cpp, which is compiled once more
#   plugin   all unit tests of jola-plugin under valgrind, and the C programs that use it in
#            llama.cpp builds of others, under the sanitizers (scripts/setup.sh hosts)
#
# Without a word: all but plugin. Needs valgrind (scripts/setup.sh valgrind).

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# sanitized COMMAND...: compiles and runs our C and C++ with the sanitizers. What is not freed is
# valgrind's to find, and the runtime need not come first: it has to watch our code only.
sanitized() {
    JOLA_SANITIZE=address,undefined ASAN_OPTIONS=detect_leaks=0:verify_asan_link_order=0 "$@"
}

# Only our units are compiled anew, into the usual folder; the next build does so again.
watch_hook() {
    echo "== integration tests, C++ under sanitizers"
    # The tests call these programs, too.
    sanitized cargo build --release --locked -p llama-jola --bins --examples
    sanitized cargo test --release --locked -p llama-jola --test integration
}

watch_plugin() {
    check jola-plugin
    echo "== the plugin's C programs, under sanitizers"
    cargo build --release --locked -p jola-plugin
    sanitized cargo test --release --locked -p jola-plugin --test plugin -- --include-ignored --skip write_the_header
}

# check PACKAGE [FILTER]...: the package's unit tests whose names have one of the filters.
check() {
    local package=$1 binary
    shift
    # Thirty times slower than usual: few random cases are enough to reach every line.
    export PROPTEST_CASES=${PROPTEST_CASES:-8}
    # Valgrind does not know the newest instructions, so nothing is compiled for this processor.
    local -x RUSTFLAGS="-C target-cpu=x86-64-v2"
    local -x CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/valgrind
    echo "== $package $*"
    cargo test --release --locked -p "$package" --lib --no-run
    binary=$(cargo test --release --locked -p "$package" --lib --no-run 2>&1 |
        sed -n 's/.*Executable.*(\(.*\))$/\1/p')
    [ -x "$binary" ] || { echo "no test program of $package" >&2; exit 1; }
    valgrind --quiet --error-exitcode=9 --leak-check=full --show-leak-kinds=definite \
        --errors-for-leak-kinds=definite \
        "$binary" --test-threads=1 "$@"
}

[ $# -gt 0 ] || set -- hook edit engine
for part in "$@"; do
    case $part in
        hook) watch_hook ;;
        edit) check jola-edit ;;
        plugin) watch_plugin ;;
        engine) check llama-jola import:: jinja:: data:: chat:: native:: ggml:: ;;
        *)
            sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
            exit 2
            ;;
    esac
done
