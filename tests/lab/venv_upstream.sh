#!/bin/sh
# Makes the environment of Barbican 10.0.0, whose barbican-db-manage is the last
# one that knows the whole chain of migrations:
#
#   tests/lab/venv_upstream.sh PYTHON DIR
#
# Only barbican-db-manage works in it, not the API. Its time's setuptools and
# pip are needed to build the source packages among the pins. What is already
# there as wanted is left alone.
set -eu

[ $# = 2 ] || { echo "usage: venv_upstream.sh PYTHON DIR" >&2; exit 64; }
python=$1 dir=$2
pins=$(cd "$(dirname "$0")/../fixtures/pins" && pwd)/barbican-10.0.0-py311.txt
want=$("$python" -c 'import sys; print(sys.version)'; cat "$pins")
[ -x "$dir/bin/python" ] && [ "$(cat "$dir/.made" 2>/dev/null)" = "$want" ] && exit
echo "lab: installing barbican 10.0.0 in $dir" >&2
rm -rf "$dir"
pip() { "$dir/bin/python" -m pip install --disable-pip-version-check --no-input -q "$@"; }
{
    "$python" -m venv "$dir" &&
        pip 'pip<24.1' 'setuptools<58' 'wheel<0.46' 'pbr==5.10.0' &&
        pip --no-build-isolation --no-deps -r "$pins"
} >"$dir.log" 2>&1 || { tail -n 20 "$dir.log" >&2; echo "lab: pip failed ($dir.log)" >&2; exit 1; }
printf '%s\n' "$want" >"$dir/.made"
