"""Looks at PostgreSQL and MySQL databases with SQLAlchemy's own eyes.

    <venv>/bin/python compare_schema.py URL_A URL_B     prints what differs
    <venv>/bin/python compare_schema.py --serve         answers questions

Run it with the Python of an environment Barbican 23.0.0 is installed in; it
shares nothing with keymgr-upgrade. A served question is one line of JSON,
[WHAT, URL, ...], and so is its answer:

    ["rows", URL]           every row of every table, values as text
    ["inserts", URL]        INSERT statements that put rows into every table
    ["schema", URL, URL]    what differs, without the rows
    ["all", URL, URL]       what differs, as printed
    ["copy", URL, URL]      fills the empty tables of the second from the first

Not told, because it depends on the SQLAlchemy or the server that made a table:
names of constraints and indexes, CHECKs, the order of columns.
"""
import collections
import datetime
import hashlib
import json
import re
import sys

import sqlalchemy
from sqlalchemy import types
from sqlalchemy.dialects import mysql

ROWS = 4
MOMENT = re.compile(r"'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?'")
UNORDERED = (".uniques", ".indexes", ".references")


def connect(url):
    return sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool)


def columns_of(inspector, engine, table):
    told = {}
    for column in inspector.get_columns(table):
        kind = column["type"].compile(engine.dialect)
        if getattr(column["type"], "charset", None) or getattr(column["type"], "collation", None):
            raise ValueError(f"{table}.{column['name']} has a character set of its own")
        default = column["default"]
        if default is not None:
            default = str(default).split("::")[0]
            default = None if default == "NULL" else MOMENT.sub("'the moment it was made'", default)
        told[column["name"]] = [kind, "NULL" if column["nullable"] else "NOT NULL",
                                *([] if default is None else [f"DEFAULT {default}"])]
    return told


def keys_of(inspector, table, unique_constraints):
    """Uniques and plain indexes by columns, each as often as it is there."""
    uniques, plain = [], []
    for index in inspector.get_indexes(table):
        if "duplicates_constraint" not in index:
            (uniques if index["unique"] else plain).append(index["column_names"])
    if unique_constraints:
        uniques += [u["column_names"] for u in inspector.get_unique_constraints(table)]
    references = [f"{', '.join(f['constrained_columns'])} -> {f['referred_table']}"
                  f"({', '.join(f['referred_columns'])})"
                  + "".join(f" {k} {v}" for k, v in sorted(f["options"].items()))
                  for f in inspector.get_foreign_keys(table)]
    return {"uniques": sorted(uniques), "indexes": sorted(plain), "references": sorted(references)}


def schema(engine):
    with engine.connect() as connection:
        return schema_by(sqlalchemy.inspect(connection), engine)


def schema_by(inspector, engine):
    is_mysql = engine.dialect.name != "postgresql"
    told = {}
    for table in inspector.get_table_names():
        told[table] = {
            "columns": columns_of(inspector, engine, table),
            "primary key": inspector.get_pk_constraint(table)["constrained_columns"],
            # MySQL keeps a unique constraint as an index; it is told once.
            **keys_of(inspector, table, unique_constraints=not is_mysql),
        }
        if is_mysql:
            options = inspector.get_table_options(table)
            told[table]["made as"] = " ".join(sorted(
                f"{k.removeprefix('mysql_')}={v}" for k, v in options.items()
                if k in ("mysql_engine", "mysql_default charset", "mysql_collate")))
    told = {"tables": told, "views": inspector.get_view_names()}
    if not is_mysql:
        told["enums"] = {e["name"]: e["labels"] for e in inspector.get_enums()}
        told["sequences"] = inspector.get_sequence_names()
    return told


def as_text(value):
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, datetime.datetime):
        return value.isoformat(" ")
    if isinstance(value, (bytes, memoryview)):
        raise ValueError("a binary value: every column of Barbican's is text")
    return str(value)


def rows(engine):
    told = {}
    quote = engine.dialect.identifier_preparer.quote
    with engine.connect() as connection:
        for table in sqlalchemy.inspect(engine).get_table_names():
            result = connection.execute(sqlalchemy.text(f"SELECT * FROM {quote(table)}"))
            names = list(result.keys())
            found = [{n: as_text(v) for n, v in zip(names, row)} for row in result]
            told[table] = sorted(found, key=lambda r: json.dumps(r, sort_keys=True))
    return told


def row_id(table, n):
    """The same key for a row under the old and the new name of its table."""
    table = {"tenants": "projects", "tenant_secret": "project_secret"}.get(table, table)
    digest = hashlib.sha256(f"{table} {n}".encode()).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-4{digest[13:16]}-a{digest[17:20]}-{digest[20:32]}"


def value(table, column, parent, n, wide):
    """One value; the last row holds NULL wherever that is allowed."""
    name, kind, last = column.name, column.type, n == ROWS - 1
    if name == "id":
        return row_id(table, n)
    if name in ("creator_only", "project_access"):
        return n >= ROWS // 2            # deleted takes turns: all four pairs occur
    if last and column.nullable and name not in ("secret_id", "project_id", "container_id"):
        return None
    if parent:
        return row_id(parent, n)
    if name == "project_id" or name == "tenant_id":
        return row_id("projects", n)
    if name == "container_id":
        return row_id("containers", n)
    if name in ("external_id", "keystone_id"):
        return hashlib.sha256(f"project {n}".encode()).hexdigest()[:32]
    if isinstance(kind, types.Enum):
        return kind.enums[n % len(kind.enums)]
    if isinstance(kind, types.Boolean) or \
            isinstance(kind, mysql.TINYINT) and kind.display_width == 1:
        return bool(n % 2)
    if isinstance(kind, types.Integer):
        return n * 1000 + 7
    if isinstance(kind, types.DateTime):
        return f"201{n}-0{n + 1}-03 04:05:0{n}"
    if isinstance(kind, types.CHAR) or kind.length == 64:
        return hashlib.sha256(f"{table} {n}".encode()).hexdigest()
    if name == "status":
        return ("ACTIVE", "PENDING", "ERROR", "ACTIVE")[n]
    odd = "gr\u00fcn 'quoted' \"twice\" back\\slash %s {}" + ("\U0001f511" if wide else "")
    if isinstance(kind, types.Text):
        return json.dumps({name: odd, "iv": f"{n}"}, ensure_ascii=False) + "\n\t" + "x" * 7000
    return f"{n} {name} {odd}"[:kind.length]


def literal(value, is_mysql):
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, int):
        return str(value)
    text = value.replace("'", "''")
    if is_mysql:
        text = text.replace("\\", "\\\\")
    return f"'{text}'"


def inserts(engine):
    meta = sqlalchemy.MetaData()
    meta.reflect(engine)
    is_mysql = engine.dialect.name != "postgresql"
    quote = engine.dialect.identifier_preparer.quote
    statements = []
    for table in meta.sorted_tables:
        if table.name == "alembic_version":
            continue
        parents = {k.parent.name: k.column.table.name for k in table.foreign_keys}
        prefix = "" if is_mysql else "public."
        names = ", ".join(quote(c.name) for c in table.columns)
        for n in range(ROWS):
            values = [value(table.name, c, parents.get(c.name), n, not is_mysql)
                      for c in table.columns]
            shown = ", ".join(literal(v, is_mysql) for v in values)
            statements.append(f"INSERT INTO {prefix}{quote(table.name)} ({names}) VALUES ({shown});")
    return "\n".join(statements) + "\n"


def copy(source, target):
    """Every row of the first into the second, whose tables are the same but empty."""
    meta = sqlalchemy.MetaData()
    meta.reflect(target)
    old = sqlalchemy.MetaData()
    old.reflect(source)
    with source.connect() as reading, target.begin() as writing:
        for table in meta.sorted_tables:
            found = [dict(row._mapping) for row in reading.execute(old.tables[table.name].select())]
            booleans = [c.name for c in table.columns if isinstance(c.type, types.Boolean)]
            for row in found:
                row.update({name: bool(row[name]) for name in booleans})
            if found and table.name != "alembic_version":
                writing.execute(table.insert(), found)


def counted(things):
    """What a list holds how often: the order of keys and rows does not matter."""
    return collections.Counter(json.dumps(x, sort_keys=True, ensure_ascii=False) for x in things)


def differ(a, b, path=""):
    """What is in a only (-), in b only (+), or not the same (a != b)."""
    if isinstance(a, dict) and isinstance(b, dict):
        for name in sorted(a.keys() | b.keys()):
            here = f"{path}.{name}" if path else name
            if name not in b:
                yield f"- {here}"
            elif name not in a:
                yield f"+ {here}"
            else:
                yield from differ(a[name], b[name], here)
    elif a != b and isinstance(a, list) and (
            path.endswith(UNORDERED) or path.startswith("rows.")):
        left, right = counted(a), counted(b)
        yield from (f"- {path}: {x}" for x in sorted((left - right).elements()))
        yield from (f"+ {path}: {x}" for x in sorted((right - left).elements()))
    elif a != b:
        yield f"{path}: {json.dumps(a)} != {json.dumps(b)}"


def answer(question):
    what, *urls = question
    engines = [connect(url) for url in urls]
    if what in ("rows", "inserts", "copy"):
        return {"rows": rows, "inserts": inserts, "copy": copy}[what](*engines)
    told = [schema(engine) for engine in engines]
    for one, engine in zip(told, engines):
        if what == "all":
            one["rows"] = rows(engine)
        if engine.dialect.name != "postgresql":
            once(one)
    return list(differ(*told))


def once(told):
    """Each index of a MySQL schema once. The server makes an index for a foreign key
    and drops it when another one does as well, but not if a dump has been loaded
    in between: how many equal ones there are is told by a database's whole past."""
    for table in told["tables"].values():
        table["indexes"] = [list(c) for c in sorted({tuple(c) for c in table["indexes"]})]


def main():
    if sys.argv[1:] == ["--serve"]:
        for line in sys.stdin:
            print(json.dumps(answer(json.loads(line))), flush=True)
        return 0
    differences = answer(["all", *sys.argv[1:]])
    print(*differences, sep="\n")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
