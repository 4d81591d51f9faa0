#!/bin/sh
# Adds rpm and dnf to a Debian; inside it, with a network. rpm's database is
# where distributions have it since Fedora 36. What rpm and dnf find missing in
# a tree of dpkg's, a package without files provides.
set -eu
export DEBIAN_FRONTEND=noninteractive

printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
apt-get -q update
apt-get -q install -y --no-install-recommends rpm dnf createrepo-c "$@"
apt-get clean
rm /usr/sbin/policy-rc.d
mkdir -p /usr/lib/sysimage/rpm /etc/rpm /etc/yum.repos.d
rm -rf /var/lib/rpm
ln -s ../../usr/lib/sysimage/rpm /var/lib/rpm
echo '%_dbpath /usr/lib/sysimage/rpm' >/etc/rpm/macros.dbpath
rpm --initdb
libraries=$(find /usr/lib/*-linux-gnu -maxdepth 1 -name '*.so*' | /usr/lib/rpm/find-provides | sed 's/^/Provides: /')
cat >/tmp/base.spec <<SPEC
Name: base
Version: 1
Release: 1
Summary: What dpkg has brought
License: none
BuildArch: noarch
Provides: /bin/sh rtld(GNU_HASH)
$libraries
%description
%files
SPEC
rpmbuild -bb --quiet --define '_topdir /tmp/base' /tmp/base.spec
rpm -i /tmp/base/RPMS/noarch/*.rpm
rm -rf /tmp/base /tmp/base.spec
