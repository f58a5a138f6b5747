# shellcheck shell=sh
# Source this before calling cargo by hand: it says where the set-up keeps things.
#
#     . scripts/env.sh && cargo test --release
#
# What is already set is kept: LIBTORCH may name a libtorch of your own.

JOLA_CACHE=${JOLA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/llama-jola}
# cargo runs each package's tests in that package's folder: no relative path survives it.
case $JOLA_CACHE in /*) ;; *) JOLA_CACHE=$PWD/$JOLA_CACHE ;; esac

LIBTORCH=${LIBTORCH:-$JOLA_CACHE/libtorch}
JOLA_TEST_MODEL=${JOLA_TEST_MODEL:-$JOLA_CACHE/models/SmolLM2-135M-Instruct.Q4_1.gguf}
JOLA_GEMMA_MODEL=${JOLA_GEMMA_MODEL:-$JOLA_CACHE/models/gemma-3-270m-q4_k_m.gguf}
JOLA_QWEN_MODEL=${JOLA_QWEN_MODEL:-$JOLA_CACHE/models/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf}
# Tests keep here what is slow to derive from the model, such as its float32 copy.
JOLA_TEST_CACHE=${JOLA_TEST_CACHE:-$JOLA_CACHE/test}

# Test executables of the trainer link libtorch and carry no path to it.
case :${LD_LIBRARY_PATH:-}: in
    *:"$LIBTORCH/lib":*) ;;
    *) LD_LIBRARY_PATH=$LIBTORCH/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} ;;
esac

export JOLA_CACHE LIBTORCH JOLA_TEST_MODEL JOLA_GEMMA_MODEL JOLA_QWEN_MODEL JOLA_TEST_CACHE LD_LIBRARY_PATH
