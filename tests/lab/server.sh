#!/bin/sh
# A private database server for tests, on a directory of its own: nothing of
# the machine's own servers is used, and as root it runs as an ordinary user.
#
#   tests/lab/server.sh start postgresql|mariadb DIR PORT [OPTION...]
#   tests/lab/server.sh watch postgresql|mariadb DIR LOCK SECONDS
#   tests/lab/server.sh kill  postgresql|mariadb DIR
#   tests/lab/server.sh stop  postgresql|mariadb DIR
#
# start   makes DIR (its parents must be open to all), or takes up what a killed
#         server left in it, and returns when the server
#         answers on 127.0.0.1:PORT, on [::1]:PORT where there is IPv6, and on a
#         socket in DIR. OPTIONs go to the server. The administrator (postgres,
#         root) needs no password on the socket. TLS is offered with certificates
#         in DIR/tls: ca.pem, client.pem and client.key (of "tls_client"), and a
#         wrong-ca.pem that signed nothing. TLS_STYLE=v1 makes them as they were
#         made long ago: version 1, no alternative names, RSA keys in PKCS#1.
# watch   waits until nobody has held LOCK (flock, shared) for SECONDS, then stops.
# kill    kills the server, and all it started, at once.
# stop    does so too, and removes DIR.
set -eu
do=$1 kind=$2 dir=$3

die() { echo "server.sh: $*" >&2; exit 1; }

# The servers refuse to run as root.
as_user() {
    if [ "$(id -u)" = 0 ]; then
        setpriv --reuid=nobody --regid="$(id -g nobody)" --clear-groups env HOME="$dir" "$@"
    else
        "$@"
    fi
}

find_postgresql() {
    for bin in $(ls -d /usr/lib/postgresql/*/bin /usr/pgsql-*/bin 2>/dev/null | sort -rV) /usr/bin; do
        [ -x "$bin/initdb" ] && return
    done
    die "no initdb here: run tests/lab/setup.sh"
}

find_mariadb() {
    for mariadbd in /usr/sbin/mariadbd /usr/libexec/mariadbd /usr/bin/mariadbd; do
        [ -x "$mariadbd" ] && return
    done
    die "no mariadbd here: run tests/lab/setup.sh"
}

tls() {
    umask 077
    mkdir "$dir/tls"
    cd "$dir/tls"
    extensions='basicConstraints=CA:FALSE\nsubjectAltName=DNS:localhost,IP:127.0.0.1,IP:0:0:0:0:0:0:0:1\n'
    printf "$extensions" >extensions
    # The times are far apart, since tests may set the clock of a process.
    for ca in ca wrong-ca; do
        openssl req -x509 -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 36500 \
            -subj "/CN=keymgr test $ca" -keyout $ca.key -out $ca.pem
    done
    for who in server:localhost client:tls_client; do
        name=${who%%:*}
        if [ "${TLS_STYLE:-}" = v1 ]; then
            openssl genrsa -traditional -out $name.key 2048 || openssl genrsa -out $name.key 2048
            openssl req -new -key $name.key -subj "/CN=${who#*:}" -out $name.csr
            openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 36500 -out $name.pem
        else
            openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
                -subj "/CN=${who#*:}" -keyout $name.key -out $name.csr
            openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 36500 \
                -extfile extensions -out $name.pem
        fi
    done
    cd /
    [ "$(id -u)" != 0 ] || chown -R nobody "$dir/tls"
}

has_ipv6() { grep -q '^0*1 ' /proc/net/if_inet6 2>/dev/null; }

# answers COMMAND...: waits until it succeeds, as long as the server lives.
answers() {
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 600 ] || { tail -n 20 "$dir/log" >&2; die "$kind does not answer"; }
        sleep 0.05
    done
}

start_postgresql() {
    find_postgresql
    [ -e "$dir/data" ] || as_user "$bin/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync >"$dir/init.log" 2>&1 ||
        { cat "$dir/init.log" >&2; die "initdb failed"; }
    # tls_client may come with its certificate, tls_only over TLS.
    cat >"$dir/hba" <<EOF
local all postgres trust
local all all scram-sha-256
hostssl all tls_client all cert
hostssl all tls_only all scram-sha-256
hostnossl all tls_only,tls_client all reject
host all all all scram-sha-256
EOF
    chmod 644 "$dir/hba"
    listen=127.0.0.1
    has_ipv6 && listen=127.0.0.1,::1
    as_user "$bin/postgres" -D "$dir/data" -p "$port" -k "$dir" -c listen_addresses=$listen \
        -c hba_file="$dir/hba" -c fsync=off -c synchronous_commit=off -c full_page_writes=off \
        -c shared_buffers=32MB -c max_connections=200 -c ssl=on -c ssl_ca_file="$dir/tls/ca.pem" \
        -c ssl_cert_file="$dir/tls/server.pem" -c ssl_key_file="$dir/tls/server.key" "$@" \
        >"$dir/log" 2>&1 </dev/null &
    answers "$bin/psql" -X -h "$dir" -p "$port" -U postgres -c 'SELECT 1'
}

start_mariadb() {
    find_mariadb
    # One that starts removes every temporary table that it finds in this directory, also those of others.
    [ -e "$dir/tmp" ] || as_user mkdir "$dir/tmp"
    [ -e "$dir/data" ] || as_user mariadb-install-db --no-defaults --datadir="$dir/data" --tmpdir="$dir/tmp" --auth-root-authentication-method=normal \
        --skip-test-db --skip-name-resolve --innodb-log-file-size=16M >"$dir/init.log" 2>&1 ||
        { cat "$dir/init.log" >&2; die "mariadb-install-db failed"; }
    listen=127.0.0.1
    has_ipv6 && listen=127.0.0.1,::1
    as_user "$mariadbd" --no-defaults --datadir="$dir/data" --socket="$dir/socket" --port="$port" \
        --tmpdir="$dir/tmp" --bind-address=$listen --pid-file="$dir/pid" --innodb-flush-log-at-trx-commit=0 \
        --innodb-buffer-pool-size=64M --innodb-log-file-size=16M --skip-name-resolve --skip-log-bin \
        --ssl-ca="$dir/tls/ca.pem" --ssl-cert="$dir/tls/server.pem" --ssl-key="$dir/tls/server.key" "$@" \
        >"$dir/log" 2>&1 </dev/null &
    answers mariadb --no-defaults -S "$dir/socket" -u root -e 'SELECT 1'
}

# Nothing of the data is worth an orderly end.
kill_server() {
    case $kind in
        postgresql) pid=$(sed -n 1p "$dir/data/postmaster.pid" 2>/dev/null) ;;
        *) pid=$(cat "$dir/pid" 2>/dev/null) ;;
    esac || true
    # The number may long be another's.
    [ -n "$pid" ] && tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "$dir/data" || return 0
    # PostgreSQL's own children end on QUIT, and its shared memory is freed.
    case $kind in postgresql) signal=QUIT ;; *) signal=KILL ;; esac
    kill -$signal "$pid" 2>/dev/null || true
    while kill -0 "$pid" 2>/dev/null; do sleep 0.02; done
}

case $do in
start)
    port=$4
    shift 4
    mkdir -p "$dir"
    chmod 755 "$dir"
    [ "$(id -u)" != 0 ] || chown nobody "$dir"
    [ -e "$dir/tls" ] || (tls) >"$dir/tls.log" 2>&1 || { cat "$dir/tls.log" >&2; die "openssl failed"; }
    start_"$kind" "$@"
    ;;
watch)
    exec 9<"$4"
    while flock 9; do
        flock -u 9
        sleep "$5"
        flock -n 9 && break
    done
    kill_server
    rm -rf "$dir"
    ;;
kill) kill_server ;;
stop)
    kill_server
    rm -rf "$dir"
    ;;
*) die "what is $do?" ;;
esac
