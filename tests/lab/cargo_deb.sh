#!/bin/sh
# Installs cargo-deb, which packs the Debian package, in the lab, and prints the
# directory of the program. One version: what it makes of Cargo.toml changes.
set -eu
version=3.8.0
here=$(cd "$(dirname "$0")" && pwd)
lab=${KEYMGR_LAB:-$here/../../target/lab}
mkdir -p "$lab"
lab=$(cd "$lab" && pwd)
exec 9>"$lab/.cargo-deb.lock"
flock 9
if [ "$("$lab/cargo-deb/bin/cargo-deb" --version 2>/dev/null)" != "cargo-deb $version" ]; then
    echo "lab: installing cargo-deb $version (minutes)" >&2
    ${CARGO:-cargo} install --locked --quiet --root "$lab/cargo-deb" --version $version cargo-deb \
        >"$lab/cargo-deb.log" 2>&1 || { tail -n 20 "$lab/cargo-deb.log" >&2; exit 1; }
fi
echo "$lab/cargo-deb/bin"
