#!/bin/sh
# Makes the tree that the tests of the packages boot, once: Debian 12 with its
# own Barbican 15.0.1 (Zed) on MariaDB and SoftHSM2, secrets stored through its
# API, and beside it local repositories with what it is upgraded to.
#
#   tests/lab/product/make.sh
#
# It is $KEYMGR_LAB/product/tree, and is made anew when what it is made from
# changed. Needs root, Debian's mirror, and PyPI. What is in root/ beside this
# script is laid over it when it is booted. In /srv/lab of the tree:
#   secrets           project, address, payload of each secret, tab-separated
#   repo/NAME         flat apt repositories, for `deb [trusted=yes] file:...`:
#     zed             Debian's packages, 1:15.0.1-2
#     same            the same again as 1:15.0.1-2.1
#     next            16.0.2 (2023.1) in Debian's packages, as 1:16.0.2-1
#     broken          that as 1:16.0.2-2; barbican-common's postinst runs
#                     /run/in-postinst where that is, and fails as it fails
#     skip            that as 1:17.0.0-1: nothing but its number is newer
#     server          mariadb-server with a higher version
#     unattended      unattended-upgrades and what it needs
#
# $KEYMGR_LAB/product/source is the same deployment without packages: the code of
# 15.0.1 and 16.0.2 below /opt, `install-barbican VERSION` chooses.
#
# $KEYMGR_LAB/product/rpm is the same with rpm and dnf, and no Barbican in it. In
# /srv/lab/rpm are repositories that no file of dnf's names, with the same code
# as pip installs it, in packages as RDO's spec has them:
#     zed             15.0.1-1
#     same            the same again as 15.0.1-2
#     next            16.0.2-1
#     suse            that as 16.0.2-2, where a new paste file replaces the old
#     skip            that as 17.0.0-1
set -eu

here=$(cd "$(dirname "$0")" && pwd)
lab=${KEYMGR_LAB:-$here/../../../target/lab}
mkdir -p "$lab/product"
lab=$(cd "$lab" && pwd)
product=$lab/product
tree=$product/tree
release=16.0.2

say() { echo "product: $*" >&2; }
die() { say "$*"; exit 1; }

exec 9>"$product/.lock"
flock 9
stamp=$(cat "$0" "$here"/inside/* "$here/../add-rpm.sh" "$here/../../p11shim/p11shim.c" | sha256sum)
[ "$(cat "$product/stamp" 2>/dev/null)" = "$stamp" ] && exit
[ "$(id -u)" = 0 ] || die "only root can make the tree"

# Makes the plain Debian tree where it is missing.
"$here/../boot-systemd.sh" </dev/null >/dev/null
say "making $tree (a few minutes)"
rm -rf "$tree" "$tree.new" "$product/wheel" "$product/stamp"
# The tree itself, also where the lab has a link to another one: it is changed.
cp -aH "$lab/systemd-tree" "$tree.new"
mkdir -p "$tree.new/srv/lab"
cp "$here"/inside/* "$tree.new/srv/lab/"
cp "$lab/libp11shim.so" "$here/../../p11shim/p11.py" "$tree.new/srv/lab/"

for version in 15.0.1 $release; do
    "$lab/barbican/bin/python" -m pip download --disable-pip-version-check --no-input -q --no-deps \
        -d "$product/wheel" "barbican==$version" >"$product/pip.log" 2>&1 ||
        { tail "$product/pip.log" >&2; die "pip failed"; }
done
cp "$product"/wheel/*.whl "$tree.new/srv/lab/"

# inside TREE SCRIPT ARGUMENT...: in a tree that is not booted, with this machine's network
inside() {
    log=$product/${2%.sh}.log
    directory=$1 script=$2
    shift 2
    systemd-nspawn --register=no --keep-unit --quiet --console=pipe --directory="$directory" \
        "/srv/lab/$script" "$@" </dev/null >"$log" 2>&1 ||
        { tail "$log" >&2; die "$script failed, see $log"; }
}
inside "$tree.new" install.sh "$release"

# Booted, for what needs services.
{
    mkfifo "$product/words.$$"
    "$here/../boot-systemd.sh" --tree "$tree.new" --in-place "$here/root" <"$product/words.$$" >"$product/booted.$$" &
    boot=$!
    exec 8>"$product/words.$$"
    rm "$product/words.$$"
    while ! [ -s "$product/booted.$$" ]; do
        kill -0 $boot 2>/dev/null || die "the tree does not boot"
        tail --pid=$boot -n 1 -f "$product/booted.$$" 2>/dev/null | head -n 1 >/dev/null
    done
    read -r _ pid1 _ <"$product/booted.$$"
    rm "$product/booted.$$"
    nsenter -t "$pid1" -m -u -i -n -p -C --root --wd -- /srv/lab/setup.sh \
        >"$product/setup.log" 2>&1 || failed=1
    [ -n "${failed:-}" ] || echo off >&8
    exec 8>&-
    wait $boot || true
}
[ -z "${failed:-}" ] || { tail "$product/setup.log" >&2; die "setup failed, see $product/setup.log"; }
rm -f "$tree.new/etc/systemd/system/tell-ready.service" \
    "$tree.new/etc/systemd/system/multi-user.target.wants/tell-ready.service"
rm -rf "$tree.new"/var/log/journal/*
rm -rf "$product/source" "$product/source.new"
cp -a "$tree.new" "$product/source.new"
inside "$product/source.new" source.sh
rm -rf "$product/rpm" "$product/rpm.new"
cp -a "$product/source.new" "$product/rpm.new"
# What is installed for ourselves stays: another version, to pip, takes its place.
for wheel in "$product"/wheel/*.whl; do
    "$lab/barbican/bin/python" -m pip install --disable-pip-version-check --no-input -q --no-deps --no-index --no-compile --ignore-installed \
        --root "$product/rpm.new/srv/lab/pip/$(basename "$wheel" | cut -d - -f 2)" --prefix /usr "$wheel" >"$product/pip.log" 2>&1 ||
        { tail "$product/pip.log" >&2; die "pip failed"; }
done
cp "$here/../add-rpm.sh" "$product/rpm.new/srv/lab/"
inside "$product/rpm.new" rpm.sh
mv "$product/rpm.new" "$product/rpm"
mv "$product/source.new" "$product/source"
mv "$tree.new" "$tree"
printf '%s\n' "$stamp" >"$product/stamp"
