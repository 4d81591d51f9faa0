"""Prints the table that ends the demo.

    python3 demo_table.py BEFORE.json AFTER.json OLD_ETC NEW_ETC

The JSON files are what `keymgr-upgrade --json check` said; the directories hold
barbican.conf and barbican-api-paste.ini. Fails if something is not as it must
be after the upgrade.
"""
import configparser
import json
import pathlib
import sys

FILTERS = ("cors", "http_proxy_to_wsgi", "microversion", "request_id")
OPTIONS = (("DEFAULT", "sql_connection"), ("database", "connection"),
           ("p11_crypto_plugin", "encryption_mechanism"))


def ini(path):
    parser = configparser.RawConfigParser(strict=False, default_section="none")
    parser.read(path)
    return parser


def total(counts, wanted=None):
    return sum(c["live"] + c["deleted"] for name, c in counts.items() if wanted in (None, name))


def column(facts, etc):
    facts, etc = json.loads(pathlib.Path(facts).read_text()), pathlib.Path(etc)
    keks, secrets = facts["keks"], facts["secrets"]
    good, old = total(keks, "good"), total(keks, "old")
    rows = {
        "release of the data": facts["from"],
        "schema revision": facts["revision"],
        "KEKs good / old / unreadable": f"{good} / {old} / {total(keks) - good - old}",
        "secrets proved readable": f"{total(secrets, 'proved')} of {total(secrets)}",
    }
    paste, conf = ini(etc / "barbican-api-paste.ini"), ini(etc / "barbican.conf")
    pipelines = [paste[name]["pipeline"].split() for name in paste.sections()
                 if name.startswith("pipeline:")]
    for name in FILTERS:
        rows[f"pipelines with {name}"] = f"{sum(name in p for p in pipelines)} of {len(pipelines)}"
    for group, option in OPTIONS:
        value = conf.get(group, option, fallback=None)
        label = option if len(group) > 8 else f"[{group}] {option}"
        rows[label] = "-" if value is None else "set" if "connection" in option else value
    return rows


def main():
    before, after, old_etc, new_etc = sys.argv[1:]
    before, after = column(before, old_etc), column(after, new_etc)
    print(f"{'':36}{'before':16}after")
    for name, value in after.items():
        print(f"{name:36}{before[name]:16}{value}")
    pipelines = after["pipelines with cors"].split()[-1]
    must = {
        "schema revision": "8c74e2d7f1ff",
        "KEKs good / old / unreadable": "6 / 0 / 0",
        "secrets proved readable": "36 of 36",
        "[database] connection": "set",
        **{f"pipelines with {name}": f"{pipelines} of {pipelines}" for name in FILTERS},
    }
    wrong = [name for name, value in must.items() if after[name] != value]
    return f"demo: not as it must be: {', '.join(wrong)}" if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
