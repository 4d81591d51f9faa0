#!/bin/bash
# Prints two tables for a Liberty database with SECRETS secrets (default 100000;
# 1000000 takes some twenty minutes and 8 GB below BENCH_DIR, default /dev/shm):
#
# - Liberty to head by `db upgrade`, without a backup, beside the very same
#   statements typed into mariadb and psql by hand: the ratio is ours / by hand.
# - what `rehearse` foretold, beside the time that the run of the upgrade was open;
#   and how long `check` and `plan` take before.
#
# The rows are copies of genuine secrets of PLUGIN, simple or p11 (default simple,
# which needs no token a secret), in all tables that know them, made by one
# statement a table. KINDS are the servers. Called by `make bench`. Nothing is
# asserted.
set -euo pipefail

. "$(dirname "$0")/bench_start.sh"
: "${KEYMGR_TEST_P11SHIM:?}"
export P11SHIM_LIBERTY=1
python3 - "$here" "$work" <<'END'
import json, os, pathlib, re, statistics, subprocess, sys, time

here, work = map(pathlib.Path, sys.argv[1:3])
sys.path.insert(0, str(here))
from bench_servers import LARGE, Server, copies, liberty

SECRETS = int(os.environ.get("SECRETS", "100000"))
TURNS = int(os.environ.get("TURNS", "3" if SECRETS <= 100000 else "1"))
PLUGIN = os.environ.get("PLUGIN", "simple")
KINDS = os.environ.get("KINDS", "mariadb postgresql").split()
KEYMGR = os.environ["KEYMGR"]
HEAD = "8c74e2d7f1ff"
WAY = ["--to", "2026.2", "--fast-forward"]


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


def run(argv, text=None, codes=(0,)):
    """Wall seconds, and what was said."""
    start = time.perf_counter()
    said = subprocess.run(argv, capture_output=True, text=True, input=text if text is not None else "")
    seconds = time.perf_counter() - start
    if said.returncode not in codes:
        sys.exit(f"{argv}: exit {said.returncode}\n{said.stdout[-3000:]}{said.stderr[-3000:]}")
    return seconds, said.stdout


def by_hand(server, sql):
    if server.kind == "mariadb":
        sql = "SET SESSION sql_mode = 'ANSI_QUOTES,STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION';\n" + sql
    return run(server.client(*(["-1"] if server.kind == "postgresql" else []), "b"), sql)[0]


def upgraded(root):
    """Wall seconds of an upgrade, and of those that its run was open."""
    current = root / "var/lib/keymgr-upgrade/current"
    begin, opened, closed = time.perf_counter(), None, None
    with open(work / "said", "w+") as said:
        process = subprocess.Popen(ours(root, "upgrade", *WAY, "--yes"), stdout=said, stderr=said, stdin=subprocess.DEVNULL)
        while process.poll() is None:
            if opened is None and current.is_symlink():
                opened = time.perf_counter()
            if opened is not None and closed is None and not current.is_symlink():
                closed = time.perf_counter()
            time.sleep(0.005)
        if process.returncode:
            said.seek(0)
            sys.exit(said.read()[-3000:])
    return time.perf_counter() - begin, closed - opened


print(f"Liberty to {HEAD}, {SECRETS} secrets of {PLUGIN}, no backup; medians of {TURNS}, s")
print(f"{'':12}{'ours':>8}{'by hand':>9}{'ratio':>7}", flush=True)
maria = Server("mariadb", work, *LARGE["mariadb"])
servers = []
for server in (maria, Server("postgresql", work, *LARGE["postgresql"])):
    if server.kind not in KINDS:
        continue
    servers.append(server)
    liberty(server, maria)
    sql = statements(server)
    copies(server, PLUGIN, SECRETS)
    server.keep(work)
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
print("\nthe window foretold by `rehearse` and measured; what looks before, s")
print(f"{'':12}{'foretold':>9}{'real':>7}{'ratio':>7}{'rehearse':>10}{'upgrade':>9}{'check':>7}{'plan':>7}", flush=True)
for server in servers:
    server.back(work)
    settle(server)
    root = sandbox(server, "full")
    check = run(ours(root, "check", *WAY), codes=(0, 1, 2))[0]
    plan = run(ours(root, "plan", *WAY))[0]
    took, said = run(ours(root, "--json", "rehearse", *WAY))
    foretold = json.loads(said)["window"] / 1000
    run(ours(root, "approve", *WAY))
    whole, real = upgraded(root)
    print(f"{server.kind:12}{foretold:9.1f}{real:7.1f}{foretold / real:7.2f}{took:10.1f}{whole:9.1f}{check:7.2f}{plan:7.2f}", flush=True)
END
