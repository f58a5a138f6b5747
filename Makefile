# Every target first sets up what it needs (scripts/setup.sh, quick when all is there).
#
# Everything is compiled with --release: llama.cpp and libtorch's C++ wrapper take about
# three minutes each, and so they are compiled once for demo, tests, clippy and docs.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup build manuals demo test test-all lint scripts check golden test-gemma test-server hosts test-plugin soak-plugin soak-server bench bench-training dist test-dist jola-header fuzz fuzz-long sanitize clean

FLAGS := --release --locked --workspace
# Where the set-up keeps libtorch and the model. One file says it, for make and by hand.
ENV := . scripts/env.sh &&

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## install system packages, download libtorch and the test model
	scripts/setup.sh

build: setup ## all release binaries, in target/release
	$(ENV) cargo build $(FLAGS)

MANUALS = $${CARGO_TARGET_DIR:-target}/manuals
manuals: build ## man pages and shell completions, in target/manuals
	$(ENV) for program in llama-jola jola-train; do \
		"$${CARGO_TARGET_DIR:-target}/release/$$program" manuals "$(MANUALS)"; done

demo: build ## train an edit on example data, evaluate without and with it
	scripts/demo.sh

test: build ## all tests: what the examples print and the documentation shows, too
	$(ENV) cargo test $(FLAGS)

# One after the other, whatever -j says: they measure, and share ports and cores.
test-all: build ## the tests of CI and those that take longer: test-gemma, test-plugin
	@for target in scripts check test test-server test-gemma test-plugin; do \
		printf '\n== make %s\n' "$$target"; \
		$(MAKE) --no-print-directory "$$target"; done

test-gemma: setup ## the trainer against llama.cpp on Gemma 3 270M (downloads 240 MB)
	scripts/setup.sh gemma
	$(ENV) cargo test $(FLAGS:--workspace=-p jola-trainer) --test integration -- \
		--ignored --nocapture gemma

lint: setup ## formatting, clippy and docs, with warnings denied
	cargo fmt --all --check
	$(ENV) cargo clippy $(FLAGS) --all-targets -- -D warnings
	$(ENV) RUSTDOCFLAGS="-D warnings" cargo doc $(FLAGS) --no-deps

# Files are compiled into a folder that goes away. What needs matplotlib, torch or a host's
# package is compiled only; the benches say how they are called without doing anything.
PYTHON = git ls-files -z '*.py' | PYTHONPYCACHEPREFIX="$$folder" xargs -0 python3 -W error -m py_compile
scripts: ## shellcheck on shell scripts, and the checks of research/scripts
	scripts/setup.sh lint
	git grep -lzE '^#!.*sh$$' -- . | xargs -0 shellcheck -x
	shellcheck scripts/env.sh scripts/lib/*.sh
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && $(PYTHON)
	for script in compare paired held_out bench/inference bench/training; do \
		"research/scripts/$$script.py" --help >/dev/null; done
	research/scripts/checks.py

# Without openmp llama.cpp would be compiled a second time.
check: setup ## the inference side without libtorch, without its command, and with overflow checks
	@if cargo tree --locked -p llama-jola -e normal --prefix none | grep -E '^(tch|torch-sys) '; then \
		echo "llama-jola must not need libtorch" >&2; exit 1; fi
	$(ENV) cargo check --release --locked -p llama-jola --no-default-features --features openmp
	$(ENV) cargo test --locked -p jola-edit

golden: setup ## regenerate the tests' golden files (tests/golden/*.py)
	scripts/setup.sh golden
	$(ENV) "$$JOLA_CACHE/golden/bin/python" tests/golden/make.py
	$(ENV) "$$JOLA_CACHE/golden/bin/python" tests/golden/text_metrics.py

# The trained sidecar of `make demo` is tested as well if it is there.
HOSTS = $(ENV) "$${CARGO_TARGET_DIR:-target}/release/jola-hosts" \
	--library "$${CARGO_TARGET_DIR:-target}/release/libjola.so" --model "$$JOLA_TEST_MODEL" \
	--hosts "$$JOLA_CACHE/hosts" --cache "$$JOLA_TEST_CACHE" \
	$(addprefix --trained ,$(wildcard target/demo/*.gguf))

test-server: setup ## the plugin, and a baked model, in one prebuilt llama-server (CHECK=text: only some)
	scripts/setup.sh server
	$(ENV) cargo build --release --locked -p jola-plugin -p jola-hosts
	$(HOSTS) test "prebuilt × CPU: $(CHECK)"

hosts: setup
	scripts/setup.sh hosts
	$(ENV) cargo build --release --locked -p jola-plugin -p jola-hosts

test-plugin: hosts ## the plugin in llama.cpp programs that others compiled (CHECK=text: only some)
	$(ENV) cargo test --release --locked -p jola-plugin --test plugin -- --include-ignored --skip write_the_header
	$(ENV) cargo test --release --locked -p llama-jola --test integration -- --ignored newer_sources
	$(HOSTS) test "$(CHECK)"

soak-plugin: hosts ## the plugin: 10,000 requests to one server, 2,000 with random adapters, and what edits cost
	$(HOSTS) soak
	$(HOSTS) soak-adapters
	$(HOSTS) speed
	$(HOSTS) instructions

REQUESTS ?= 10000
soak-server: build ## the example server: REQUESTS=10000 with random sets of edits, many at once
	$(ENV) cargo build --release --locked -p llama-jola --example server
	$(ENV) JOLA_SOAK_REQUESTS=$(REQUESTS) cargo test --release --locked -p llama-jola \
		--test integration -- --ignored --nocapture soak

# On a machine that does nothing else; half an hour.
BENCH = research/runs/$(shell date +%F)-bench
bench: build ## measure speed on this machine into research/runs/<date>-bench (PARTS="stock kernels": only some)
	scripts/setup.sh hosts
	$(ENV) research/scripts/bench/inference.py $(BENCH) $(PARTS)

bench-training: build ## the same for training, against transformers (PARTS="shapes threads": half an hour)
	scripts/setup.sh gemma peer
	$(ENV) research/scripts/bench/training.py $(BENCH) $(PARTS)

# The first time llama.cpp is compiled with zig, and once more with the compiler that libtorch
# takes: a quarter of an hour on two cores.
dist: setup ## packages for Linux on x86-64, into dist/ (tarball, wheels, .deb, SBOM, SHA256SUMS)
	scripts/setup.sh dist
	scripts/dist/build.sh
	$(ENV) scripts/dist/package.py

test-dist: dist ## installs what is in dist/ into clean places, and uses and uninstalls it
	scripts/setup.sh server hub older-glibc
	$(ENV) scripts/dist/test.py --demo

jola-header: setup ## write plugin/jola.h anew from plugin/src/ffi.rs
	$(ENV) cargo test --release --locked -p jola-plugin --test plugin -- --ignored write_the_header

# Targets of fuzz/, one after the other (TARGETS="gguf pickle": only some).
SECONDS ?= 60
fuzz: ## broken inputs for every reader, SECONDS=60 each
	scripts/setup.sh fuzz
	fuzz/run.sh -max_total_time=$(SECONDS) $(TARGETS)

fuzz-long: ## the same until each has read ten million
	scripts/setup.sh fuzz
	fuzz/run.sh -runs=10000000 $(TARGETS)

sanitize: setup ## tests of what is unsafe under valgrind and sanitizers (scripts/sanitize.sh says which)
	scripts/setup.sh valgrind
	$(ENV) scripts/sanitize.sh

clean: ## remove target/ (the downloads stay, in ~/.cache/llama-jola)
	cargo clean
