"""Serves a real Barbican from the files below a root directory.

    <venv>/bin/python serve_barbican.py --root DIR --home DIR
        [--set group.option=value ...]

Run it with the Python of the environment Barbican is installed in. It serves
DIR/etc/barbican/barbican-api-paste.ini on a free port of the loopback
interface, and reads DIR/etc/barbican/barbican.conf byte for byte as it is,
through --home. A file that oslo.config reads after it holds what a server
outside a chroot needs (paths below the root, no message bus, no policy of the
old time, an origin for cors to allow) and what --set says. There is no Keystone: the authtoken filter of the
paste file lets every request pass with the identity headers the client sends.

Prints "ready PORT VERSION" when requests are answered, and ends when its
standard input ends, so that it never outlives the test that started it.
"""
import argparse
import importlib.metadata
import os
import pathlib
import shutil
import sys
import threading
import warnings
from wsgiref import simple_server

SQLITE = "sqlite:///"
SERVERS = ("mysql+pymysql://", "postgresql+psycopg2://")


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=pathlib.Path, required=True)
    parser.add_argument("--home", type=pathlib.Path, required=True)
    parser.add_argument("--set", action="append", default=[], metavar="G.O=V")
    args = parser.parse_args()
    args.root, args.home = args.root.resolve(), args.home.resolve()
    return args


def database_below(root, conf):
    """What [database] connection says, with the root put before the path of a file."""
    from oslo_config import cfg

    options = cfg.ConfigOpts()
    options.register_opt(cfg.StrOpt("connection"), "database")
    options(["--config-file", str(conf)], project="lab")
    url = options.database.connection
    if url and url.startswith(SERVERS):
        return url.replace("$", "$$")  # it is written into a file of options again
    if not url or not url.startswith(SQLITE + "/"):
        sys.exit(f"{conf}: [database] connection is none that is served here")
    return SQLITE + str(root) + url[len(SQLITE):]


def lay_out_home(args):
    """Makes HOME/.barbican, the first place where Barbican looks."""
    conf = args.root / "etc/barbican/barbican.conf"
    base = args.home / ".barbican"
    extra = base / "barbican.conf.d"
    extra.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(conf, base / "barbican.conf")
    settings = [
        f"database.connection={database_below(args.root, conf)}",
        f"DEFAULT.log_file={args.home / 'barbican.log'}",
        "DEFAULT.transport_url=fake://",
        "cors.allowed_origin=https://dashboard.example.org",
        "oslo_policy.policy_file=none.yaml",
        "oslo_policy.enforce_new_defaults=false",
        "oslo_policy.enforce_scope=false",
        *args.set,
    ]
    lines = []
    for setting in settings:
        name, value = setting.split("=", 1)
        group, option = name.split(".", 1)
        lines += [f"[{group}]", f"{option} = {value}"]
    (extra / "lab.conf").write_text("\n".join(lines) + "\n")
    os.environ["HOME"] = str(args.home)
    os.chdir(args.home)  # a database that is not configured would be made here


def believe_headers():
    from keystonemiddleware import auth_token

    auth_token.filter_factory = lambda global_conf, **local: lambda app: app


class Quiet(simple_server.WSGIRequestHandler):
    def log_message(self, *args):
        pass


def main():
    args = arguments()
    lay_out_home(args)
    warnings.simplefilter("ignore")
    # Only now: importing barbican reads its configuration.
    from paste import deploy

    believe_headers()
    paste = args.root / "etc/barbican/barbican-api-paste.ini"
    app = deploy.loadapp(f"config:{paste}", name="main")
    server = simple_server.make_server("127.0.0.1", 0, app, handler_class=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print("ready", server.server_port, importlib.metadata.version("barbican"), flush=True)
    sys.stdin.buffer.read()
    server.shutdown()


if __name__ == "__main__":
    main()
