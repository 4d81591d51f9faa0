#!/bin/sh
# Packs the debug binary that cargo built for the tests, and prints the path of
# the .deb. What was packed from the same files is used again.
#
#   tests/lab/product/package.sh BINARY
set -eu
binary=$1
repo=$(cd "$(dirname "$0")/../../.." && pwd)
lab=${KEYMGR_LAB:-$repo/target/lab}
out=$repo/target/test-package
deb=$out/keymgr-upgrade.deb
mkdir -p "$out"
exec 9>"$out/.lock"
flock 9
stamp=$(find "$binary" "$repo/packaging" "$repo/systemd" "$repo/Cargo.toml" -type f -printf '%p %s %T@\n' | sort | sha256sum)
if [ "$(cat "$out/stamp" 2>/dev/null)" != "$stamp" ]; then
    cd "$repo"
    make -s manual PROFILE=dev >"$out/log" 2>&1 || { cat "$out/log" >&2; exit 1; }
    # cargo-deb packs no dev profile: the binary stands where it looks for one of
    # the release profile.
    mkdir -p "$out/target/release"
    strip -o "$out/target/release/keymgr-upgrade" "$binary"
    PATH=$(KEYMGR_LAB=$lab "$repo/tests/lab/cargo_deb.sh"):$PATH CARGO_TARGET_DIR=$out/target \
        cargo deb --no-build --fast --output "$deb" >"$out/log" 2>&1 || { cat "$out/log" >&2; exit 1; }
    printf '%s\n' "$stamp" >"$out/stamp"
fi
echo "$deb"
