"""Ask the service's admin port something, which only the host itself reaches.

Runs on the host, as `python3 -I - HOST PORT PATH`. It prints the body of the answer, which is
JSON; where there is none it prints why on stderr and ends with 1.
"""

from __future__ import annotations

import http.client
import sys


def main(host: str, port: int, path: str) -> None:
    """Ask, and print."""
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read().decode("utf-8")
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"the admin port {host}:{port} does not answer: {error}")
    if answer.status != 200:
        sys.exit(f"the admin port {host}:{port} answered {answer.status}: {body.strip()}")
    sys.stdout.write(body)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
