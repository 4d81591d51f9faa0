# The beginning of a benchmark with servers of its own, sourced: `here` is this
# directory, `work` one below BENCH_DIR (default /dev/shm, else TMPDIR) that is
# removed at the end, with the servers in it stopped.
here=$(cd "$(dirname "$0")" && pwd)
: "${KEYMGR:?}" "${KEYMGR_TEST_VENV_BARBICAN:?}"
base=${BENCH_DIR:-/dev/shm}
[ -d "$base" ] || base=${TMPDIR:-/tmp}
work=$(mktemp -d "$base/keymgr-bench.XXXXXX")
chmod 755 "$work"
end() {
    for kind in postgresql mariadb; do "$here/server.sh" stop $kind "$work/$kind" || true; done
    rm -rf "$work"
}
trap end EXIT
