#!/bin/sh
# Makes what the tests and the demo run against: SoftHSM2, a real Barbican
# 23.0.0, Python's own readers of the files we edit, the PKCS#11 shim, the
# programs of the database servers, of which none is left running or enabled,
# and (as root) a Debian tree with Debian's Barbican.
#
#   tests/lab/setup.sh          everything for `make test`
#   tests/lab/setup.sh demo     only what `make demo` needs (no Python packages)
#   tests/lab/setup.sh packages only what comes from the distribution
#
# What is already there is left alone and takes no time; what is missing comes
# from the distribution (apt, as root or by sudo) and from pip. The results are
# below $KEYMGR_LAB (target/lab), with their addresses in $KEYMGR_LAB/env, a
# file of shell `export` lines.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
lab=${KEYMGR_LAB:-$repo/target/lab}
what=${1:-test}
mkdir -p "$lab"
lab=$(cd "$lab" && pwd)

say() { echo "lab: $*" >&2; }
die() { say "$*"; exit 1; }

# Two runs at once would install over each other. The kernel drops the lock.
exec 9>"$lab/.lock"
command -v flock >/dev/null && flock 9

# need COMMAND-OR-FILE PACKAGE: remembers the package if the thing is missing.
missing=
need() {
    case $1 in
        /*) [ -e "$1" ] && return ;;
        *) command -v "$1" >/dev/null && return ;;
    esac
    case " $missing " in *" $2 "*) ;; *) missing="$missing $2" ;; esac
}

# A Python that Barbican 23.0.0 runs on and that can make virtual environments.
find_python() {
    for python in python3.11 python3 python3.12 python3.13 python3.14; do
        "$python" -c 'import sys, ensurepip, sqlite3, venv; sys.exit(sys.version_info < (3, 11))' \
            2>/dev/null && return
    done
    python=
}

softhsm() {
    for module in /usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so \
        /usr/lib64/softhsm/libsofthsm2.so /usr/lib64/pkcs11/libsofthsm2.so; do
        [ -e "$module" ] && return
    done
    module=
}

# The servers' programs alone: tests start their own on temporary directories.
databases() {
    need /usr/sbin/mariadbd mariadb-server-core
    need mariadb-install-db mariadb-server-core
    need mariadb mariadb-client
    need mariadb-dump mariadb-client
    need /usr/lib/galera/libgalera_smm.so galera-4
    need /usr/sbin/pgbouncer pgbouncer
    need psql postgresql-client
    need pg_dump postgresql-client
    need openssl openssl
    need flock util-linux
    need setpriv util-linux
    ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || need no-such-initdb postgresql
}

# as_root COMMAND...
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# Debian's packages make a cluster and start what they bring. A policy of "no"
# keeps them from it for as long as they are unpacked; a policy that is there
# already, as in a container, stands.
hold_services() {
    conf=/etc/postgresql-common/createcluster.conf
    case " $missing " in
        *" postgresql "*)
            [ -e $conf ] || {
                as_root mkdir -p /etc/postgresql-common
                echo 'create_main_cluster = false' | as_root tee $conf >/dev/null
            }
            ;;
    esac
    policy=/usr/sbin/policy-rc.d
    [ -e $policy ] && return
    trap release_services EXIT
    trap 'exit 1' INT TERM
    printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
    as_root chmod 755 $policy
    held=yes
}

release_services() {
    [ -z "${held:-}" ] || as_root rm -f /usr/sbin/policy-rc.d
    held=
    trap - EXIT INT TERM
    # Nor is it to start with the machine.
    case " $missing " in *" pgbouncer "*) as_root update-rc.d pgbouncer disable || true ;; esac
}

install_packages() {
    need gcc gcc
    need /usr/include/stdio.h libc6-dev
    need make make
    need python3 python3-venv
    need softhsm2-util softhsm2
    need /usr/include/p11-kit-1/p11-kit/pkcs11.h libp11-kit-dev
    if [ "$what" != demo ]; then
        need pkcs11-tool opensc
        need sqlite3 sqlite3
        need socat socat
        need ip iproute2
        need rsync rsync
        need strace strace
        need /usr/sbin/mkfs.ext4 e2fsprogs
        need groff groff-base
        need mandoc mandoc
        need ssh openssh-client
        need rpmbuild rpm
        need rpmlint rpmlint
        find_python
        [ -n "$python" ] || need no-such-python python3-venv
        databases
    fi
    [ -n "$missing" ] || return 0
    missing=${missing# }
    command -v apt-get >/dev/null ||
        die "no apt-get here; install by hand what these Debian packages hold: $missing"
    [ "$(id -u)" = 0 ] || command -v sudo >/dev/null ||
        die "root or sudo is needed once, for: apt-get install $missing"
    say "installing $missing"
    {
        # An old package list names files that are gone: refresh it on failure.
        hold_services && { apt_install || { as_root apt-get update -q && apt_install; }; } && release_services
    } >"$lab/apt.log" 2>&1 || { tail -n 20 "$lab/apt.log" >&2; die "apt-get failed ($lab/apt.log)"; }
}

# A configuration file that is there already is kept.
apt_install() {
    # shellcheck disable=SC2086
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
        -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold $missing
}

# venv NAME PINS: a virtual environment with exactly those versions. The stamp
# is written last, so that an interrupted installation is made anew.
venv() {
    dir=$lab/$1 pins=$repo/tests/fixtures/pins/$2
    want=$("$python" -c 'import sys; print(sys.version)'; cat "$pins")
    [ -x "$dir/bin/python" ] && [ "$(cat "$dir/.made" 2>/dev/null)" = "$want" ] && return
    say "installing $2 in $dir"
    rm -rf "$dir"
    {
        "$python" -m venv "$dir" &&
            "$dir/bin/python" -m pip install --disable-pip-version-check --no-input -q -r "$pins"
    } >"$lab/$1.log" 2>&1 || { tail -n 20 "$lab/$1.log" >&2; die "pip failed ($lab/$1.log)"; }
    printf '%s\n' "$want" >"$dir/.made"
}

install_packages
[ "$what" != packages ] || exit 0
softhsm
[ -n "$module" ] || die "no libsofthsm2.so found although softhsm2 is installed"
if [ "$what" = test ]; then
    find_python
    [ -n "$python" ] || die "Python 3.11 or later with venv is needed, and is not here"
    venv barbican barbican-23.0.0-py311.txt
    venv readers readers-py311.txt
    "$here/venv_upstream.sh" "$python" "$lab/barbican-10.0.0"
fi
make -s -C "$repo/tests/p11shim" OUT="$lab" >"$lab/p11shim.log" 2>&1 ||
    { cat "$lab/p11shim.log" >&2; die "tests/p11shim does not build"; }

if [ "$what" = test ] && [ "$(id -u)" = 0 ]; then
    KEYMGR_LAB=$lab "$here/cargo_deb.sh" >/dev/null
    KEYMGR_LAB=$lab "$here/product/make.sh"
    "$here/ansible.sh" "$python" "$lab/ansible"
fi

umask 022
cat >"$lab/env.new" <<EOF
# Written by tests/lab/setup.sh; read by the Makefile.
export KEYMGR_TEST_VENV_BARBICAN='$lab/barbican'
export KEYMGR_TEST_VENV_BARBICAN_10='$lab/barbican-10.0.0'
export KEYMGR_TEST_VENV_READERS='$lab/readers'
export KEYMGR_TEST_P11SHIM='$lab/libp11shim.so'
export KEYMGR_TEST_SOFTHSM='$module'
export KEYMGR_TEST_PRODUCT='$lab/product'
export KEYMGR_TEST_ANSIBLE='$lab/ansible'
EOF
cmp -s "$lab/env.new" "$lab/env" 2>/dev/null && rm "$lab/env.new" || mv "$lab/env.new" "$lab/env"
