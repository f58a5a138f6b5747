#!/usr/bin/env bash
# The trainer's linker: zig's, which knows the symbols of old glibcs, with the system's own
# libstdc++ and libgcc. libtorch was compiled with libstdc++, and exceptions and strings go from
# it to the trainer; zig would take its own libc++ and libunwind in their place.

set -euo pipefail

words=()
for word in "$@"; do
    case $word in
        -lstdc++) word=$(g++ -print-file-name=libstdc++.so) ;;
        -lgcc_s) word=$(g++ -print-file-name=libgcc_s.so.1) ;;
    esac
    words+=("$word")
done
# The system's libstdc++ may ask for a newer glibc than the trainer is linked for.
exec cargo-zigbuild zig cc -- -target "$JOLA_DIST_TARGET" -Wl,--allow-shlib-undefined "${words[@]}"
