#!/bin/bash
# Prints one table: start-up time of `check` on the Liberty fixture, size of
# the binary, time and peak memory of the whole way from Liberty to 2026.2.
# Called by `make bench`. Nothing is asserted: machines differ.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
: "${KEYMGR:?}" "${KEYMGR_TEST_P11SHIM:?}"
sandbox=$(mktemp -d "${TMPDIR:-/tmp}/keymgr-bench.XXXXXX")
trap 'rm -rf "$sandbox"' EXIT
export P11SHIM_LIBERTY=1
python3 - "$here" "$sandbox" <<'EOF'
import os, statistics, subprocess, sys, time

here, sandbox = sys.argv[1:]
keymgr, module = os.environ["KEYMGR"], os.environ["KEYMGR_TEST_P11SHIM"]
TO = ["--to", "2026.2", "--fast-forward"]


def fresh(name):
    root = f"{sandbox}/{name}"
    subprocess.run([f"{here}/sandbox.sh", root], check=True)
    os.environ["SOFTHSM2_CONF"] = f"{root}/etc/softhsm/softhsm2.conf"
    return [keymgr, "--root", root, "--pkcs11-module", module]


def run(argv, codes=(0,)):
    """Returns wall seconds and peak resident MiB of the process itself."""
    start = time.perf_counter()
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    complaint = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    code = os.waitstatus_to_exitcode(status)
    if code not in codes:
        sys.exit(f"{' '.join(argv)}: exit {code}\n{complaint.decode()}")
    return seconds, usage.ru_maxrss / 1024


def spread(values, scale, unit):
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{low * scale:8.1f} {middle * scale:8.1f} {high * scale:8.1f}  {unit}"


argv = fresh("check")
run(argv + ["check"], (0, 1, 2))
check = [run(argv + ["check"], (0, 1, 2)) for _ in range(30)]
version = [run([keymgr, "--version"]) for _ in range(30)]
whole = []
for turn in range(5):
    argv = fresh(f"whole{turn}")
    run(argv + ["approve"] + TO)
    whole.append(run(argv + ["upgrade"] + TO + ["--yes"]))

print(f"{'':34} {'min':>8} {'median':>8} {'max':>8}")
print(f"{'--version, 30 runs':34}", spread([v[0] for v in version], 1e3, "ms"))
print(f"{'check on the fixture, 30 runs':34}", spread([c[0] for c in check], 1e3, "ms"))
print(f"{'Liberty to 2026.2, 5 runs':34}", spread([w[0] for w in whole], 1e3, "ms"))
print(f"{'  its peak memory':34}", spread([w[1] for w in whole], 1, "MiB"))
print(f"{'binary, stripped':34} {'':8} {os.path.getsize(keymgr) / 2**20:8.1f} {'':8}  MiB")
EOF
