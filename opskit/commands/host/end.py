"""End processes that serve a release of this root, and say what became of each, as JSON.

Runs on the host, as `python3 -I - ROOT SECONDS PID...`. A process whose command line is not
`<root>/releases/vN/run.py serve` is left alone, whatever its pid. SIGTERM, which the service
takes as an orderly stop; after SECONDS SIGKILL. It prints `{"PID": "gone" | "not ours" |
"stopped" | "killed"}`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import time


def ours(root: str, pid: int) -> bool | None:
    """Say whether a pid is a service of this root; None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            if file.read().rpartition(")")[2].split()[0] in "ZX":
                return None
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            argv = [os.fsdecode(part) for part in file.read().split(b"\0")[:-1]]
    except OSError:
        return None
    entry = re.compile(re.escape(os.path.join(root, "releases")) + r"/v[1-9][0-9]*/run\.py")
    return any(
        entry.fullmatch(part) and argv[index + 1] == "serve" for index, part in enumerate(argv[:-1])
    )


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def main(root: str, seconds: float, pids: list[int]) -> None:
    """Signal, wait, and print."""
    outcome: dict[int, str] = {}
    waiting: list[int] = []
    for pid in pids:
        verdict = ours(root, pid)
        if verdict:
            send(pid, signal.SIGTERM)
            waiting.append(pid)
        else:
            outcome[pid] = "gone" if verdict is None else "not ours"
    deadline = time.monotonic() + seconds
    while waiting and time.monotonic() < deadline:
        for pid in [pid for pid in waiting if not ours(root, pid)]:
            waiting.remove(pid)
            outcome[pid] = "stopped"
        time.sleep(0.02)
    for pid in waiting:
        send(pid, signal.SIGKILL)
        outcome[pid] = "killed"
    while any(ours(root, pid) for pid in waiting) and time.monotonic() < deadline + 5:
        time.sleep(0.02)
    json.dump(outcome, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), [int(pid) for pid in sys.argv[3:]])
