#!/usr/bin/env bash
# Installs and downloads what the build, the demo and the tests need. What is there
# already is left alone, so every make target can call this first.
#
# usage: scripts/setup.sh [PART]...
#
#   system    build tools from Debian's or Ubuntu's packages
#   libtorch  libtorch for the trainer, in $LIBTORCH or the cache
#   libtorch-2.11  an older libtorch, in the cache, for scripts/gpu/prepare.sh
#   model     SmolLM2-135M-Instruct, in the cache
#   python    a private Python environment with a pinned pip (the two above call it)
#   gemma     Gemma 3 270M, in the cache, for `make test-gemma` (its own terms of use)
#   cuda      libtorch for NVIDIA GPUs, in the cache (6 GB); it says how to use it
#   qwen-0.5b, qwen-1.5b  Qwen2.5-Coder, in the cache: bases of a size that people use (0.5 and 1.1 GB)
#   golden    a Python environment for `make golden`
#   plots     matplotlib, for research/scripts/compare_plot.py
#   server    a prebuilt llama-server, for `make test-server`
#   peer      transformers and torch, for `make bench-training` (10 GB)
#   fuzz      cargo-fuzz, for `make fuzz`
#   lint      shellcheck, for `make scripts`
#   valgrind  the package of that name, for `make sanitize`
#   dist      zig and what else `make dist` needs; hub: what `make test-dist` reads cards and metrics with
#   older-glibc  the C library of an older Debian or Ubuntu, in the cache, for `make test-dist`
#   other-platforms  an emulator and a C library for scripts/dist/other_platforms.sh
#   hosts     programs with llama.cpp inside, for `make test-plugin` and `make bench` (builds for half an hour)
#
# Without a PART: system, libtorch and model. The cache is $JOLA_CACHE, by default
# ~/.cache/llama-jola; deleting it is safe.

set -euo pipefail

scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/env.sh
. "$scripts/env.sh"
# shellcheck source=scripts/lib/system.sh
. "$scripts/lib/system.sh"
# shellcheck source=scripts/lib/fetch.sh
. "$scripts/lib/fetch.sh"
# shellcheck source=scripts/lib/parts.sh
. "$scripts/lib/parts.sh"
# shellcheck source=scripts/lib/hosts.sh
. "$scripts/lib/hosts.sh"

say() { printf 'setup: %s\n' "$*" >&2; }
die() {
    say "error: $*"
    exit 1
}

usage() { sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

# Nothing here may run twice at the same time: both would write the same files.
lock() {
    mkdir -p "$JOLA_CACHE" || die "cannot create the cache folder $JOLA_CACHE (set JOLA_CACHE)"
    exec 9>"$JOLA_CACHE/lock"
    if ! flock -n 9; then
        say "waiting for another set-up to finish"
        flock 9
    fi
}

main() {
    [ $# -gt 0 ] || set -- system libtorch model
    local part
    for part in "$@"; do
        case $part in
            system | libtorch | libtorch-2.11 | model | gemma | qwen-0.5b | qwen-1.5b | python | cuda | golden | plots | peer | server | hosts | dist | hub | older-glibc | other-platforms | fuzz | lint | valgrind) ;;
            -h | --help)
                usage
                return
                ;;
            *)
                usage >&2
                die "no such part: $part"
                ;;
        esac
    done
    # Without its tools nothing below works, not even the lock.
    for part in "$@"; do
        if [ "$part" = system ]; then setup_system; fi
    done
    for part in "$@"; do
        [ "$part" != system ] || continue
        lock
        "setup_$part"
    done
}

main "$@"
