#!/bin/sh
# Makes of the deployment one without packages: the code of both versions below
# /opt, installed from wheels, /opt/barbican pointing to one of them, and units
# of the site's own. Inside the tree, which is not booted.
set -eu
lab=/srv/lab
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
# What they need stays; so do their files in /etc and the service's user.
dpkg --remove --force-depends barbican-api barbican-worker barbican-keystone-listener barbican-common python3-barbican
rm /usr/sbin/policy-rc.d
# shellcheck disable=SC2046
apt-mark manual $(dpkg-query -W -f '${Package} ') >/dev/null

for wheel in $lab/barbican-*.whl; do
    version=$(basename "$wheel" | cut -d - -f 2)
    at=/opt/barbican-$version
    python3 -m venv --without-pip --system-site-packages "$at"
    unzip -q "$wheel" -d "$at/lib/python3.11/site-packages"
    mv "$at"/lib/python3.11/site-packages/barbican-*.data/scripts/barbican-wsgi-api "$at/bin/"
    script() {
        printf '#!/opt/barbican/bin/python3\nimport sys\nfrom barbican.cmd.%s import main\nsys.exit(main())\n' "$2" \
            >"$at/bin/$1"
        chmod 755 "$at/bin/$1"
    }
    script barbican-worker worker
    script barbican-keystone-listener keystone_listener
    script barbican-db-manage db_manage
done

unit() {
    cat >"/etc/systemd/system/$1.service" <<UNIT
[Unit]
Description=Barbican from its source
After=mariadb.service
[Service]
User=barbican
Group=barbican
WorkingDirectory=/var/lib/barbican
ExecStart=$2
TimeoutStopSec=15
[Install]
WantedBy=multi-user.target
UNIT
}
sed -i 's|^wsgi-file *=.*|wsgi-file = /opt/barbican/bin/barbican-wsgi-api\nvirtualenv = /opt/barbican|' \
    /etc/barbican/barbican-api-uwsgi.ini
unit barbican-api '/usr/bin/uwsgi_python311 --http-socket :9311 --ini /etc/barbican/barbican-api-uwsgi.ini'
unit barbican-worker '/opt/barbican/bin/python3 /opt/barbican/bin/barbican-worker'
unit barbican-keystone-listener '/opt/barbican/bin/python3 /opt/barbican/bin/barbican-keystone-listener'
rm -f /etc/rc?.d/*barbican* /etc/init.d/barbican*
for name in barbican-api barbican-worker barbican-keystone-listener; do
    ln -sf ../$name.service /etc/systemd/system/multi-user.target.wants/$name.service
done

cat >/usr/local/sbin/install-barbican <<'SCRIPT'
#!/bin/sh -e
# install-barbican VERSION: puts the code of this version in its place, at once.
ln -sfn "/opt/barbican-$1" /opt/barbican.new
mv -T /opt/barbican.new /opt/barbican
SCRIPT
chmod 755 /usr/local/sbin/install-barbican
install-barbican 15.0.1
