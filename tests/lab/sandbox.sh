#!/bin/sh
# Lays out DIR as the root of a genuine Liberty deployment: database, token,
# barbican.conf, paste file and policy of that time. SOFTHSM2_CONF must then be
# DIR/etc/softhsm/softhsm2.conf.
set -eu
fixtures=$(cd "$(dirname "$0")/../fixtures" && pwd)
[ $# = 1 ] || { echo "usage: sandbox.sh DIR" >&2; exit 64; }
mkdir -p "$1"
root=$(cd "$1" && pwd)

install -d -m 0750 "$root/etc/barbican" "$root/var/lib/barbican" "$root/var/log/barbican"
install -d "$root/etc/softhsm" "$root/var/lib/softhsm"
for file in barbican.conf barbican-api-paste.ini policy.json; do
    install -m 0640 "$fixtures/demo/$file" "$root/etc/barbican/$file"
done
install -m 0640 "$fixtures/liberty/liberty.sqlite" "$root/var/lib/barbican/barbican.sqlite"
tar -xzf "$fixtures/liberty/softhsm-tokens.tgz" --no-same-owner -C "$root/var/lib/softhsm"
cat >"$root/etc/softhsm/softhsm2.conf" <<EOF
directories.tokendir = $root/var/lib/softhsm/tokens
objectstore.backend = file
log.level = ERROR
slots.removable = false
EOF
