"""Reads a deployment's secrets, containers, orders and ACLs through Barbican.

    python3 read_refs.py PORT FIXTURE REFS.tsv [REFS.tsv ...]

FIXTURE is the database as it was before the upgrade: it says what must be there.
It is an SQLite file, for which nothing but Python is needed, or the URL of one on
a server, for which SQLAlchemy and the driver are. The REFS say which bytes must
come out (columns kind, project, ref, payload; a secretbin payload is base64).
Prints one line for each thing that is wrong, then a line of counts; exits 1 if
anything is.
"""
import base64
import collections
import json
import sqlite3
import sys
import urllib.error
import urllib.request

TEXT, BINARY, JSON = "text/plain", "application/octet-stream", "application/json"
wrong = []
seen = collections.Counter()


def open_fixture(place):
    """Returns what answers a query, with :names for values, by its rows."""
    if "://" not in place:
        return sqlite3.connect(f"file:{place}?mode=ro&immutable=1", uri=True).execute
    import sqlalchemy

    connection = sqlalchemy.create_engine(place).connect()
    url = connection.dialect.identifier_preparer.quote("URL")  # the only one with capitals
    return lambda sql, values={}: [
        tuple(row) for row in
        connection.execute(sqlalchemy.text(sql.replace("URL", url)), values)]


def get(port, project, path, accept=JSON, method="GET", body=None):
    """Returns status and body as that project's administrator sees them."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/{path}", method=method, data=body,
        headers={"Accept": accept, "X-Identity-Status": "Confirmed",
                 "X-Project-Id": project, "X-User-Id": "reader",
                 "X-Roles": "admin,member,creator,reader",
                 **({"Content-Type": JSON} if body else {})})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def check_pipelines(port):
    """What only the filters of newer releases answer with, on both pipelines."""
    for path in ("", "v1/secrets"):
        request = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", headers={
            "Origin": "https://dashboard.example.org", "X-Identity-Status": "Confirmed",
            "X-Project-Id": "nobody", "X-User-Id": "reader", "X-Roles": "admin"})
        try:
            headers = urllib.request.urlopen(request, timeout=60).headers
        except urllib.error.HTTPError as error:  # the version page is a 300
            headers = error.headers
        for name in ("x-openstack-request-id", "openstack-api-version",
                     "access-control-allow-origin"):
            expect(("header", "/" + path, name), name in headers, dict(headers))


def expect(what, is_right, got):
    if is_right:
        seen[what[0]] += 1
    else:
        wrong.append(f"{' '.join(what)}: {got}")


def read_listed(port, refs, deleted):
    """The references: byte for byte; what was soft-deleted must stay gone."""
    listed = set()
    for line in refs:
        kind, project, ref, *rest = line.rstrip("\n").split("\t")
        uuid, payload = ref.rsplit("/", 1)[1], rest[0] if rest else ""
        listed.add(uuid)
        if kind in ("secret", "secretbin"):
            accept = BINARY if kind == "secretbin" else TEXT
            want = base64.b64decode(payload) if kind == "secretbin" else payload.encode()
            status, body = get(port, project, f"secrets/{uuid}/payload", accept)
            if uuid in deleted:
                expect(("deleted", uuid), status == 404, status)
            else:
                expect((kind, uuid, project), (status, body) == (200, want),
                       (status, body[:200]))
        elif kind == "container":
            status, body = get(port, project, f"containers/{uuid}")
            expect((kind, uuid, project), status == 200, (status, body[:200]))
        elif kind == "order":
            status, body = get(port, project, f"orders/{uuid}")
            expect((kind, uuid, project), status == 200 and payload in body.decode(),
                   (status, body[:200]))
        else:
            wrong.append(f"unknown kind {kind}")
    return listed


def read_unlisted(port, query, listed):
    """Every other live secret: the ciphers authenticate, so 200 is a proof;
    the length of a symmetric key is known besides."""
    for uuid, project, bits, kind, content in query(
            "SELECT s.id, p.external_id, s.bit_length, s.secret_type, e.content_type"
            " FROM secrets s JOIN projects p ON p.id = s.project_id"
            " JOIN encrypted_data e ON e.secret_id = s.id WHERE NOT s.deleted"):
        if uuid in listed:
            continue
        status, body = get(port, project, f"secrets/{uuid}/payload", content)
        right = status == 200 and len(body) > 0
        if kind == "symmetric":
            right = right and len(body) * 8 == bits
        expect(("unlisted", uuid, project), right, (status, body[:200]))


def read_containers(port, query):
    """Containers hold the same secrets, and their consumers, as before."""
    for uuid, project, kind in query(
            "SELECT c.id, p.external_id, c.type FROM containers c"
            " JOIN projects p ON p.id = c.project_id WHERE NOT c.deleted"):
        status, body = get(port, project, f"containers/{uuid}")
        if status != 200:
            wrong.append(f"container {uuid}: {status}")
            continue
        shown = json.loads(body)
        got = sorted(r["secret_ref"].rsplit("/", 1)[1] for r in shown["secret_refs"])
        want = [r[0] for r in query(
            "SELECT cs.secret_id FROM container_secret cs JOIN secrets s ON s.id = cs.secret_id"
            " WHERE cs.container_id = :id AND NOT cs.deleted ORDER BY 1", {"id": uuid})]
        consumers = sorted((c["name"], c["URL"]) for c in shown["consumers"])
        rows = sorted(query(
            "SELECT name, URL FROM container_consumer_metadata"
            " WHERE container_id = :id AND NOT deleted", {"id": uuid}))
        expect(("contents", uuid, project, kind), (got, consumers) == (want, rows),
               (got, want, consumers, rows))


def read_acls(port, query):
    """Who may read a secret must not have changed: an inverted flag would show."""
    for uuid, project, acl, access in query(
            "SELECT s.id, p.external_id, a.id, a.project_access FROM secret_acls a"
            " JOIN secrets s ON s.id = a.secret_id JOIN projects p ON p.id = s.project_id"
            " WHERE NOT s.deleted AND a.operation = 'read'"):
        users = sorted(r[0] for r in query(
            "SELECT user_id FROM secret_acl_users WHERE acl_id = :id AND NOT deleted", {"id": acl}))
        status, body = get(port, project, f"secrets/{uuid}/acl")
        shown = json.loads(body).get("read", {}) if status == 200 else {}
        got = (shown.get("project-access"), sorted(shown.get("users", [])))
        expect(("acl", uuid, project), got == (bool(access), users), (status, got, users))


def store_and_read(port, project):
    """A new secret of that project goes in and comes out."""
    body = json.dumps({"name": "new", "payload": "stored after the upgrade",
                       "payload_content_type": TEXT}).encode()
    status, answer = get(port, project, "secrets", method="POST", body=body)
    if status != 201:
        wrong.append(f"store in {project}: {status} {answer[:200]}")
        return
    uuid = json.loads(answer)["secret_ref"].rsplit("/", 1)[1]
    status, answer = get(port, project, f"secrets/{uuid}/payload", TEXT)
    expect(("stored", uuid), (status, answer) == (200, b"stored after the upgrade"),
           (status, answer[:200]))


def main():
    port, fixture, *refs = sys.argv[1:]
    query = open_fixture(fixture)
    deleted = {r[0] for r in query("SELECT id FROM secrets WHERE deleted")}
    lines = [line for path in refs for line in open(path, encoding="utf-8")]
    listed = read_listed(port, lines, deleted)
    read_unlisted(port, query, listed)
    read_containers(port, query)
    read_acls(port, query)
    check_pipelines(port)
    for (project,) in query("SELECT external_id FROM projects"):
        store_and_read(port, project)
    for line in wrong:
        print("WRONG", line)
    print("read", json.dumps(dict(sorted(seen.items()))))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
