#!/usr/bin/env bash
# Runs fuzz targets one after the other, each with its seeds and what earlier runs found.
#
# usage: fuzz/run.sh LIMIT [TARGET]...
#
#   LIMIT    an option of libFuzzer: -max_total_time=60 or -runs=10000000
#   TARGET   one of those below; all, if none is named
#
# The corpus grows in target/fuzz/corpus, an input that crashes stays in target/fuzz/artifacts.
# One line for each target goes to standard output: executions, seconds, coverage, memory.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

[ $# -gt 0 ] || { sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2; }
limit=$1
shift
[ $# -gt 0 ] || set -- gguf sidecar pickle arrays safetensors rows template specs

. scripts/env.sh
PATH=$JOLA_CACHE/cargo-fuzz/bin:$PATH
# cargo-fuzz asks for flags of rustc that are not stable yet; the pinned compiler has them.
export RUSTC_BOOTSTRAP=1
target=${CARGO_TARGET_DIR:-$PWD/target}/fuzz
export CARGO_TARGET_DIR=$target

for name in "$@"; do
    case $name in
        gguf | sidecar | specs) folder=fuzz/edit ;;
        *) folder=fuzz/engine ;;
    esac
    corpus=$target/corpus/$name
    artifacts=$target/artifacts/$name
    log=$target/$name.log
    mkdir -p "$corpus" "$artifacts"
    cargo fuzz build --fuzz-dir "$folder" "$name" >&2
    binary=$target/x86_64-unknown-linux-gnu/release/$name
    # A template's fuel pays for 1.28 GB of text, which grows by doubling.
    memory=512
    [ "$name" != template ] || memory=2700
    # Longer archives and pickles take most of the time and reach nothing more.
    length=16384
    case $name in pickle | arrays) length=4096 ;; esac
    # No single allocation, nor all together, may exceed these; no input may take this long.
    if ! "$binary" "$limit" -malloc_limit_mb="$memory" -rss_limit_mb=$((3 * memory)) -timeout=25 -max_len="$length" \
        -artifact_prefix="$artifacts/" -print_final_stats=1 "$corpus" "fuzz/seeds/$name" 2>"$log"; then
        tail -30 "$log" >&2
        echo "$name: failed, see $log" >&2
        exit 1
    fi
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    peak=$(sed -n 's/^stat::peak_rss_mb: *//p' "$log")
    covered=$(grep -o 'cov: [0-9]* ft: [0-9]*' "$log" | tail -1)
    seconds=$(sed -n 's/^Done .* in \([0-9]*\) second.*/\1/p' "$log")
    echo "$name: $runs executions in $seconds s, $covered, at most $peak MB"
done
