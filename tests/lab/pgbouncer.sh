#!/bin/sh
# PgBouncer on loopback in front of a PostgreSQL server, for the tests of what a
# pooler does to locks.
#
#   tests/lab/pgbouncer.sh DIR SERVER-PORT POOL-MODE
#
# Prints its port, and ends and removes DIR when its standard input closes.
# Whoever comes is let in as the user it names: the server trusts loopback.
set -eu

die() { echo "pgbouncer: $*" >&2; exit 1; }
[ $# = 3 ] || die "usage: pgbouncer.sh DIR SERVER-PORT session|transaction|statement"
dir=$1
pgbouncer=$(PATH=$PATH:/usr/sbin command -v pgbouncer) || die "no pgbouncer"
mkdir -p "$dir"
trap 'kill "$pid" 2>/dev/null || :; wait "$pid" 2>/dev/null || :; rm -rf "$dir"' EXIT
trap 'exit 1' INT TERM HUP
pid=0
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat >"$dir/pgbouncer.ini" <<CONF
[databases]
* = host=127.0.0.1 port=$2
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $port
unix_socket_dir =
auth_type = plain
auth_file = $dir/users
pool_mode = $3
default_pool_size = 5
CONF
# The password comes on our standard input's first line.
IFS= read -r password
printf '"barbican" "%s"\n' "$(printf %s "$password" | sed 's/"/""/g')" >"$dir/users"
# It refuses to run as root.
if [ "$(id -u)" = 0 ]; then
    chown -R nobody "$dir"
    setpriv --reuid=nobody --regid="$(id -g nobody)" --clear-groups "$pgbouncer" -q "$dir/pgbouncer.ini" \
        >"$dir/log" 2>&1 </dev/null &
else
    "$pgbouncer" -q "$dir/pgbouncer.ini" >"$dir/log" 2>&1 </dev/null &
fi
pid=$!
tries=0
until python3 -c "import socket; socket.create_connection(('127.0.0.1', $port))" 2>/dev/null; do
    tries=$((tries + 1))
    kill -0 "$pid" 2>/dev/null && [ $tries -lt 100 ] || { cat "$dir/log" >&2; die "does not listen"; }
    sleep 0.05
done
echo "$port"
cat >/dev/null
