#!/bin/bash
# Uses what `make portable` made as a host of long ago would, in a Debian 11,
# which is the oldest that is to be had: dpkg installs it, rpm reads and installs
# it, and the program does the whole demo, once on this kernel and once with no
# system call that Linux 3.10 lacks. Ends with status 1 if anything goes wrong.
#
#   tests/lab/portable.sh DIRECTORY-WITH-THE-PACKAGES
#   tests/lab/portable.sh --tree      only makes the tree, and prints its path
#
# Needs root. The tree is made once, in $KEYMGR_LAB (target/lab), and is not
# changed: all that is done here is gone afterwards.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
lab=${KEYMGR_LAB:-$here/../../target/lab}
mkdir -p "$lab"
lab=$(cd "$lab" && pwd)
tree=$lab/bullseye
die() { echo "portable: $*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || die "root is needed to enter another Debian"

exec 9>"$lab/.bullseye.lock"
flock 9
if [ ! -d "$tree" ]; then
    echo "portable: making a Debian 11 in $tree (a minute)" >&2
    command -v debootstrap >/dev/null || {
        apt-get -q update
        DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends \
            debootstrap debian-archive-keyring
    } >"$lab/bullseye.log" 2>&1 || die "apt-get failed, see $lab/bullseye.log"
    rm -rf "$tree.new"
    debootstrap --no-merged-usr --variant=minbase --include=systemd-sysv,dbus,python3,softhsm2,rpm bullseye "$tree.new" \
        >"$lab/bullseye.log" 2>&1 || die "debootstrap failed, see $lab/bullseye.log"
    rm -rf "$tree.new"/var/cache/apt/archives/*.deb
    mv "$tree.new" "$tree"
fi
# The shim has to load there too.
environment=$("$here/zig.sh")
eval "$environment"
make -s -C "$here/../p11shim" OUT="$lab/portable" \
    CC="$CARGO_ZIGBUILD_ZIG_PATH cc -target $(uname -m)-linux-gnu.2.17"
exec 9>&-
[ "$1" != --tree ] || { echo "$tree"; exit; }
packages=$(cd "$1" && pwd)

inside() {
    set -eu
    title() { printf '\n== %s\n' "$*"; }
    title "$(dpkg --version | head -n 1)"
    dpkg -i /srv/packages/*.deb
    [ "$(dpkg-query -W -f '${db:Status-Abbrev}' keymgr-upgrade)" = "ii " ]
    keymgr-upgrade --version

    title "$(rpm --version)"
    rpm -K --nosignature /srv/packages/*.rpm
    rpm -i --root /tmp/rpm --dbpath /var/lib/rpm --nodeps --noscripts /srv/packages/*.rpm
    rpm -V --root /tmp/rpm --dbpath /var/lib/rpm --nodeps --noscripts keymgr-upgrade
    /tmp/rpm/usr/sbin/keymgr-upgrade --version

    # As an operator there would: nothing of ours but the package.
    export KEYMGR=/usr/sbin/keymgr-upgrade KEYMGR_TEST_P11SHIM=/srv/lab/libp11shim.so
    proved='Done: 2026.2. Proved: 6 of 6 KEKs, 36 of 36 secrets decrypted.'
    title "the demo, $(uname -sr)"
    /srv/tests/lab/demo.sh >/tmp/demo 2>&1 || { tail -n 40 /tmp/demo; exit 1; }
    tr -s ' \n' ' ' </tmp/demo | grep -o -F "$proved"
    title "the demo with the system calls of Linux 3.10 alone"
    if /srv/tests/lab/old_kernel.py python3 -c 'import os; os.memfd_create("x")' 2>/dev/null; then
        echo "a later call was not refused" >&2
        exit 1
    fi
    /srv/tests/lab/old_kernel.py /srv/tests/lab/demo.sh >/tmp/demo-old 2>&1 || { tail -n 40 /tmp/demo-old; exit 1; }
    tr -s ' \n' ' ' </tmp/demo-old | grep -o -F "$proved"

    title removal
    dpkg --purge keymgr-upgrade
}

enter() {
    set -eu
    run=$(mktemp -d)
    mount -t tmpfs -o mode=755 tmpfs "$run"
    cd "$run"
    mkdir upper work root
    mount -t overlay -o "lowerdir=$tree,upperdir=upper,workdir=work" overlay root
    mount -t proc proc root/proc
    mount --bind /dev root/dev
    mount -t tmpfs tmpfs root/dev/shm
    mkdir root/srv/tests root/srv/packages root/srv/lab
    mount --bind -o ro "$tests" root/srv/tests
    mount --bind -o ro "$packages" root/srv/packages
    mount --bind -o ro "$shim" root/srv/lab
    exec chroot root /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
        DEBIAN_FRONTEND=noninteractive bash -c "$(declare -f inside); inside" </dev/null
}

export tree packages tests="$here/.." shim="$lab/portable"
exec unshare --mount --pid --fork --kill-child bash -c "$(declare -f inside enter); enter"
