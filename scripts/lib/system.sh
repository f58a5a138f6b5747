# shellcheck shell=bash
# Build tools from the distribution. Sourced by setup.sh.

# Prints the Debian packages whose content is missing. What counts is that the tool is
# there, wherever it came from, so nothing is installed over a tool of the user's own.
missing_packages() {
    local tool
    for tool in cmake g++ make clang curl unzip python3; do
        command -v "$tool" >/dev/null || echo "$tool"
    done
    # util-linux holds it, and is missing only outside Debian.
    command -v flock >/dev/null || echo util-linux
    # Debian's python3 comes without the parts that make a virtual environment.
    python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
    has_libclang || echo libclang-dev
    [ -e /etc/ssl/certs/ca-certificates.crt ] || [ -e /etc/ssl/cert.pem ] ||
        [ -e /etc/pki/tls/certs/ca-bundle.crt ] || echo ca-certificates
}

# bindgen loads libclang at build time; these are the places where it looks.
has_libclang() {
    [ -z "${LIBCLANG_PATH:-}" ] || return 0
    local folder
    for folder in '/usr/lib/llvm*/lib' '/usr/lib/*-linux-gnu' '/usr/lib' '/usr/lib64' '/usr/local/lib'; do
        if compgen -G "$folder/libclang.so*" >/dev/null ||
            compgen -G "$folder/libclang-[0-9]*.so*" >/dev/null; then
            return 0
        fi
    done
    return 1
}

setup_system() {
    local missing
    mapfile -t missing < <(missing_packages)
    if [ ${#missing[@]} -gt 0 ]; then
        command -v apt-get >/dev/null ||
            die "please install what these Debian packages hold: ${missing[*]}"
        install_or_say "${missing[@]}"
        mapfile -t missing < <(missing_packages)
        [ ${#missing[@]} = 0 ] || die "still missing after the installation: ${missing[*]}"
    fi
    command -v cargo >/dev/null ||
        die "Rust is missing: install rustup, which then fetches the version in rust-toolchain.toml"
}

# install_or_say PACKAGE...: as root or with sudo, or says what to run.
install_or_say() {
    if [ "$(id -u)" = 0 ]; then
        install_packages env "$@"
    elif sudo -n true 2>/dev/null; then
        install_packages "sudo env" "$@"
    else
        say "system packages are missing; run this line once, then try again:"
        # To stdout, alone: it can be copied, or piped into a shell.
        echo "sudo apt-get update && sudo apt-get install -y --no-install-recommends $*"
        exit 1
    fi
}

# install_packages PREFIX PACKAGE...
install_packages() {
    local prefix=$1
    shift
    say "installing $*"
    # Another apt, such as a daily upgrade, may hold the lock for a while.
    local options=(-q -o DPkg::Lock::Timeout=300)
    # shellcheck disable=SC2086  # PREFIX is a command of one or two words
    {
        $prefix DEBIAN_FRONTEND=noninteractive apt-get "${options[@]}" update </dev/null >&2
        $prefix DEBIAN_FRONTEND=noninteractive apt-get "${options[@]}" install -y \
            --no-install-recommends "$@" </dev/null >&2
    } || die "apt-get failed"
}
