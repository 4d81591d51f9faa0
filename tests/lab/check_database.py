"""Compares an upgraded SQLite database with what it was and what it must be.

    python3 check_database.py BEFORE.sqlite AFTER.sqlite EXPECTED.sql REVISION

EXPECTED.sql is the schema a fresh installation of the target release has. Not
compared is what depends on the SQLAlchemy that made a table, with the same
models: the order of its columns, the names of constraints, the CHECKs that
versions before 1.4 put on booleans and on the type of a container, and the
primary key of alembic_version. Every row of BEFORE must be in
AFTER with the same values of the same types, save for what the upgrade is for:
the signature of a p11_crypto KEK, the mechanism of its secrets' payloads, and
the revision. Shares nothing with keymgr-upgrade. Prints each difference, then a
line of counts; exits 1 if there is a difference.
"""
import json
import re
import sqlite3
import sys

differences = []
MADE_BY_SQLALCHEMY = re.compile(
    r"CHECK\(\w+ IN\(0,1\)\)"
    r"|CHECK\(type IN\('generic','rsa','dsa','certificate'\)\)"
    r"|PRIMARY KEY\(version_num\)")


def clauses(sql):
    """The column and constraint clauses of a CREATE TABLE, in no order."""
    body = sql[sql.index("(") + 1:sql.rindex(")")]
    parts, depth, quote, start = [], 0, None, 0
    for at, char in enumerate(body):
        if quote:
            quote = None if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in "()":
            depth += 1 if char == "(" else -1
        elif char == "," and not depth:
            parts.append(body[start:at])
            start = at + 1
    parts.append(body[start:])
    tidy = (re.sub(r"\s*([(),])\s*", r"\1", " ".join(p.split())) for p in parts)
    bare = (re.sub(r'^CONSTRAINT "?\w+"? ', "", clause) for clause in tidy)
    return sorted(clause for clause in bare if not MADE_BY_SQLALCHEMY.fullmatch(clause))


def shape(database):
    """Every table as its clauses, every index as table, columns, uniqueness."""
    shape = {}
    for name, sql in database.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'table'"
            " AND name NOT LIKE 'sqlite_%'").fetchall():
        shape["table " + name] = clauses(sql)
        for row in database.execute(f'PRAGMA index_list("{name}")').fetchall():
            index, unique, origin = row[1:4]
            if origin == "c":
                columns = [r[2] for r in database.execute(f'PRAGMA index_info("{index}")')]
                shape["index " + index] = [name, unique, columns]
    for kind, name in database.execute(
            "SELECT type, name FROM sqlite_master WHERE type NOT IN ('table', 'index')"):
        shape[f"{kind} {name}"] = []
    return shape


def compare_schema(after, expected):
    want = sqlite3.connect(":memory:")
    want.executescript(open(expected, encoding="utf-8").read())
    got, want = shape(after), shape(want)
    for name in sorted(got.keys() | want.keys()):
        if got.get(name) != want.get(name):
            differences.append(f"{name}: is {got.get(name)}, must be {want.get(name)}")
    return len(want)


def rows(database, table, columns):
    """Rows by id, each value with its storage class (text is not a blob)."""
    names = ", ".join(f'"{c}", typeof("{c}")' for c in columns)
    return {row[0]: dict(zip(columns, zip(row[1::2], row[2::2])))
            for row in database.execute(f'SELECT id, {names} FROM "{table}"')}


def meant_to_change(table, column, old, new):
    """A p11 value that gained its new signature, or its mechanism, only."""
    field = {("kek_data", "plugin_meta"): "hmac",
             ("encrypted_data", "kek_meta_extended"): "mechanism"}.get((table, column))
    if not field or old[1] != "text" or new[1] != "text":
        return False
    try:
        old, new = json.loads(old[0]), json.loads(new[0])
    except ValueError:
        return False
    return bool(new.pop(field, None)) and (old.pop(field, None) or field == "mechanism") \
        and old == new


def compare_rows(before, after):
    kept = changed = 0
    tables = [r[0] for r in before.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")]
    tables.remove("alembic_version")
    for table in tables:
        columns = [r[1] for r in before.execute(f'PRAGMA table_info("{table}")')]
        present = [r[1] for r in after.execute(f'PRAGMA table_info("{table}")')]
        for gone in set(columns) - set(present):
            differences.append(f"{table}.{gone} is gone")
        columns = [c for c in columns if c in present]
        was, now = rows(before, table, columns), rows(after, table, columns)
        for key in was.keys() ^ now.keys():
            differences.append(f"{table} {key} is {'gone' if key in was else 'new'}")
        for key in was.keys() & now.keys():
            kept += 1
            for column in columns:
                old, new = was[key][column], now[key][column]
                if old != new:
                    changed += 1
                    if not meant_to_change(table, column, old, new):
                        differences.append(f"{table} {key} {column}: was {old}, is {new}")
    return kept, changed


def main():
    before, after, expected, revision = sys.argv[1:]
    before = sqlite3.connect(f"file:{before}?mode=ro&immutable=1", uri=True)
    after = sqlite3.connect(f"file:{after}?mode=ro", uri=True)
    objects = compare_schema(after, expected)
    kept, changed = compare_rows(before, after)
    if after.execute("SELECT * FROM alembic_version").fetchall() != [(revision,)]:
        differences.append("alembic_version is not one row " + revision)
    for pragma in ("integrity_check", "foreign_key_check"):
        found = after.execute(f"PRAGMA {pragma}").fetchall()
        if found not in ([], [("ok",)]):
            differences.append(f"{pragma}: {found}")
    for line in differences:
        print("DIFFERENT", line)
    print(json.dumps({"objects": objects, "rows": kept, "values_changed": changed}))
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
