"""Says how the p11_crypto KEKs of a database are signed, by the token itself.

    python3 check_keks.py MODULE TOKEN PIN DATABASE.sqlite

A second opinion that shares nothing with keymgr-upgrade: ctypes on the PKCS#11
module (tests/p11shim/p11.py), sqlite3 on the database. Prints a JSON object with
the number of KEKs signed the "new" way (over iv and wrapped key, as from Mitaka
on), the "old" way (over the wrapped key alone), or "neither".
"""
import base64
import collections
import json
import pathlib
import sqlite3
import subprocess
import sys

P11 = "barbican.plugin.crypto.p11_crypto.P11CryptoPlugin"
TOOL = pathlib.Path(__file__).parents[1] / "p11shim/p11.py"


def hmac(token, label, data):
    argv = [sys.executable, TOOL, *token, "hmac", label, data.hex()]
    return bytes.fromhex(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)


def main():
    *token, path = sys.argv[1:]
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    count = collections.Counter(new=0, old=0, neither=0)
    for (text,) in database.execute(
            "SELECT plugin_meta FROM kek_data WHERE plugin_name = ?", (P11,)):
        meta = json.loads(text)
        iv, wrapped, signature = (base64.b64decode(meta[k]) for k in ("iv", "wrapped_key", "hmac"))
        if signature == hmac(token, meta["hmac_label"], iv + wrapped):
            count["new"] += 1
        elif signature == hmac(token, meta["hmac_label"], wrapped):
            count["old"] += 1
        else:
            count["neither"] += 1
    print(json.dumps(count))


if __name__ == "__main__":
    main()
