"""Stores and reads secrets through a Barbican's API, as standard input says.

    python3 hex_api.py PORT

A line "store PROJECT BASE64" is answered by "STATUS ID", a line
"read PROJECT ID" by "STATUS BASE64"; without a 2xx there is only the status.
Needs nothing but Python.
"""
import base64
import json
import sys
import urllib.error
import urllib.request

BINARY, JSON = "application/octet-stream", "application/json"


def ask(project, path, accept, body=None):
    request = urllib.request.Request(
        f"http://127.0.0.1:{sys.argv[1]}/v1/{path}", data=body and json.dumps(body).encode(),
        headers={"Accept": accept, "Content-Type": JSON, "X-Identity-Status": "Confirmed",
                 "X-Project-Id": project, "X-User-Id": "tester",
                 "X-Roles": "admin,member,creator,reader"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, None


for line in sys.stdin:
    verb, project, what = line.split()
    if verb == "store":
        status, answer = ask(project, "secrets", JSON, {
            "payload": what, "payload_content_type": BINARY, "payload_content_encoding": "base64"})
        told = answer and json.loads(answer)["secret_ref"].rsplit("/", 1)[1]
    else:
        status, answer = ask(project, f"secrets/{what}/payload", BINARY)
        told = answer and base64.b64encode(answer).decode()
    print(status, *([told] if told else []), flush=True)
