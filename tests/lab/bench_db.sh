#!/bin/bash
# Prints one table: the same databases migrated by keymgr-upgrade and by
# Barbican's own barbican-db-manage, in turns, on private servers, and the ratio
# of the times. Called by `make bench`. Nothing is asserted: machines differ.
#
# Ours is timed without a backup, as theirs makes none, and with its backup.
# "again" is the same command with nothing left to do: what start-up alone costs.
set -euo pipefail

. "$(dirname "$0")/bench_start.sh"
: "${KEYMGR_TEST_VENV_BARBICAN_10:?}"
python3 - "$here" "$work" <<'EOF'
import json, os, pathlib, statistics, subprocess, sys, time

here, work = map(pathlib.Path, sys.argv[1:3])
sys.path.insert(0, str(here))
from bench_servers import Server

fixtures = here.parent / "fixtures"
TURNS = int(os.environ.get("TURNS", "5"))
KEYMGR = os.environ["KEYMGR"]
OLD = os.environ["KEYMGR_TEST_VENV_BARBICAN_10"] + "/bin/barbican-db-manage"
NEW = os.environ["KEYMGR_TEST_VENV_BARBICAN"] + "/bin/barbican-db-manage"
PYTHON = os.environ["KEYMGR_TEST_VENV_BARBICAN"] + "/bin/python"
CASES = [
    ("mariadb", "liberty/liberty-mariadb", "10.0.0", OLD, "0f8c192a061f"),
    ("mariadb", "schema/mysql-chain-254495565185-juno", "10.0.0", OLD, "0f8c192a061f"),
    ("mariadb", "schema/mysql-12.0.2", "23.0.0", NEW, "8c74e2d7f1ff"),
    ("postgresql", "schema/postgresql-chain-4ecde3a3a72a-liberty", "10.0.0", OLD, "0f8c192a061f"),
    ("postgresql", "schema/postgresql-chain-254495565185-juno", "10.0.0", OLD, "0f8c192a061f"),
    ("postgresql", "schema/postgresql-12.0.2", "23.0.0", NEW, "8c74e2d7f1ff"),
]


def rows_for(server, text):
    """A dump without rows gets some in every table."""
    if text.count("INSERT INTO") > 1:
        return ""
    server.fresh(text)
    said = subprocess.run([PYTHON, here / "compare_schema.py", "--serve"], check=True, text=True,
                          capture_output=True, input=json.dumps(["inserts", server.url("b")]) + "\n")
    return json.loads(said.stdout)


def ours(server, backup, revision):
    root = work / "root"
    for name, text in (("barbican/barbican.conf", f"[DEFAULT]\nsql_connection = {server.url('b')}\n"),
                       ("keymgr-upgrade/keymgr-upgrade.conf", f"[database]\nbackup = {backup}\n")):
        (root / "etc" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "etc" / name).write_text(text)
    return [KEYMGR, "--root", root, "--allow-network-db", "db", "upgrade", revision, "--yes"]


def run(argv):
    start = time.perf_counter()
    said = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    if said.returncode:
        sys.exit(f"{argv}: exit {said.returncode}\n{said.stdout}{said.stderr}")
    return seconds


def main():
    servers = {kind: Server(kind, work) for kind in ("mariadb", "postgresql")}
    print(f"medians of {TURNS} runs in turns, ms; theirs: barbican-db-manage upgrade")
    print(f"{'':68}{'ours':>7}{'+backup':>9}{'again':>7}{'theirs':>8}{'again':>7}{'theirs/ours':>13}")
    for kind, start, release, tool, revision in CASES:
        server = servers[kind]
        text = (fixtures / f"{start}.sql").read_text()
        text += rows_for(server, text)
        theirs = [tool, "--dburl", server.url("b"), "upgrade", "-v", revision]
        times = {}
        for _ in range(TURNS):
            for name, argv in (("ours", lambda: ours(server, "none", revision)),
                               ("theirs", lambda: theirs),
                               ("backup", lambda: ours(server, "full", revision))):
                server.fresh(text)
                argv = argv()
                times.setdefault(name, []).append(run(argv))
                times.setdefault(name + " again", []).append(run(argv))
        t = {name: statistics.median(values) * 1e3 for name, values in times.items()}
        label = f"{kind}: {start.split('/')[1].removeprefix('mysql-').removeprefix('postgresql-')} to {revision}, {release}"
        print(f"{label:68}{t['ours']:7.0f}{t['backup']:9.0f}{t['ours again']:7.0f}{t['theirs']:8.0f}"
              f"{t['theirs again']:7.0f}{t['theirs'] / t['ours']:13.1f}")


main()
EOF
