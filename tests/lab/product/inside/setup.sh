#!/bin/sh
# Makes a deployment of what install.sh installed, inside the booted tree: token
# and keys, database, secrets stored through the API.
set -eu
lab=/srv/lab
conf=/etc/barbican/barbican.conf
export LC_ALL=C.UTF-8

as_barbican() { su -s /bin/sh -c "$*" barbican; }
# set SECTION LINE...: the lines, at the beginning of the section
add() {
    section=$1
    shift
    for line; do sed -i "/^\[$section\]\$/a $line" $conf; done
}

# The token belongs to the service, as its directory shows.
usermod -aG softhsm barbican
as_barbican softhsm2-util --init-token --free --label barbican --pin 1234 --so-pin 4321
slot=$(softhsm2-util --show-slots | awk '/^Slot/ { slot = $2 } /Label: *barbican/ { print slot }')
token="--library-path /usr/lib/softhsm/libsofthsm2.so --passphrase 1234 --slot-id $slot --length 32"
as_barbican "barbican-manage hsm gen_mkek $token --label mkek_0"
as_barbican "barbican-manage hsm gen_hmac $token --label hmac_0 \
    --key-type CKK_GENERIC_SECRET --mechanism CKM_GENERIC_SECRET_KEY_GEN"
# SoftHSM does not wrap as Barbican asks for; the module before it does.
install -m 644 $lab/libp11shim.so /usr/lib/softhsm/libp11shim.so
sed -i 's/^#\?enabled_crypto_plugins = .*/enabled_crypto_plugins = p11_crypto/' $conf
add p11_crypto_plugin 'library_path = /usr/lib/softhsm/libp11shim.so' 'login = 1234' \
    'token_labels = barbican' 'mkek_label = mkek_0' 'mkek_length = 32' 'hmac_label = hmac_0' \
    'hmac_key_type = CKK_GENERIC_SECRET' 'hmac_keygen_mechanism = CKM_GENERIC_SECRET_KEY_GEN' \
    'encryption_mechanism = CKM_AES_CBC'

# No message queue and no Keystone: the API believes what a request says of itself.
sed -i '0,/^#\?transport_url = .*/s||transport_url = fake://|' $conf
sed -i '/^\[pipeline:barbican-api-keystone\]/,/^\[/s/^\(pipeline = .*\) authtoken/\1/' /etc/barbican/barbican-api-paste.ini
# One process answers as well as eight, and starts in an eighth of the time.
sed -i 's/^processes *=.*/processes = 1/; s/^threads *=.*/threads = 4/' /etc/barbican/barbican-api-uwsgi.ini

cat >/etc/mysql/mariadb.conf.d/90-lab.cnf <<'CNF'
[mariadbd]
innodb_log_file_size = 8M
innodb_buffer_pool_size = 32M
CNF
systemctl enable mariadb
systemctl restart mariadb
mariadb -e "CREATE DATABASE barbican CHARACTER SET utf8;
    CREATE USER barbican@localhost IDENTIFIED BY 'dbpw';
    GRANT ALL ON barbican.* TO barbican@localhost"
# Where 15.0.1's own package writes it: the name is gone in 2025.1.
sed -i '/^#\?sql_connection *=/d; /^#\?connection *=/d' $conf
add DEFAULT 'sql_connection = mysql+pymysql://barbican:dbpw@127.0.0.1/barbican?charset=utf8'
as_barbican barbican-db-manage upgrade
systemctl enable barbican-api barbican-worker barbican-keystone-listener
systemctl restart barbican-api barbican-worker barbican-keystone-listener
$lab/wait-for-api

$lab/store-secrets
$lab/read-secrets
systemctl is-active barbican-api barbican-worker barbican-keystone-listener
