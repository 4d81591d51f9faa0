#!/bin/sh
# A Galera cluster of two MariaDB nodes on loopback, for the tests. Clients come to
# ADDRESS, 127.0.0.1 where the environment has none.
#
#   tests/lab/galera.sh DIR [OPTION...]
#
# Makes DIR, starts both with these options, prints their SQL ports on one line,
# and ends both and removes DIR when its standard input closes: they never
# outlive who started it.
#
# Both nodes start from the same freshly made data directory with the same
# cluster id and position: the second one has to be told only what came since
# (an incremental transfer), and the script that moves the rest has no work.
# root@localhost comes in by the sockets DIR/1/socket and DIR/2/socket.
set -eu

die() { echo "galera: $*" >&2; exit 1; }
[ $# -ge 1 ] || die "usage: galera.sh DIR [OPTION...]"
dir=$1
shift
options=$*
address=${ADDRESS:-127.0.0.1}
provider=$(ls /usr/lib/galera/libgalera_smm.so /usr/lib64/galera-4/libgalera_smm.so 2>/dev/null | head -1)
mariadbd=$(PATH=$PATH:/usr/sbin:/usr/libexec command -v mariadbd) || die "no mariadbd"

# The server refuses to run as root.
unprivileged() {
    if [ "$(id -u)" = 0 ]; then
        setpriv --reuid=nobody --regid="$(id -g nobody)" --clear-groups env HOME="$dir" PATH="$dir/bin:/usr/sbin:/usr/bin:/sbin:/bin" "$@"
    else
        "$@"
    fi
}

# Ports that nobody listens on now: SQL and group, then one of each node's own.
free_ports() {
    python3 - "$1" <<'PYTHON'
import socket, sys
held = [socket.socket() for _ in range(int(sys.argv[1]))]
for s in held:
    s.bind(("127.0.0.1", 0))
print(*[s.getsockname()[1] for s in held])
PYTHON
}

sql() { mariadb --no-defaults -S "$dir/$1/socket" -u root -N -e "$2"; }

# A busy machine that does not answer for seconds is no reason to leave a cluster.
# shellcheck disable=SC2086
node() { # number SQL-port group-port IST-port address-of-the-cluster
    unprivileged "$mariadbd" --no-defaults --datadir="$dir/$1/data" --socket="$dir/$1/socket" \
        --tmpdir="$dir/$1/tmp" --pid-file="$dir/$1/pid" --port="$2" --bind-address="$address" --skip-name-resolve \
        --innodb-flush-log-at-trx-commit=0 --innodb-buffer-pool-size=32M \
        --innodb-log-file-size=8M --innodb-autoinc-lock-mode=2 --binlog-format=ROW \
        --skip-log-bin --wsrep-on=ON --wsrep-provider="$provider" \
        --wsrep-provider-options="base_host=127.0.0.1;base_port=$3;gmcast.listen_addr=tcp://127.0.0.1:$3;ist.recv_addr=127.0.0.1:$4;gcache.size=8M;pc.announce_timeout=PT1S;evs.join_retrans_period=PT0.2S;evs.suspect_timeout=PT60S;evs.inactive_timeout=PT90S;evs.install_timeout=PT90S" \
        --wsrep-cluster-name=keymgr --wsrep-cluster-address="$5" --wsrep-node-name="node$1" \
        --wsrep-node-address=127.0.0.1 --wsrep-node-incoming-address="$address:$2" \
        --wsrep-sst-method=same $options \
        >"$dir/$1/log" 2>&1 </dev/null &
}

synced() {
    tries=0
    while [ "$(sql "$1" "SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME = 'wsrep_local_state_comment'" 2>/dev/null)" != Synced ]; do
        tries=$((tries + 1))
        kill -0 "$2" 2>/dev/null && [ $tries -lt 600 ] || { tail -30 "$dir/$1/log" >&2; die "node $1 does not come to be Synced"; }
        sleep 0.05
    done
}

start() {
    [ -n "$provider" ] || die "no libgalera_smm.so: install galera-4"
    # A server that starts removes what others have in the same tmpdir.
    mkdir -p "$dir/1/tmp"
    [ "$(id -u)" != 0 ] || chown nobody "$dir" "$dir/1" "$dir/1/tmp"
    unprivileged mariadb-install-db --no-defaults --datadir="$dir/1/data" --tmpdir="$dir/1/tmp" \
        --auth-root-authentication-method=normal --skip-test-db --skip-name-resolve \
        >"$dir/install.log" 2>&1 || { cat "$dir/install.log" >&2; die "no data directory"; }
    # shellcheck disable=SC2046
    set -- $(free_ports 6)
    # A server that was in the cluster once has its position in its own tables.
    node 1 "$1" "$2" "$3" gcomm://
    synced 1 $!
    mariadb-admin --no-defaults -S "$dir/1/socket" shutdown
    wait $!
    mkdir "$dir/bin"
    cat >"$dir/bin/wsrep_sst_same" <<'SCRIPT'
#!/bin/sh
# Called by the server: as joiner, when ready and when done, at which position.
role= gtid=
while [ $# -gt 0 ]; do
    case $1 in --role) role=$2 ;; --gtid) gtid=$2 ;; esac
    shift
done
if [ "$role" = donor ]; then echo continue; echo "done $gtid"; exit; fi
echo "ready 127.0.0.1/same"
echo "POSITION"
SCRIPT
    position=$(sed -n 's/^uuid: *//p; s/^seqno: */:/p' "$dir/1/data/grastate.dat" | tr -d '\n')
    sed -i "s/POSITION/$position/" "$dir/bin/wsrep_sst_same"
    chmod 755 "$dir/bin/wsrep_sst_same"
    unprivileged cp -a "$dir/1" "$dir/2"
    node 1 "$1" "$2" "$3" gcomm://
    synced 1 $!
    node 2 "$4" "$5" "$6" "gcomm://127.0.0.1:$2"
    synced 2 $!
    echo "$1 $4"
}

stop() {
    for one in 2 1; do
        [ -s "$dir/$one/pid" ] || continue
        pid=$(cat "$dir/$one/pid")
        kill -9 "$pid" 2>/dev/null || :
        while kill -0 "$pid" 2>/dev/null; do sleep 0.02; done
    done
    rm -rf "$dir"
}

# On whatever end, an unfinished start included.
trap stop EXIT
trap 'exit 1' INT TERM HUP
start
cat >/dev/null
