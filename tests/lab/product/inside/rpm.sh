#!/bin/sh
# Makes of the deployment without packages a host with rpm and dnf, and the
# repositories of it. Inside the tree, which is not booted.
set -eu
lab=/srv/lab
export LC_ALL=C.UTF-8

cp /etc/apt/sources.list.debian /etc/apt/sources.list
$lab/add-rpm.sh gunicorn
rm -rf /etc/apt/sources.list /var/lib/apt/lists/*

# What the packages bring is not there before them, nor are secrets.
rm -rf /opt/barbican* /usr/local/sbin/install-barbican $lab/secrets
rm /etc/systemd/system/barbican-*.service /etc/systemd/system/multi-user.target.wants/barbican-*.service
rm /etc/barbican/barbican-api-uwsgi.ini
mv /etc/barbican/barbican-api-paste.ini $lab/paste.ini
# Where rpm puts code is not where Debian's Python looks.
echo /usr/lib/python3.11/site-packages >/usr/lib/python3/dist-packages/site-packages.pth

# repository NAME VERSION RELEASE CODE PASTE
repository() {
    rpmbuild -bb --quiet --define "v $2" --define "r $3" --define "code $4" --define "paste $5" \
        --define '_topdir /tmp/rpm' --define "_rpmdir $lab/rpm/$1" --define '_build_id_links none' \
        --define '_binary_payload w1.gzdio' --define '__os_install_post %{nil}' $lab/openstack-barbican.spec
    createrepo_c -q "$lab/rpm/$1"
    rm -rf /tmp/rpm
}
old=$(basename "$(echo $lab/pip/15.*)") new=$(basename "$(echo $lab/pip/16.*)")
repository zed "$old" 1 "$old" '%config(noreplace)'
repository same "$old" 2 "$old" '%config(noreplace)'
repository next "$new" 1 "$new" '%config(noreplace)'
repository suse "$new" 2 "$new" '%config'
repository skip 17.0.0 1 "$new" '%config(noreplace)'
rm -rf $lab/pip
