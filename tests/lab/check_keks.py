"""Verifies in the token itself how each p11_crypto KEK of a database is signed.

    python3 check_keks.py MODULE TOKEN PIN DATABASE.sqlite

A second opinion that shares nothing with keymgr-upgrade: ctypes on the PKCS#11
module, sqlite3 on the database. Prints a JSON object with the number of KEKs
signed the "new" way (over iv and wrapped key, as from Mitaka on), the "old" way
(over the wrapped key alone), or "neither".
"""
import base64
import collections
import ctypes
import json
import sqlite3
import sys

ULONG = ctypes.c_ulong
CKF_SERIAL_SESSION, CKU_USER = 4, 1
CKO_SECRET_KEY, CKA_CLASS, CKA_LABEL = 4, 0, 3
CKM_SHA256_HMAC, CKR_SIGNATURE_INVALID = 0x251, 0xC0
P11 = "barbican.plugin.crypto.p11_crypto.P11CryptoPlugin"


class Attribute(ctypes.Structure):
    _fields_ = [("type", ULONG), ("value", ctypes.c_void_p), ("length", ULONG)]


class Mechanism(ctypes.Structure):
    _fields_ = [("mechanism", ULONG), ("parameter", ctypes.c_void_p), ("length", ULONG)]


class Token:
    def __init__(self, module, label, pin):
        self.lib = ctypes.CDLL(module)
        self.call("C_Initialize", None)
        slots, count = (ULONG * 64)(), ULONG(64)
        self.call("C_GetSlotList", ctypes.c_ubyte(1), slots, ctypes.byref(count))
        slot = next(s for s in slots[:count.value] if self.label(s) == label)
        self.session = ULONG()
        self.call("C_OpenSession", ULONG(slot), ULONG(CKF_SERIAL_SESSION), None, None,
                  ctypes.byref(self.session))
        self.call("C_Login", self.session, ULONG(CKU_USER), pin.encode(), ULONG(len(pin)))

    def call(self, name, *args):
        result = getattr(self.lib, name)(*args)
        if result:
            sys.exit(f"{name}: {result:#x}")

    def label(self, slot):
        info = ctypes.create_string_buffer(512)  # CK_TOKEN_INFO begins with the label
        self.call("C_GetTokenInfo", ULONG(slot), info)
        return info.raw[:32].decode().rstrip()

    def key(self, label):
        kind, name = ULONG(CKO_SECRET_KEY), ctypes.create_string_buffer(label.encode())
        template = (Attribute * 2)(
            (CKA_CLASS, ctypes.cast(ctypes.byref(kind), ctypes.c_void_p), ctypes.sizeof(kind)),
            (CKA_LABEL, ctypes.cast(name, ctypes.c_void_p), len(label.encode())))
        found, count = (ULONG * 2)(), ULONG()
        self.call("C_FindObjectsInit", self.session, template, ULONG(2))
        self.call("C_FindObjects", self.session, found, ULONG(2), ctypes.byref(count))
        self.call("C_FindObjectsFinal", self.session)
        if count.value != 1:
            sys.exit(f"{count.value} keys with label {label}")
        return ULONG(found[0])

    def verifies(self, key, data, signature):
        mechanism = Mechanism(CKM_SHA256_HMAC, None, 0)
        self.call("C_VerifyInit", self.session, ctypes.byref(mechanism), key)
        result = self.lib.C_Verify(self.session, data, ULONG(len(data)),
                                   signature, ULONG(len(signature)))
        if result not in (0, CKR_SIGNATURE_INVALID):
            sys.exit(f"C_Verify: {result:#x}")
        return result == 0


def main():
    module, label, pin, path = sys.argv[1:]
    token = Token(module, label, pin)
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    count = collections.Counter(new=0, old=0, neither=0)
    for (text,) in database.execute(
            "SELECT plugin_meta FROM kek_data WHERE plugin_name = ?", (P11,)):
        meta = json.loads(text)
        key = token.key(meta["hmac_label"])
        iv, wrapped, signature = (base64.b64decode(meta[k]) for k in ("iv", "wrapped_key", "hmac"))
        if token.verifies(key, iv + wrapped, signature):
            count["new"] += 1
        elif token.verifies(key, wrapped, signature):
            count["old"] += 1
        else:
            count["neither"] += 1
    print(json.dumps(count))


if __name__ == "__main__":
    main()
