#!/bin/bash
# Prints two tables for a Liberty database with SECRETS secrets (default 20000;
# 1000000 takes a quarter of an hour and 6 GB below BENCH_DIR, default /dev/shm):
#
# - Liberty to head by `db upgrade`, without a backup, beside the very same
#   statements typed into mariadb and psql by hand: the ratio is ours / by hand.
# - what `rehearse` foretold, beside the upgrade: from the first record of its
#   journal to the last.
#
# The rows are copies of a genuine secret's, in all tables that know it, made by
# one statement a table. Called by `make bench`. Nothing is asserted.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
: "${KEYMGR:?}" "${KEYMGR_TEST_VENV_BARBICAN:?}" "${KEYMGR_TEST_P11SHIM:?}"
base=${BENCH_DIR:-/dev/shm}
[ -d "$base" ] || base=${TMPDIR:-/tmp}
work=$(mktemp -d "$base/keymgr-bench.XXXXXX")
chmod 755 "$work"
end() {
    for kind in postgresql mariadb; do "$here/server.sh" stop $kind "$work/$kind" || true; done
    rm -rf "$work"
}
trap end EXIT
export P11SHIM_LIBERTY=1
python3 - "$here" "$work" <<'EOF'
import json, os, pathlib, re, statistics, subprocess, sys, time

here, work = map(pathlib.Path, sys.argv[1:3])
sys.path.insert(0, str(here))
from bench_servers import Server

fixtures = here.parent / "fixtures"
SECRETS = int(os.environ.get("SECRETS", "20000"))
TURNS = int(os.environ.get("TURNS", "3" if SECRETS <= 100000 else "1"))
KEYMGR = os.environ["KEYMGR"]
PYTHON = os.environ["KEYMGR_TEST_VENV_BARBICAN"] + "/bin/python"
HEAD = "8c74e2d7f1ff"
WAY = ["--to", "2026.2", "--fast-forward"]
# Of each table that knows a secret: the column that names it.
TABLES = {"secrets": "id", "encrypted_data": "secret_id", "secret_store_metadata": "secret_id"}


def columns(server, table):
    where = "table_schema = 'b'" if server.kind == "mariadb" else "table_schema = 'public'"
    return server.ask(f"SELECT column_name FROM information_schema.columns WHERE {where} "
                      f"AND table_name = '{table}' ORDER BY ordinal_position")


def uuid(word):
    """An expression for an id that follows from `word`, an expression too."""
    pieces = [f"substr(md5({word}), {at}, {n})" for at, n in ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))]
    return f"concat_ws('-', {', '.join(pieces)})"


def fill(server):
    """SECRETS copies of a genuine secret of simple_crypto, which needs no token a secret."""
    genuine, = server.ask("SELECT min(e.secret_id) FROM encrypted_data e JOIN kek_data k ON k.id = e.kek_id "
                          "WHERE k.plugin_name LIKE '%simple%' AND e.deleted = "
                          + ("0" if server.kind == "mariadb" else "false"))
    series = f"seq_1_to_{SECRETS}" if server.kind == "mariadb" else f"generate_series(1, {SECRETS})"
    number = "seq.seq" if server.kind == "mariadb" else "seq"
    quote = "`" if server.kind == "mariadb" else '"'
    text = []
    for table, key in TABLES.items():
        values = []
        for column in columns(server, table):
            if column == key:
                values.append(uuid(f"concat('secret', {number})"))
            elif column == "id":
                values.append(uuid(f"concat(t.id, {number})"))
            else:
                values.append(f"t.{quote}{column}{quote}")
        names = ", ".join(f"{quote}{c}{quote}" for c in columns(server, table))
        text.append(f"INSERT INTO {table} ({names}) SELECT {', '.join(values)} FROM {table} t, {series} AS seq "
                    f"WHERE t.{key} = '{genuine}';")
    server.sql("b", "\n".join(text))
    server.sql("b", "ANALYZE" if server.kind == "postgresql" else f"ANALYZE TABLE {', '.join(TABLES)}")


def keep(server):
    """Liberty with all its rows, to be copied from."""
    genuine = (fixtures / "liberty/liberty-mariadb.sql").read_text()
    if server.kind == "mariadb":
        server.fresh(genuine)
    else:
        server.fresh((fixtures / "schema/postgresql-chain-4ecde3a3a72a-liberty.sql").read_text())
        other = maria.url("b")
        maria.fresh(genuine)
        subprocess.run([PYTHON, here / "compare_schema.py", "--serve"], check=True, text=True, capture_output=True,
                       input=json.dumps(["copy", other, server.url("b")]) + "\n")
    sql = statements(server)
    fill(server)
    server.keep(work)
    return sql


def settle(server):
    """What was loaded is on disk, and nothing of it is left to be done while others are timed."""
    server.sql("b", "CHECKPOINT; VACUUM ANALYZE" if server.kind == "postgresql" else "FLUSH TABLES")


def sandbox(server, backup):
    root = work / "root"
    subprocess.run(["rm", "-rf", root], check=True)
    subprocess.run([here / "sandbox.sh", root], check=True)
    os.environ["SOFTHSM2_CONF"] = f"{root}/etc/softhsm/softhsm2.conf"
    conf = root / "etc/barbican/barbican.conf"
    conf.write_text(re.sub("(?m)^sql_connection = .*$", lambda _: f"sql_connection = {server.url('b')}", conf.read_text()))
    settings = root / "etc/keymgr-upgrade/keymgr-upgrade.conf"
    settings.parent.mkdir()
    settings.write_text(f"[database]\nbackup = {backup}\n")
    return root


def ours(root, *arguments):
    module = os.environ["KEYMGR_TEST_P11SHIM"]
    return [KEYMGR, "--root", root, "--allow-network-db", "--pkcs11-module", module, *arguments]


def statements(server):
    said = json.loads(subprocess.run(ours(sandbox(server, "none"), "--json", "plan", *WAY), check=True, text=True,
                                     capture_output=True).stdout)
    return "\n".join(s.rstrip().rstrip(";") + ";" for r in said["sql"] for s in r["statements"])


def run(argv, text=None):
    """Wall seconds, and what was said."""
    start = time.perf_counter()
    said = subprocess.run(argv, capture_output=True, text=True, input=text if text is not None else "")
    seconds = time.perf_counter() - start
    if said.returncode:
        sys.exit(f"{argv}: exit {said.returncode}\n{said.stdout[-3000:]}{said.stderr[-3000:]}")
    return seconds, said.stdout


def by_hand(server, sql):
    if server.kind == "mariadb":
        sql = "SET SESSION sql_mode = 'ANSI_QUOTES,STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION';\n" + sql
    return run(server.client(*(["-1"] if server.kind == "postgresql" else []), "b"), sql)[0]


def window(root):
    lines = [json.loads(line) for line in max((root / "var/lib/keymgr-upgrade/runs").glob("*/journal.jsonl")).open()]
    return lines[-1]["at"] - lines[0]["at"]


maria = Server("mariadb", work)
servers = [maria, Server("postgresql", work)]
print(f"Liberty to {HEAD}, {SECRETS} secrets, no backup; medians of {TURNS}, s")
print(f"{'':12}{'ours':>8}{'by hand':>9}{'ratio':>7}")
kept = {}
for server in servers:
    sql = keep(server)
    times = {"ours": [], "hand": []}
    for _ in range(TURNS):
        server.back(work)
        settle(server)
        times["hand"].append(by_hand(server, sql))
        server.back(work)
        settle(server)
        times["ours"].append(run(ours(sandbox(server, "none"), "db", "upgrade", HEAD, "--yes"))[0])
    t = {name: statistics.median(values) for name, values in times.items()}
    print(f"{server.kind:12}{t['ours']:8.2f}{t['hand']:9.2f}{t['ours'] / t['hand']:7.2f}", flush=True)
print("\nthe window foretold by `rehearse` and measured, s; the look before, which is no part of it")
print(f"{'':12}{'foretold':>9}{'real':>7}{'ratio':>7}{'rehearse':>10}{'upgrade':>9}{'check':>7}")
for server in servers:
    server.back(work)
    settle(server)
    root = sandbox(server, "full")
    check = time.perf_counter()
    subprocess.run(ours(root, "check", *WAY), capture_output=True)
    check = time.perf_counter() - check
    took, said = run(ours(root, "--json", "rehearse", *WAY))
    foretold = json.loads(said)["window"] / 1000
    run(ours(root, "approve", *WAY))
    whole = run(ours(root, "upgrade", *WAY, "--yes"))[0]
    real = window(root)
    ratio = foretold / real if real else float("nan")
    print(f"{server.kind:12}{foretold:9.1f}{real:7.0f}{ratio:7.2f}{took:10.1f}{whole:9.1f}{check:7.1f}", flush=True)
EOF
