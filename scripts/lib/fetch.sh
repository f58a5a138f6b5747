# shellcheck shell=bash
# Downloads that resume and are checked. Sourced by setup.sh.
# shellcheck disable=SC2154  # setup.sh sets $scripts

# pinned NAME [VERSION]: sets version, file and sha256 to what packages.txt says for this
# machine; without a version to its first line.
pinned() {
    local machine
    machine=$(uname -m)
    read -r version file sha256 < <(
        awk -v name="$1" -v version="${2:-}" -v machine="$machine" \
            '$1 == name && (!version || $2 == version) && ($3 == machine || $3 == "any") { print $2, $4, $5 }' \
            "$scripts/packages.txt"
    ) || die "scripts/packages.txt has no $1 for $machine"
}

# has_sum FILE SHA256
has_sum() { [ "$(sha256sum <"$1")" = "$2  -" ]; }

need() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || die "$tool is missing: run scripts/setup.sh system"
    done
}

# fetch NAME [VERSION]: leaves the pinned file in the cache and its path in $fetched.
fetch() {
    need curl
    pinned "$@"
    local part=$JOLA_CACHE/downloads/$file.part url
    fetched=$JOLA_CACHE/downloads/$file
    mkdir -p "$JOLA_CACHE/downloads"
    if [ -f "$fetched" ]; then
        mv "$fetched" "$part" # to be checked again: a disk may have failed since
    fi
    # An earlier run may have been stopped anywhere, also right after the last byte.
    if ! { [ -f "$part" ] && has_sum "$part" "$sha256"; }; then
        setup_python
        url=$(resolve "$1") || exit 1
        download "$url" "$part"
    fi
    if ! has_sum "$part" "$sha256"; then
        rm -f "$part"
        die "$file does not have the sha256 that scripts/packages.txt pins; it was deleted"
    fi
    mv "$part" "$fetched"
}

# resolve NAME: prints the address of the pinned file, by pip's own configuration. For a
# source package pip_for names a Python that has the package's build tool installed, since
# pip asks the package for its metadata.
resolve() {
    local machine report url sum pip=("$JOLA_CACHE/python/bin/python" -m pip) kind
    machine=$(uname -m)
    case $file in
        *.tar.gz)
            pip+=(--python "$pip_for")
            kind=(--no-binary :all: --no-build-isolation)
            ;;
        *)
            kind=(--only-binary :all: --implementation cp --python-version 3.11 --abi cp311
                --platform "manylinux_2_35_$machine" --platform "manylinux_2_28_$machine"
                --platform "manylinux_2_25_$machine" --platform "manylinux_2_17_$machine"
                --platform "manylinux2014_$machine")
            ;;
    esac
    report=$("${pip[@]}" install --dry-run --ignore-installed --no-deps "${kind[@]}" \
        --quiet --no-input --disable-pip-version-check --report - "$1==$version" </dev/null) ||
        die "pip finds no $1 $version"
    read -r url sum < <(python3 -c '
import json, sys
found = json.load(sys.stdin)["install"][0]["download_info"]
print(found["url"], found["archive_info"].get("hashes", {}).get("sha256", "unknown"))
' <<<"$report") || die "pip's report for $1 $version cannot be read"
    # Better refused now than after the download.
    [ "$sum" = unknown ] || [ "$sum" = "$sha256" ] ||
        die "the package index has another $1 $version than scripts/packages.txt pins (sha256 $sum)"
    echo "$url"
}

# download URL FILE: goes on where FILE ends.
download() {
    local attempt rc status progress=(--no-progress-meter)
    [ ! -t 2 ] || progress=(--progress-bar)
    if [ -s "$2" ]; then
        say "downloading $file (going on at byte $(stat -c %s "$2"))"
    else
        say "downloading $file"
    fi
    for attempt in 1 2 3 4 5; do
        rc=0
        status=$(curl -fL -C - "${progress[@]}" --connect-timeout 30 --speed-limit 1000 \
            --speed-time 60 -w '%{http_code}' -o "$2" "$1" </dev/null) || rc=$?
        [ "$rc" != 0 ] || return 0
        # Range refused: nothing can be added to what is there.
        if [ "$rc" = 33 ] || [ "$status" = 416 ]; then rm -f "$2"; fi
        sleep $((attempt * 2))
    done
    die "cannot download $file (curl ended with $rc); what came is kept, run this again"
}
