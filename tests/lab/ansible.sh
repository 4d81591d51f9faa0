#!/bin/sh
# Ansible and its linter, and what makes a container a host that Ansible reaches
# over ssh, once.
#
#   tests/lab/ansible.sh PYTHON DIR
#
# DIR/venv has ansible-core and ansible-lint in the versions of the pins. DIR/host
# is laid over a Debian 12 before it boots: sshd with a key of its host, a unit
# that starts it, and the key that lets root in, whose other half is DIR/key.
# sshd comes from apt, as a package that is only unpacked.
set -eu
python=$1 dir=$2
repo=$(cd "$(dirname "$0")/../.." && pwd)
pins=$repo/tests/fixtures/pins/ansible-py311.txt

die() { echo "ansible.sh: $*" >&2; exit 1; }

want=$("$python" -c 'import sys; print(sys.version)'; cat "$pins" "$0")
[ "$(cat "$dir/.made" 2>/dev/null)" = "$want" ] && exit
echo "lab: making $dir" >&2
rm -rf "$dir"
mkdir -p "$dir"
{
    "$python" -m venv "$dir/venv" &&
        "$dir/venv/bin/python" -m pip install --disable-pip-version-check --no-input -q -r "$pins"
} >"$dir/pip.log" 2>&1 || { tail -n 20 "$dir/pip.log" >&2; die "pip failed ($dir/pip.log)"; }

host=$dir/host
mkdir -p "$host/usr/sbin" "$host/etc/ssh" "$host/etc/systemd/system/multi-user.target.wants" "$dir/deb"
mkdir -m 700 "$host/root" "$host/root/.ssh"
(
    cd "$dir/deb"
    fetch() { apt-get -q -o APT::Sandbox::User=root download openssh-server libwrap0; }
    { fetch || { apt-get -q update && fetch; }; } >"$dir/apt.log" 2>&1 || { tail "$dir/apt.log" >&2; die "apt-get failed"; }
    for deb in *.deb; do dpkg-deb -x "$deb" "$dir/deb/x"; done
)
cp "$dir/deb/x/usr/sbin/sshd" "$host/usr/sbin/"
libraries=$(dirname "$(find "$dir/deb/x" -name 'libwrap.so.0')")
mkdir -p "$host/usr/lib/${libraries##*/}"
cp -a "$libraries"/libwrap.so.0* "$host/usr/lib/${libraries##*/}/"
rm -rf "$dir/deb"
ssh-keygen -q -t ed25519 -N '' -C keymgr-test -f "$dir/key"
ssh-keygen -q -t ed25519 -N '' -C keymgr-test -f "$host/etc/ssh/ssh_host_ed25519_key"
install -m 600 "$dir/key.pub" "$host/root/.ssh/authorized_keys"
printf 'HostKey /etc/ssh/ssh_host_ed25519_key\nUsePAM no\nPermitRootLogin prohibit-password\nUseDNS no\n' >"$host/etc/ssh/sshd_config"
cat >"$host/etc/systemd/system/ssh.service" <<'UNIT'
[Service]
RuntimeDirectory=sshd
ExecStart=/usr/sbin/sshd -D -e
KillMode=process
UNIT
ln -s ../ssh.service "$host/etc/systemd/system/multi-user.target.wants/"
printf '%s\n' "$want" >"$dir/.made"
