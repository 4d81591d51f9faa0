"""Serves a real Barbican on a free port of the loopback interface.

    <venv>/bin/python serve_barbican.py --home DIR --conf barbican.conf
        [--paste FILE] [--no-keystone] [--set group.option=value ...]

Run it with the Python of the environment Barbican is installed in. The given
barbican.conf is read byte for byte as it is, through DIR/.barbican; what --set
adds goes to a file of its own that oslo.config reads after it. With
--no-keystone the authtoken filter of the paste file lets every request pass
with the identity headers the client sends; the paste file itself stays as it
is. Prints "ready PORT VERSION" when requests are answered, and ends when its
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


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=pathlib.Path, required=True)
    parser.add_argument("--conf", type=pathlib.Path, required=True)
    parser.add_argument("--paste", type=pathlib.Path,
                        default=pathlib.Path(__file__).with_name("serve-paste.ini"))
    parser.add_argument("--no-keystone", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="G.O=V")
    return parser.parse_args()


def lay_out_home(args):
    """Makes HOME/.barbican, the first place where Barbican looks."""
    base = args.home.resolve() / ".barbican"
    extra = base / "barbican.conf.d"
    extra.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(args.conf, base / "barbican.conf")
    lines = []
    for setting in args.set:
        name, value = setting.split("=", 1)
        group, option = name.split(".", 1)
        lines += [f"[{group}]", f"{option} = {value}"]
    (extra / "lab.conf").write_text("\n".join(lines) + "\n")
    os.environ["HOME"] = str(args.home.resolve())


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

    if args.no_keystone:
        believe_headers()
    app = deploy.loadapp(f"config:{args.paste.resolve()}", name="main")
    server = simple_server.make_server("127.0.0.1", 0, app, handler_class=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print("ready", server.server_port, importlib.metadata.version("barbican"), flush=True)
    sys.stdin.buffer.read()
    server.shutdown()


if __name__ == "__main__":
    main()
