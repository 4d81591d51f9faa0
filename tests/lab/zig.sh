#!/bin/sh
# Installs zig, which compiles and links against the C library of a decade ago,
# and the cargo command that calls it, in the lab. Prints what a shell is to
# evaluate before `cargo-zigbuild zigbuild`.
set -eu
zig=0.17.1
zigbuild=0.24.1
here=$(cd "$(dirname "$0")" && pwd)
lab=${KEYMGR_LAB:-$here/../../target/lab}
mkdir -p "$lab"
lab=$(cd "$lab" && pwd)
exec 9>"$lab/.zig.lock"
flock 9

# OpenSSL is configured by perl, with modules that a minimal Debian lacks.
missing=
perl -MFindBin -MIPC::Cmd -e 1 2>/dev/null || missing="$missing perl"
python3 -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
for pair in cc:gcc make:make objdump:binutils rpmbuild:rpm; do
    command -v "${pair%:*}" >/dev/null || missing="$missing ${pair#*:}"
done
if [ -n "$missing" ]; then
    { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; } ||
        { echo "lab: install what these Debian packages hold:$missing" >&2; exit 1; }
    echo "lab: installing$missing" >&2
    # shellcheck disable=SC2086
    { apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends $missing; } \
        >"$lab/zig-apt.log" 2>&1 || { tail -n 20 "$lab/zig-apt.log" >&2; exit 1; }
fi
if [ "$(cat "$lab/zig/.made" 2>/dev/null)" != "$zig $zigbuild" ]; then
    echo "lab: installing zig $zig and cargo-zigbuild $zigbuild" >&2
    rm -rf "$lab/zig"
    {
        python3 -m venv "$lab/zig" &&
            "$lab/zig/bin/python" -m pip install --disable-pip-version-check --no-input -q \
                "ziglang==$zig" "cargo-zigbuild==$zigbuild"
    } >"$lab/zig.log" 2>&1 || { tail -n 20 "$lab/zig.log" >&2; exit 1; }
    echo "$zig $zigbuild" >"$lab/zig/.made"
fi
program=$("$lab/zig/bin/python" -c 'import os, ziglang; print(os.path.join(os.path.dirname(ziglang.__file__), "zig"))')
cat <<EOF
export PATH='$lab/zig/bin':"\$PATH"
export CARGO_ZIGBUILD_ZIG_PATH='$program'
export CARGO_ZIGBUILD_CACHE_DIR='$lab/zig-cache'
export ZIG_GLOBAL_CACHE_DIR='$lab/zig-cache/zig'
EOF
