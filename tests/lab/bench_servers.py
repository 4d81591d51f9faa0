"""Private servers for benchmarks."""

import os, pathlib, socket, subprocess

HERE = pathlib.Path(__file__).resolve().parent
os.environ["PGOPTIONS"] = "-c client_min_messages=warning"


class Server:
    """A private server; its administrator comes by the socket without a password."""

    def __init__(self, kind, work):
        self.kind, self.dir = kind, work / kind
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        subprocess.run([HERE / "server.sh", "start", kind, self.dir, str(self.port)], check=True)
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
