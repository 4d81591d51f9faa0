#!/bin/bash
# Prints two tables: pre-Mitaka KEKs signed anew by keymgr-upgrade, beside a bare
# loop of the same PKCS#11 calls and beside Barbican's own script, on a private
# MariaDB with SoftHSM2; and behind an HSM that takes 0.5 ms a call, with one
# session and with eight. Called by `make bench`. Nothing is asserted.
#
# SIZES   how many KEKs, one line each, of few the medians of five runs; default "2000 100000"
# THEIRS  how many of them Barbican's own script gets; default 600
# REMOTE  how many are behind the slow HSM; default 1000
#
# The script of 23.0.0 does not run as it is: a copy has the session of SQLAlchemy
# 2, keeps what it read, and gives get_key_handle its key type.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
: "${KEYMGR:?}" "${KEYMGR_TEST_VENV_BARBICAN:?}" "${KEYMGR_TEST_SOFTHSM:?}" "${KEYMGR_TEST_P11SHIM:?}"
base=/dev/shm
[ -d "$base" ] || base=${TMPDIR:-/tmp}
work=$(mktemp -d "$base/keymgr-bench.XXXXXX")
chmod 755 "$work"
end() {
    "$here/server.sh" stop mariadb "$work/mariadb" || true
    rm -rf "$work"
}
trap end EXIT
cc -O2 -o "$work/raw_sign" "$here/raw_sign.c" -I/usr/include/p11-kit-1 -ldl
python3 - "$here" "$work" <<'PY'
import json, os, pathlib, re, socket, statistics, subprocess, sys, threading, time

here, work = map(pathlib.Path, sys.argv[1:3])
fixtures = here.parent / "fixtures"
KEYMGR, SOFTHSM = os.environ["KEYMGR"], os.environ["KEYMGR_TEST_SOFTHSM"]
PYTHON = os.environ["KEYMGR_TEST_VENV_BARBICAN"] + "/bin/python"
SIZES = [int(size) for size in os.environ.get("SIZES", "2000 100000").split()]
THEIRS, REMOTE = int(os.environ.get("THEIRS", "600")), int(os.environ.get("REMOTE", "1000"))
KEY = bytes(range(32))
PLUGIN = "barbican.plugin.crypto.p11_crypto.P11CryptoPlugin"

root = work / "root"
(root / "var/lib/softhsm").mkdir(parents=True)
subprocess.run(["tar", "-xzf", fixtures / "liberty/softhsm-tokens.tgz", "--no-same-owner", "-C", root / "var/lib/softhsm"],
               check=True)
conf = work / "softhsm2.conf"
conf.write_text(f"directories.tokendir = {root}/var/lib/softhsm/tokens\nobjectstore.backend = file\nlog.level = ERROR\n")
os.environ["SOFTHSM2_CONF"] = str(conf)
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
subprocess.run([here / "server.sh", "start", "mariadb", work / "mariadb", str(port)], check=True)


def sql(database, lines):
    client = subprocess.Popen(["mariadb", "--no-defaults", "-u", "root", "-S", work / "mariadb/socket", database],
                              stdin=subprocess.PIPE, text=True)
    for line in lines:
        client.stdin.write(line)
    client.stdin.close()
    if client.wait():
        sys.exit("mariadb failed")


def raw(count, *more):
    argv = [work / "raw_sign", SOFTHSM, "liberty", "1234", str(count), *more]
    return float(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)


def uuid(word):
    """An expression for an id that follows from `word`, an expression too."""
    text = f"MD5({word})"
    for at, length, put in ((17, 1, "a"), (13, 1, "4"), (21, 0, "-"), (17, 0, "-"), (13, 0, "-"), (9, 0, "-")):
        text = f"INSERT({text}, {at}, {length}, '{put}')"
    return text


def keks(count):
    """Projects and a KEK for each, as Liberty left them: the signature, made by the server, covers the wrapped key alone."""
    stamps = "'2015-11-20 10:00:00', '2015-11-20 10:00:00', 0, 'ACTIVE'"
    inner, outer = (f"X'{bytes(byte ^ pad for byte in KEY.ljust(64, bytes(1))).hex()}'" for pad in (0x36, 0x5C))
    kek = uuid("CONCAT('kek', seq)")
    return f"""
SET unique_checks = 0, foreign_key_checks = 0, sort_buffer_size = 64 << 20;
INSERT INTO projects (id, created_at, updated_at, deleted, status, external_id)
    SELECT id, {stamps}, REPLACE(id, '-', '') FROM (SELECT {uuid('seq')} AS id FROM seq_1_to_{count}) p ORDER BY id;
INSERT INTO kek_data (id, created_at, updated_at, deleted, status, plugin_name, kek_label, project_id, active, bind_completed, algorithm,
        bit_length, mode, plugin_meta)
    SELECT id, {stamps}, '{PLUGIN}', CONCAT('project-', project, '-key-', id), project, 1, 1, 'AES', 256, 'CBC',
        CONCAT('{{"iv": "', TO_BASE64(UNHEX(MD5(CONCAT('iv', id)))), '", "wrapped_key": "', TO_BASE64(wrapped), '", "hmac": "',
            TO_BASE64(UNHEX(SHA2(CONCAT({outer}, UNHEX(SHA2(CONCAT({inner}, wrapped), 256))), 256))),
            '", "mkek_label": "an_mkek", "hmac_label": "bench_hmac"}}')
    FROM (SELECT {kek} AS id, {uuid('seq')} AS project, UNHEX(SHA2(seq, 384)) AS wrapped FROM seq_1_to_{count}) k
    ORDER BY id;
"""


def fresh(count):
    sql("", ["DROP DATABASE IF EXISTS b; CREATE DATABASE b CHARACTER SET utf8;\n"])
    sql("b", [(fixtures / "schema/mysql-23.0.0.sql").read_text()])
    sql("b", [keks(count)])


def configure(sessions):
    url = f"mysql+pymysql://barbican:bench@127.0.0.1:{port}/b"
    text = (f"[database]\nconnection = {url}\n[p11_crypto_plugin]\nlibrary_path = {SOFTHSM}\nlogin = 1234\n"
            "token_labels = liberty\nmkek_label = an_mkek\nmkek_length = 32\nhmac_label = bench_hmac\nhmac_key_type = CKK_GENERIC_SECRET\n")
    settings = f"[hsm]\nsessions = {sessions}\n"
    for name, text in ((root / "etc/barbican/barbican.conf", text), (root / "etc/keymgr-upgrade/keymgr-upgrade.conf", settings),
                       (work / "home/.barbican/barbican.conf", text)):
        name.parent.mkdir(parents=True, exist_ok=True)
        name.write_text(text)


class Memory(threading.Thread):
    """Peak resident memory, in MiB, of a process, and the largest of its children."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.main, self.child = pid, 0, 0
        self.start()

    def run(self):
        while True:
            try:
                self.main = max(self.main, self.peak(self.pid))
                children = pathlib.Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
            except OSError:
                return
            for child in children:
                try:
                    self.child = max(self.child, self.peak(child))
                except OSError:
                    pass
            time.sleep(0.05)

    @staticmethod
    def peak(pid):
        found = re.search(r"VmHWM:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())
        return int(found[1]) / 1024 if found else 0


def ours(module, environment=None):
    """Milliseconds of the step, seconds of the whole command, and its memory."""
    argv = [KEYMGR, "--root", root, "--allow-network-db", "--pkcs11-module", module, "--from", "2026.2", "--json", "kek",
            "migrate", "--yes"]
    start = time.perf_counter()
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL,
                               env=os.environ | (environment or {}))
    memory = Memory(process.pid)
    out, err = process.communicate()
    seconds = time.perf_counter() - start
    if process.returncode:
        sys.exit(f"kek migrate: exit {process.returncode}\n{out}{err}")
    step, = [step for step in json.loads(out)["steps"] if step["title"] == "KEK signatures"]
    return step["milliseconds"] / 1e3, seconds, memory


def theirs(count):
    """Seconds of Barbican's own script for so many, its start not counted."""
    fresh(count)
    script = """
import importlib.util, sys, time
origin = importlib.util.find_spec("barbican.cmd.pkcs11_migrate_kek_signatures").origin
text = open(origin).read()
for old, new in (("autocommit=True", "expire_on_commit=False"),
                 ("get_key_handle(\\n                meta_dict", "get_key_handle(\\n                CONF.p11_crypto_plugin.hmac_key_type, meta_dict")):
    assert old in text, old
    text = text.replace(old, new)
names = {"__name__": "mended"}
exec(compile(text, origin, "exec"), names)
c = names["CONF"]
migrator = names["KekSignatureMigrator"](c.database.connection, c.p11_crypto_plugin.library_path, c.p11_crypto_plugin.login, c.p11_crypto_plugin.slot_id)
start = time.perf_counter()
migrator.execute(False)
print("seconds", time.perf_counter() - start)
"""
    said = subprocess.run([PYTHON, "-W", "ignore", "-c", script], capture_output=True, text=True,
                          env=os.environ | {"HOME": str(work / "home")})
    found = re.search(r"^seconds (\S+)$", said.stdout, re.M)
    if not found or "Error occurred" in said.stdout:
        sys.exit(f"Barbican's own script failed:\n{said.stdout[-2000:]}{said.stderr[-2000:]}")
    status = subprocess.run([KEYMGR, "--root", root, "--allow-network-db", "--pkcs11-module", SOFTHSM, "--from", "2026.2",
                             "--json", "kek", "status"], capture_output=True, text=True)
    good = json.loads(status.stdout)["keks"].get("good", {"live": 0})["live"]
    if good != count:
        sys.exit(f"Barbican's own script left {count - good} of {count} KEKs")
    return float(found[1])


def main():
    sql("", ["CREATE USER barbican@'%' IDENTIFIED BY 'bench'; GRANT ALL ON *.* TO barbican@'%';\n"])
    raw(0, KEY.hex())
    configure("auto")
    rate = THEIRS / theirs(THEIRS)
    print("pre-Mitaka KEKs signed anew on MariaDB with SoftHSM2: the step alone, from its first look to its last; three signatures a KEK")
    print("bare loop: as many signatures by a program in C that does nothing else; theirs: Barbican's own script, mended,",
          f"on {THEIRS} KEKs")
    print(f"{'KEKs':>9}{'step s':>9}{'KEKs/s':>9}{'bare loop/s':>13}{'ours/loop':>11}{'theirs/s':>10}{'ours/theirs':>13}"
          f"{'command s':>11}{'peak MiB':>10}{'worker MiB':>12}")
    for size in SIZES:
        turns = []
        for _ in range(5 if size <= 10000 else 1):
            fresh(size)
            turns.append((30000 / (raw(15000) + raw(15000)) / 3, *ours(SOFTHSM)))
        bare, step, whole = (statistics.median(turn[n] for turn in turns) for n in range(3))
        memory = turns[-1][3]
        print(f"{size:9}{step:9.2f}{size / step:9.0f}{bare:13.0f}{size / step / bare:11.2f}{rate:10.0f}{size / step / rate:13.1f}"
              f"{whole:11.1f}{memory.main:10.1f}{memory.child:12.1f}", flush=True)
    slow = {"P11SHIM_DELAY_US": "500", "P11SHIM_MODULE": SOFTHSM}
    times = {}
    for sessions in (1, 8):
        fresh(REMOTE)
        configure(sessions)
        times[sessions] = ours(os.environ["KEYMGR_TEST_P11SHIM"], slow)[0]
    print(f"\n{REMOTE} KEKs behind 0.5 ms a call: {REMOTE / times[1]:.0f}/s with 1 session, {REMOTE / times[8]:.0f}/s with 8, "
          f"{times[1] / times[8]:.1f} times as fast")


main()
PY
