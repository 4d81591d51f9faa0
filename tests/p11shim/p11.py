"""A second opinion for the tests: PKCS#11 by ctypes, sharing no code with the product.

  p11.py MODULE TOKEN PIN hmac LABEL HEX          the HMAC (SHA-256) of the bytes, in hex
  p11.py MODULE TOKEN PIN generic LABEL           makes a generic secret of 32 bytes
  p11.py MODULE TOKEN PIN record OPTIONS          a KEK and secrets under it, as JSON

OPTIONS is JSON: mkek, hmac (labels), wrap (mechanism name), signed ("new" or "old"), and secrets,
a list of [mechanism name, iv length, payload]; a GCM iv of 16 bytes means a padded plaintext, as
up to Liberty. The rows are laid out as barbican lays them out.
"""
import base64
import ctypes as c
import json
import os
import sys

MECHANISMS = {
    "CKM_AES_CBC": 0x1082,
    "CKM_AES_GCM": 0x1087,
    "CKM_AES_CBC_PAD": 0x1085,
    "CKM_AES_KEY_WRAP_PAD": 0x210A,
    "VENDOR_SAFENET_CKM_AES_GCM": 0x8000011C,
}
SECRET_KEY, AES, GENERIC = 4, 0x1F, 0x10


class Mechanism(c.Structure):
    _fields_ = [("number", c.c_ulong), ("parameter", c.c_void_p), ("length", c.c_ulong)]


class Attribute(c.Structure):
    _fields_ = [("type", c.c_ulong), ("value", c.c_void_p), ("length", c.c_ulong)]


class Gcm(c.Structure):
    _fields_ = [("iv", c.c_void_p), ("iv_len", c.c_ulong), ("iv_bits", c.c_ulong),
                ("aad", c.c_void_p), ("aad_len", c.c_ulong), ("tag_bits", c.c_ulong)]


class Token:
    def __init__(self, module, label, pin):
        self.lib = c.CDLL(module)
        self.call("Initialize", None)
        count = c.c_ulong()
        self.call("GetSlotList", c.c_ubyte(1), None, c.byref(count))
        slots = (c.c_ulong * count.value)()
        self.call("GetSlotList", c.c_ubyte(1), slots, c.byref(count))
        for slot in slots:
            info = c.create_string_buffer(512)
            self.call("GetTokenInfo", c.c_ulong(slot), info)
            if info.raw[:32].decode().strip() == label:
                break
        else:
            sys.exit("no token " + label)
        self.session = c.c_ulong()
        self.call("OpenSession", c.c_ulong(slot), c.c_ulong(6), None, None, c.byref(self.session))
        self.call("Login", self.session, c.c_ulong(1), pin.encode(), c.c_ulong(len(pin)))

    def call(self, name, *arguments):
        function = getattr(self.lib, "C_" + name)
        function.restype = c.c_ulong
        code = function(*arguments)
        if code:
            sys.exit("C_%s: %#x" % (name, code))

    def template(self, attributes):
        self.kept = [c.create_string_buffer(value, len(value)) for _, value in attributes]
        return (Attribute * len(attributes))(*[
            Attribute(kind, c.cast(buffer, c.c_void_p), len(buffer))
            for (kind, _), buffer in zip(attributes, self.kept)])

    def key(self, kind, label):
        template = self.template([(0, number(SECRET_KEY)), (0x100, number(kind)), (3, label.encode())])
        handle, count = c.c_ulong(), c.c_ulong()
        self.call("FindObjectsInit", self.session, template, c.c_ulong(len(template)))
        self.call("FindObjects", self.session, c.byref(handle), c.c_ulong(1), c.byref(count))
        self.call("FindObjectsFinal", self.session)
        return handle if count.value else sys.exit("no key " + label)

    def generate(self, mechanism, attributes):
        template, key = self.template(attributes), c.c_ulong()
        self.call("GenerateKey", self.session, c.byref(Mechanism(mechanism, None, 0)), template,
                  c.c_ulong(len(template)), c.byref(key))
        return key

    def hmac(self, label, data):
        out, length = c.create_string_buffer(64), c.c_ulong(64)
        self.call("SignInit", self.session, c.byref(Mechanism(0x251, None, 0)), self.key(GENERIC, label))
        self.call("Sign", self.session, data, c.c_ulong(len(data)), out, c.byref(length))
        return out.raw[:length.value]

    def wrap(self, name, iv, mkek, key):
        parameter = c.create_string_buffer(iv, len(iv)) if iv else None
        mechanism = Mechanism(MECHANISMS[name], c.cast(parameter, c.c_void_p), len(iv or b""))
        out, length = c.create_string_buffer(128), c.c_ulong(128)
        self.call("WrapKey", self.session, c.byref(mechanism), mkek, key, out, c.byref(length))
        return out.raw[:length.value]

    def encrypt(self, name, iv, key, data):
        buffer = c.create_string_buffer(iv, len(iv))
        gcm = Gcm(c.cast(buffer, c.c_void_p), len(iv), len(iv) * 8, None, 0, 128)
        if name == "CKM_AES_CBC":
            mechanism = Mechanism(MECHANISMS[name], c.cast(buffer, c.c_void_p), len(iv))
        else:
            mechanism = Mechanism(MECHANISMS[name], c.cast(c.byref(gcm), c.c_void_p), c.sizeof(gcm))
        out, length = c.create_string_buffer(len(data) + 64), c.c_ulong(len(data) + 64)
        self.call("EncryptInit", self.session, c.byref(mechanism), key)
        self.call("Encrypt", self.session, data, c.c_ulong(len(data)), out, c.byref(length))
        return out.raw[:length.value]


def number(value):
    return value.to_bytes(8, sys.byteorder)


def padded(data):
    count = 16 - len(data) % 16
    return data + bytes([count]) * count


def text(data):
    return base64.b64encode(data).decode()


def record(token, options):
    yes, no = b"\1", b"\0"
    kek = token.generate(0x1080, [
        (0, number(SECRET_KEY)), (0x100, number(AES)), (0x161, number(32)), (1, no), (2, yes),
        (0x103, yes), (0x104, yes), (0x105, yes), (0x162, yes)])
    iv = os.urandom(16) if options["wrap"] == "CKM_AES_CBC_PAD" else None
    wrapped = token.wrap(options["wrap"], iv, token.key(AES, options["mkek"]), kek)
    signed = wrapped if options["signed"] == "old" else (iv or b"") + wrapped
    meta = {"iv": iv and text(iv), "wrapped_key": text(wrapped),
            "hmac": text(token.hmac(options["hmac"], signed)),
            "mkek_label": options["mkek"], "hmac_label": options["hmac"],
            "key_wrap_mechanism": options["wrap"]}
    secrets = []
    for name, length, payload in options["secrets"]:
        data, iv = payload.encode(), os.urandom(length)
        if name == "CKM_AES_CBC" or length == 16:
            data = padded(data)
        secrets.append({"cypher_text": text(token.encrypt(name, iv, kek, data)),
                        "iv": text(iv), "mechanism": name})
    return {"plugin_meta": json.dumps(meta, separators=(",", ":")), "secrets": secrets}


def main():
    module, label, pin, command = sys.argv[1:5]
    token = Token(module, label, pin)
    if command == "hmac":
        print(token.hmac(sys.argv[5], bytes.fromhex(sys.argv[6])).hex())
    elif command == "generic":
        yes = b"\1"
        token.generate(0x350, [
            (0, number(SECRET_KEY)), (0x100, number(GENERIC)), (0x161, number(32)), (1, yes),
            (2, yes), (0x103, yes), (0x108, yes), (0x10A, yes), (3, sys.argv[5].encode())])
    elif command == "record":
        print(json.dumps(record(token, json.loads(sys.argv[5]))))


main()
