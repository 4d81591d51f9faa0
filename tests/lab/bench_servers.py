"""Private servers for benchmarks, and a large database on them."""

import json, os, pathlib, socket, subprocess

HERE = pathlib.Path(__file__).resolve().parent
os.environ["PGOPTIONS"] = "-c client_min_messages=warning"


class Server:
    """A private server; its administrator comes by the socket without a password. `options` go to the server."""

    def __init__(self, kind, work, *options):
        self.kind, self.dir = kind, work / kind
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        subprocess.run([HERE / "server.sh", "start", kind, self.dir, str(self.port), *options], check=True)
        if kind == "mariadb":
            self.sql("", "CREATE USER barbican@'%' IDENTIFIED BY 'bench'; GRANT ALL ON *.* TO barbican@'%'")
        else:
            self.sql("postgres", "CREATE ROLE barbican LOGIN SUPERUSER PASSWORD 'bench'")

    def url(self, name):
        scheme = "mysql+pymysql" if self.kind == "mariadb" else "postgresql+psycopg2"
        return f"{scheme}://barbican:bench@127.0.0.1:{self.port}/{name}"

    def client(self, *more):
        if self.kind == "mariadb":
            return ["mariadb", "--no-defaults", "-u", "root", "-S", self.dir / "socket", *more]
        return ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h", self.dir, "-p", str(self.port), *more]

    def sql(self, database, text):
        subprocess.run(self.client(database), input=text, text=True, check=True, stdout=subprocess.DEVNULL)

    def ask(self, text):
        """The first column of a query on the database `b`."""
        how = ["--batch", "--skip-column-names"] if self.kind == "mariadb" else ["-A", "-t"]
        said = subprocess.run(self.client(*how, "b"), input=text, text=True, check=True, stdout=subprocess.PIPE)
        return [line.split("\t")[0] for line in said.stdout.splitlines()]

    def keep(self, work):
        """Keeps the database `b`, for `back`."""
        if self.kind == "postgresql":
            self.sql("postgres", "ALTER DATABASE b RENAME TO kept")
            return
        with open(work / "kept.sql", "wb") as file:
            argv = ["mariadb-dump", "--no-defaults", "-u", "root", "-S", self.dir / "socket", "b"]
            subprocess.run(argv, check=True, stdout=file)

    def back(self, work):
        """The database `b` as it was kept."""
        if self.kind == "postgresql":
            self.sql("postgres", "DROP DATABASE IF EXISTS b WITH (FORCE)")
            self.sql("postgres", "CREATE DATABASE b TEMPLATE kept")
            return
        self.sql("", "DROP DATABASE IF EXISTS b; CREATE DATABASE b CHARACTER SET utf8")
        with open(work / "kept.sql", "rb") as file:
            subprocess.run(self.client("b"), stdin=file, check=True)

    def fresh(self, text):
        if self.kind == "mariadb":
            self.sql("", "DROP DATABASE IF EXISTS b; CREATE DATABASE b CHARACTER SET utf8")
            self.sql("b", text)
        else:
            self.sql("postgres", "DROP DATABASE IF EXISTS b WITH (FORCE)")
            self.sql("postgres", "CREATE DATABASE b")
            self.sql("b", text)


# A server of the size that such a database has.
LARGE = {"mariadb": ["--innodb-buffer-pool-size=1G", "--innodb-log-file-size=256M"], "postgresql": ["-c", "shared_buffers=512MB"]}
FIXTURES = HERE.parent / "fixtures"
# Of each table that knows a secret: the column that names it.
TABLES = {"secrets": "id", "encrypted_data": "secret_id", "secret_store_metadata": "secret_id"}


def liberty(server, maria):
    """The genuine Liberty database, on `maria` too where that is another server."""
    genuine = (FIXTURES / "liberty/liberty-mariadb.sql").read_text()
    maria.fresh(genuine)
    if server is maria:
        return
    server.fresh((FIXTURES / "schema/postgresql-chain-4ecde3a3a72a-liberty.sql").read_text())
    python = os.environ["KEYMGR_TEST_VENV_BARBICAN"] + "/bin/python"
    subprocess.run([python, HERE / "compare_schema.py", "--serve"], check=True, text=True, capture_output=True,
                   input=json.dumps(["copy", maria.url("b"), server.url("b")]) + "\n")


def copies(server, plugin, count):
    """Adds `count` secrets: copies of the genuine live ones of a plugin, one after the other, in all tables that know them. Their ids lie evenly
    among all that there may be, and ascend, as a restored dump has them."""
    maria = server.kind == "mariadb"
    quote = "`" if maria else '"'
    series = f"seq_1_to_{count}" if maria else f"generate_series(1, {count})"
    seq = "s.seq" if maria else "s"
    first = f"lower(lpad(hex({seq} * {2**32 // (count + 1)}), 8, '0'))" if maria else f"lpad(to_hex({seq} * {2**32 // (count + 1)}::bigint), 8, '0')"
    live = "SELECT e.secret_id FROM encrypted_data e JOIN kek_data k ON k.id = e.kek_id JOIN secrets s ON s.id = e.secret_id " \
           f"WHERE k.plugin_name LIKE '%{plugin}%' AND NOT e.deleted AND NOT s.deleted"
    genuine, = server.ask(f"SELECT count(*) FROM ({live}) q")
    text = [f"CREATE TEMPORARY TABLE genuine AS SELECT q.secret_id, row_number() OVER (ORDER BY q.secret_id) - 1 AS n FROM ({live}) q;"]

    def id_of(word):
        pieces = [f"substr(md5(concat({word}, {seq})), {at}, {n})" for at, n in ((1, 4), (5, 4), (9, 4), (13, 12))]
        return f"concat_ws('-', {first}, {', '.join(pieces)})"

    for table, key in TABLES.items():
        where = "table_schema = 'b'" if maria else "table_schema = 'public'"
        columns = server.ask(f"SELECT column_name FROM information_schema.columns WHERE {where} AND table_name = '{table}' "
                             "ORDER BY ordinal_position")
        values = [id_of(f"'{plugin}'") if c == key else id_of("t.id") if c == "id" else f"t.{quote}{c}{quote}" for c in columns]
        names = ", ".join(f"{quote}{c}{quote}" for c in columns)
        text.append(f"CREATE TEMPORARY TABLE of_{table} AS SELECT t.*, g.n FROM {table} t JOIN genuine g ON g.secret_id = t.{key};"
                    f"INSERT INTO {table} ({names}) SELECT {'STRAIGHT_JOIN' if maria else ''} {', '.join(values)} FROM {series} AS s "
                    f"JOIN of_{table} t ON t.n = {seq} % {genuine} {'' if maria else 'ORDER BY ' + seq};")
    server.sql("b", "\n".join(text))
    server.sql("b", "ANALYZE" if not maria else f"ANALYZE TABLE {', '.join(TABLES)}")
