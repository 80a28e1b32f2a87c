"""Wait until a release serves, or its process has ended; print how that went as JSON.

Runs on the host, as `python3 -I - RELEASE_DIRECTORY PID SECONDS` (a PID of 0: any process);
changes nothing. Where to ask stands in the release's own settings. It prints `{"state": ...,
"seconds": ..., "reason": ..., "pid": ...}`; the state is one of

    serving   it answers and is ready
    full      it answers, and its store has no room: it reads, and takes no writes
    unready   it answers and is not ready
    silent    another release answers, or nobody does
    exited    its process ended
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
import tomllib

POLL = 0.03
LONGEST = 131_072
"""Bytes of an answer that are looked at."""
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - recognised, not bound


def get(host: str, port: int, path: str) -> tuple[int, str] | None:
    """Give status and body of a GET request; None when nothing answers in time.

    By hand: the standard library's HTTP client takes longer to load than all else here together.
    """
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = b""
    try:
        with socket.create_connection((host, port), timeout=3) as connection:
            connection.sendall(request.encode())
            while len(answer) < LONGEST and (more := connection.recv(65536)):
                answer += more
                if whole(answer):
                    break
    except OSError:
        return None
    head, _, body = answer.partition(b"\r\n\r\n")
    status = re.match(rb"HTTP/1\.[01] (\d{3})\b", head)
    if status is None:
        return None
    return int(status[1]), body[:65536].decode("utf-8", "replace")


def whole(answer: bytes) -> bool:
    """Say whether an answer is complete by its own account."""
    head, ended, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length:[ \t]*(\d+)", head, re.IGNORECASE)
    return bool(ended and length) and len(body) >= int(length[1] if length else 0)


def alive(pid: int) -> bool:
    """Say whether a process runs; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def address(directory: str) -> tuple[str, int]:
    """Give host and port of a release, as its settings have them."""
    with open(os.path.join(directory, "config", "settings.toml"), "rb") as file:
        service = tomllib.load(file)["service"]
    return LOOPBACK.get(service["host"], service["host"]), int(service["port"])


def look(host: str, port: int, release: str, pid: int) -> tuple[str, str, int]:
    """Give the state, why it is so, and the serving pid (or 0)."""
    answer = get(host, port, "/version")
    if answer is None:
        return "silent", "nothing answers on /version", 0
    try:
        version = json.loads(answer[1])
        serves, served_by = str(version.get("release")), int(version["pid"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return "silent", f"HTTP {answer[0]} on /version, which is not the chat service", 0
    if serves != release or (pid and served_by != pid):
        return "silent", f"{serves} (pid {served_by}) still serves", served_by
    ready = get(host, port, "/readyz")
    if ready is None:
        return "unready", "nothing answers on /readyz", served_by
    if ready[0] != 200:
        state = "full" if kind_of(ready[1]) == "full" else "unready"
        return state, f"HTTP {ready[0]}: {ready[1].strip()[:200]}", served_by
    return "serving", "", served_by


def kind_of(body: str) -> object:
    """Give what kind of trouble keeps the service from being ready; None where it does not say."""
    try:
        return json.loads(body)["kind"]
    except (ValueError, KeyError, TypeError):
        return None


def main(directory: str, pid: int, seconds: float) -> None:
    """Poll, and print."""
    host, port = address(directory)
    release = os.path.basename(directory)
    started = time.monotonic()
    while True:
        running = alive(pid) if pid else True
        state, reason, served_by = look(host, port, release, pid)
        if state == "silent" and not running:
            state = "exited"
        elapsed = time.monotonic() - started
        if state in ("serving", "full", "exited") or elapsed > seconds:
            break
        time.sleep(POLL)
    json.dump({"state": state, "seconds": elapsed, "reason": reason, "pid": served_by}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
