#!/bin/bash
# Prints where the time goes in which the controllers of a fleet do not serve, as
# the playbook of packaging/ansible upgrades them: booted hosts, one and three, by
# the ignored test that measures them, then one, three and nine that are only
# played: a program that takes as long as it is told stands for ours, so what is
# seen is the order of the hosts and Ansible's own part. Nothing is asserted.
#
#   tests/lab/bench_fleet.sh [played]
#
# HOLD and UPGRADE are seconds that each played host takes, SLOWEST what its
# upgrade takes on the last one.
set -euo pipefail

repo=$(cd "$(dirname "$0")/../.." && pwd)
: "${KEYMGR_TEST_ANSIBLE:?}"
export HOLD=${HOLD:-2} UPGRADE=${UPGRADE:-10} SLOWEST=${SLOWEST:-20}

if [ "${1:-}" != played ]; then
    (cd "$repo" && cargo test --locked --test it fleet::the_window -- --ignored --nocapture) | grep ' booted: '
fi

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
mkdir -p "$place/ansible_collections/keymgr"
ln -s "$repo/packaging/ansible" "$place/ansible_collections/keymgr/upgrade"
cat >"$place/program" <<'PROGRAM'
#!/bin/sh
# PLACE/HOST/keymgr-upgrade, with what it is told to take.
host=${0%/*}
say() { echo "$(date +%s.%N) $1" >>"$host/log"; }
case "$1 $2" in
    "units hold")
        say stops; sleep "$HOLD"; say held
        echo '{"changed": true}' ;;
    "upgrade "*)
        sleep "$(cat "$host/takes")"; say serves; touch "$host/done"
        echo '{"changed": true, "state": "done"}' ;;
    "check "*)
        if [ -e "$host/done" ]; then would=false; else would=true; fi
        echo "{\"would_change\": $would, \"findings\": []}" ;;
    *)
        echo '{"state": "idle", "run": null, "from": null, "to": null, "release": "2023.1", "held": []}' ;;
esac
PROGRAM
chmod 755 "$place/program"

for count in 1 3 9; do
    echo '[barbican]' >"$place/inventory"
    for host in $(seq "$count"); do
        at=$place/$count/$host
        mkdir -p "$at"
        ln -s "$place/program" "$at/keymgr-upgrade"
        if [ "$host" = "$count" ]; then echo "$SLOWEST"; else echo "$UPGRADE"; fi >"$at/takes"
        echo "ctl$host keymgr_upgrade_command=$at/keymgr-upgrade" >>"$place/inventory"
    done
    (
        cd "$place"
        export HOME=$place ANSIBLE_COLLECTIONS_PATH=$place ANSIBLE_FORKS=10 LC_ALL=C.UTF-8
        "$KEYMGR_TEST_ANSIBLE/venv/bin/ansible-playbook" -i inventory -c local keymgr.upgrade.upgrade \
            -e keymgr_upgrade_to=2023.1 -e keymgr_upgrade_packages=none \
            -e "ansible_python_interpreter=$KEYMGR_TEST_ANSIBLE/venv/bin/python" >"$place/said" || { cat "$place/said" >&2; exit 1; }
    )
    cat "$place/$count"/*/log | sort -n | awk -v count="$count" '
        $2 == "stops" && !began { began = $1 }
        $2 == "held" { held = $1 }
        $2 == "serves" { if (!first) first = $1; last = $1 }
        END { printf "%d played: hold %.1f s, first %.1f s, others %.1f s\n", count, held - began, first - held, last - first }'
done
