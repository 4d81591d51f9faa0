#!/bin/sh
# Installs Barbican as Debian's operators do and makes the repositories; inside
# the tree, which is not booted.
set -eu
release=$1
lab=/srv/lab
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

printf '127.0.0.1 localhost controller\n' >/etc/hosts
echo controller >/etc/hostname
# Nothing is to be started here, and files need not survive this machine.
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/unsafe-io
apt-get -q update
apt-get -q install -y --no-install-recommends \
    barbican-api barbican-worker barbican-keystone-listener barbican-common \
    uwsgi-plugin-python3 mariadb-server python3-pymysql softhsm2 \
    needrestart curl procps unzip
rm /usr/sbin/policy-rc.d /etc/dpkg/dpkg.cfg.d/unsafe-io

packages="python3-barbican barbican-common barbican-api barbican-worker barbican-keystone-listener"
mkdir -p $lab/debian
cd $lab/debian
# shellcheck disable=SC2086
apt-get -q download $packages mariadb-server
server=$(dpkg-deb -f mariadb-server_*.deb Version)
cd $lab
$lab/repack.sh zed 1:15.0.1-2 $packages
$lab/repack.sh same 1:15.0.1-2.1 $packages
$lab/repack.sh next "1:$release-1" $packages
$lab/repack.sh broken "1:$release-2" $packages
$lab/repack.sh skip 1:17.0.0-1 $packages
$lab/repack.sh server "$server.1" mariadb-server
# What installs unattended-upgrades; it is in the way of all tests but its own.
mkdir -p $lab/debian/partial
apt-get -q install -y --no-install-recommends --download-only -o Dir::Cache::Archives=$lab/debian/ unattended-upgrades
for package in $(apt-get -q install -s --no-install-recommends unattended-upgrades | sed -n 's/^Inst \([^ ]*\) .*/\1/p'); do
    $lab/repack.sh unattended "$(dpkg-deb -f $lab/debian/"${package}"_*.deb Version)" "$package"
done
rm -rf $lab/debian

# From here on the network is not needed: the test says which repository counts.
mv /etc/apt/sources.list /etc/apt/sources.list.debian
apt-get clean
rm -rf /var/lib/apt/lists/*
