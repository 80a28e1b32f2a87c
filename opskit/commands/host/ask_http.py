"""Ask a program that listens on this host's loopback something, over HTTP; print the answer.

Runs on the host, as `python3 -I - METHOD PORT PATH [TYPE BODY]`. It prints `{"status": ...,
"type": ..., "body": ...}` as JSON; where nobody answers it says why on stderr and ends with 1.
"""

from __future__ import annotations

import http.client
import json
import sys

SECONDS = 30


def main(method: str, port: int, path: str, kind: str = "", body: str = "") -> None:
    """Ask, and print."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        headers = {"Content-Type": kind} if kind else {}
        connection.request(method, path, body.encode() if kind else None, headers)
        answer = connection.getresponse()
        text = answer.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"nobody answers on port {port}: {error}")
    fields = {"status": answer.status, "type": answer.getheader("Content-Type", ""), "body": text}
    json.dump(fields, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
