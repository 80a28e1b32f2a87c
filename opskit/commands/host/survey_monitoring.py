"""Look at what watches one environment on this host and print it, as one JSON object.

Runs where it is watched from, as `python3 -I - ORDER`; changes nothing, and ends within seconds
whatever does not answer. The order is a JSON object:

    root     where the monitoring lies
    units    the unit of systemd of each program, by name; where there is none, the program is a
             process that `run/NAME.json` below the root tells of
    programs the names of the programs
    ask      what is asked over HTTP: name -> [port of the loopback, path]

opskit/observe/standing.py reads what it prints.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HTTP_SECONDS = 2.0
SYSTEMD_SECONDS = 3.0
PROPERTIES = (
    "Id",
    "LoadState",
    "ActiveState",
    "ActiveEnterTimestampMonotonic",
    "InactiveEnterTimestampMonotonic",
)


def main(order: dict[str, Any]) -> dict[str, Any]:
    """Look."""
    root = Path(order["root"])
    live = target_of(root / "current")
    return {
        "programs": under_systemd(order["units"])
        if order["units"]
        else {name: process(root / "run" / f"{name}.json") for name in order["programs"]},
        "configuration": live,
        "releases": releases(root / "releases", live),
        "answers": {name: ask(port, path) for name, (port, path) in order["ask"].items()},
    }


def under_systemd(units: dict[str, str]) -> dict[str, Any]:
    """Give the state of each unit, and for how many seconds it has been in it."""
    argv = ["systemctl", "show", f"--property={','.join(PROPERTIES)}", *units.values()]
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=SYSTEMD_SECONDS, check=False,
        )  # fmt: skip
        said = done.stdout
    except (OSError, subprocess.TimeoutExpired):
        said = ""
    seen = {}
    for block in said.split("\n\n"):
        fields = dict(line.partition("=")[::2] for line in block.splitlines())
        seen[fields.get("Id", "")] = fields
    return {name: unit(seen.get(there, {})) for name, there in units.items()}


def unit(fields: dict[str, str]) -> dict[str, Any]:
    """Give the state of one unit of those that systemd told of."""
    state = fields.get("ActiveState", "unknown")
    if fields.get("LoadState") == "not-found":
        state = "not there"
    which = "Active" if state == "active" else "Inactive"
    entered = int(fields.get(f"{which}EnterTimestampMonotonic") or 0) / 1e6
    seconds = time.clock_gettime(time.CLOCK_MONOTONIC) - entered if entered else None
    return {"state": state, "seconds": seconds}


def process(note: Path) -> dict[str, Any]:
    """Give the state of a process that a note tells of, and for how many seconds it runs."""
    try:
        fields = json.loads(note.read_text(encoding="utf-8"))
        pid, argv = int(fields["pid"]), [str(word) for word in fields["argv"]]
    except FileNotFoundError:
        return {"state": "inactive", "seconds": None}
    except (OSError, ValueError, KeyError, TypeError):
        return {"state": "unknown", "seconds": None}
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
        if [os.fsdecode(word) for word in words] != argv:
            raise ProcessLookupError
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        ticks = int(stat.rpartition(")")[2].split()[19])
        up = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    except OSError:  # nobody ended it by a command, or there were no note
        return {"state": "failed", "seconds": None}
    return {"state": "active", "seconds": max(0.0, up - ticks / os.sysconf("SC_CLK_TCK"))}


def releases(place: Path, live: str | None) -> list[str]:
    """Give the releases that a configuration belongs to, the oldest first."""
    try:
        names = [name for name in os.listdir(place) if re.fullmatch("v[1-9][0-9]*", name)]
    except OSError:
        return []
    found = [name for name in names if live and target_of(place / name) == live]
    return sorted(found, key=lambda name: int(name[1:]))


def target_of(link: Path) -> str | None:
    """Give the name that a link points at; None where there is none."""
    try:
        return Path(os.readlink(link)).name
    except OSError:
        return None


def ask(port: int, path: str) -> dict[str, Any]:
    """Give status and body of an answer, or why there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HTTP_SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return {"status": answer.status, "body": answer.read().decode("utf-8", "replace")}
    except (OSError, http.client.HTTPException) as error:
        return {"status": 0, "body": str(error)}
    finally:
        connection.close()


if __name__ == "__main__":
    json.dump(main(json.loads(sys.argv[1])), sys.stdout)
