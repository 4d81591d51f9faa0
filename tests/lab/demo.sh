#!/bin/bash
# Shows the real tool on a genuine Liberty deployment, in a directory of its
# own. Called by `make demo`, which builds the binary and sets up the lab.
# Ends with status 1 as soon as a command ends otherwise than it must.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
: "${KEYMGR:?}" "${KEYMGR_TEST_P11SHIM:?}"
sandbox=$(mktemp -d "${TMPDIR:-/tmp}/keymgr-demo.XXXXXX")
export R=$sandbox/root M=$KEYMGR_TEST_P11SHIM
export SOFTHSM2_CONF=$R/etc/softhsm/softhsm2.conf
# SoftHSM2 plays a SafeNet HSM of 2015: the shim in front of it understands the
# vendor's number for AES-GCM.
export P11SHIM_LIBERTY=1

title() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
[ -t 1 ] && [ -z "${NO_COLOR:-}" ] || title() { printf '\n== %s\n' "$*"; }

# must EXIT ARGUMENTS...: shows the command, runs it, wants that exit code.
must() {
    local want=$1 got=0
    shift
    printf '\n$ keymgr-upgrade --root $R --pkcs11-module $M %s\n' "$*"
    "$KEYMGR" --root "$R" --pkcs11-module "$M" "$@" || got=$?
    [ "$got" = "$want" ] || { echo "demo: exit code $got, must be $want" >&2; exit 1; }
    [ "$want" = 0 ] || printf '(exit code %s)\n' "$got"
}

# facts FILE: what the tool itself says of the deployment; 1 is for warnings.
facts() {
    "$KEYMGR" --root "$R" --pkcs11-module "$M" --json check >"$1" || [ $? = 1 ]
}

"$here/sandbox.sh" "$R"
cat >"$sandbox/keymgr-upgrade" <<EOF
#!/bin/sh
export SOFTHSM2_CONF='$SOFTHSM2_CONF' P11SHIM_LIBERTY=1
exec '$KEYMGR' --root '$R' --pkcs11-module '$M' "\$@"
EOF
chmod +x "$sandbox/keymgr-upgrade"
cat <<EOF
A genuine Liberty deployment of 2015: SQLite with 36 secrets of 6 projects, 15 of
them under keys of an HSM, with KEK signatures of before Mitaka; barbican.conf
and a customised paste file of that time.
R=$R
M=$M
EOF
facts "$sandbox/before.json"

title 'What is it, and what would be in the way?'
must 1 check --to mitaka
must 0 notes --to mitaka

title 'Releases are not skipped'
must 3 upgrade --to ocata --yes

title 'One release at a time: Mitaka, Newton, Ocata'
must 0 plan --to mitaka --diff
must 0 approve --to mitaka
must 0 upgrade --to mitaka --yes
must 0 approve --to newton
must 0 upgrade --to newton --yes
must 0 approve --to ocata
must 0 upgrade --to ocata --yes

title 'The other nineteen releases in one run'
must 0 approve --to 2026.2 --fast-forward
must 0 upgrade --to 2026.2 --fast-forward --yes

title 'Where it stands'
must 0 db verify
must 0 kek status
must 0 status

facts "$sandbox/after.json"
title 'Before and after'
python3 "$here/demo_table.py" "$sandbox/before.json" "$sandbox/after.json" \
    "$here/../fixtures/demo" "$R/etc/barbican"
cat <<EOF

The sandbox is $sandbox
Try next, with $sandbox/keymgr-upgrade:
  history            the runs
  rollback           undo the last run, row for row and byte for byte
  kek verify         decrypt every secret
  config diff        nothing left to change
or break something: edit a file below root/etc/barbican, then check.
EOF
