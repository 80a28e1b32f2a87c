"""Make a configuration of the monitoring live, or leave what was; print as JSON how that went.

Runs on the monitoring host, as `python3 -I - ORDER`. The order is a JSON object:

    root            where the monitoring lies
    configuration   the name of the one to make live; empty: the one that belongs to `release`
    incoming        the directory below `configs` that it was uploaded to
    checks          [{name, argv}] that must all be content; `@` in `argv` is that directory
    release         the release that it belongs to from now on; may be empty
    serving         the release that serves, to which it belongs if none does yet; may be empty
    daemons         [{name, unit, port, ready, reloads}], in the order in which they are started
    kept            how many releases keep their configuration

It prints `{"configuration", "switched", "started", "reloaded"}`; `{"unknown": RELEASE, "stays",
"releases"}`, the name of what is live still, and the releases that it belongs to; or
`{"problem", "lines"}`: then what was live before is live still, and everything runs from it.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

READY_SECONDS = 60.0
POLL = 0.1
HTTP_SECONDS = 30
SPARE = 3
"""Configurations kept that are of no use any more, to be looked at."""


class Trouble(Exception):
    """It cannot be made live; holds why, and what a program said."""

    def __init__(self, why: str, lines: list[str] | None = None) -> None:
        super().__init__(why)
        self.lines = lines or []


def main(order: dict[str, Any]) -> dict[str, Any]:
    """Switch, or not."""
    root = Path(order["root"])
    with (root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return apply(root, order)
        except Trouble as trouble:
            return {"problem": str(trouble), "lines": trouble.lines}
        finally:
            if order.get("incoming"):
                shutil.rmtree(root / "configs" / order["incoming"], ignore_errors=True)


def apply(root: Path, order: dict[str, Any]) -> dict[str, Any]:
    """Find the configuration, switch to it, and have everything run from it."""
    belongs = root / "releases" / order["release"] if order["release"] else None
    name = order["configuration"]
    if name:
        install(root / "configs", name, order)
    else:
        target = target_of(belongs) if belongs else None
        if target is None or not (root / "configs" / target).is_dir():
            stays = target_of(root / "current") or ""
            return {"unknown": order["release"], "stays": stays, "releases": of(root, stays)}
        name = target
    before = target_of(root / "current")
    point(root / "current", f"configs/{name}")
    try:
        started, reloaded = run(root, order["daemons"], name)
    except Trouble:
        if before is None:
            (root / "current").unlink()
            stop(order["daemons"])
        elif before != name:
            point(root / "current", f"configs/{before}")
            with contextlib.suppress(Trouble):  # what was wrong first is what is told
                run(root, order["daemons"], before)
        raise
    if belongs is None and order["serving"]:
        first = root / "releases" / order["serving"]
        belongs = None if first.is_dir() else first
    if belongs is not None:
        point(belongs, f"../configs/{name}")
    prune(root, {name, before}, order["kept"])
    return {
        "configuration": name,
        "switched": before != name,
        "started": started,
        "reloaded": reloaded,
    }


def of(root: Path, name: str) -> list[str]:
    """Give the releases that a configuration belongs to, the oldest first."""
    links = [link for link in (root / "releases").glob("v*") if target_of(link) == name]
    return sorted((link.name for link in links), key=lambda release: int(release[1:]))


def install(configs: Path, name: str, order: dict[str, Any]) -> None:
    """Give what was uploaded its name, once the programs' own tools have found it valid."""
    incoming = configs / order["incoming"]
    if (configs / name).is_dir():
        return
    for check in order["checks"]:
        argv = [word.replace("@", str(incoming)) for word in check["argv"]]
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            lines = [line.replace(f"{incoming}/", "") for line in done.stdout.splitlines()]
            why = f"{check['name']} refuses the configuration; nothing was changed"
            raise Trouble(why, [line for line in lines if line.strip()])
    incoming.rename(configs / name)
    os.sync()


def run(root: Path, daemons: list[dict[str, Any]], name: str) -> tuple[list[str], list[str]]:
    """Have every daemon run from the configuration; gives what was started, what was reloaded."""
    note = root / "loaded"
    loaded = note.read_text() == name if note.exists() else False
    started, reloaded = [], []
    if not loaded:
        note.unlink(missing_ok=True)
    for daemon in daemons:
        if unit_is(daemon["unit"], "ActiveState") != "active":
            start(daemon)
            started.append(daemon["name"])
        elif daemon["reloads"] and not loaded:
            reload(daemon)
            reloaded.append(daemon["name"])
    note.write_text(name)
    return started, reloaded


def start(daemon: dict[str, Any]) -> None:
    """Start a daemon, and wait until it does its work."""
    unit = daemon["unit"]
    systemctl("reset-failed", unit)
    done = systemctl("start", unit)
    if done.returncode != 0:
        raise Trouble(f"{unit} cannot be started: {done.stdout.strip()}")
    until = time.monotonic() + READY_SECONDS
    while (answer := ask("GET", daemon["port"], daemon["ready"])) is None or answer[0] != 200:
        ended = int(unit_is(unit, "NRestarts") or 0) > 0 or unit_is(unit, "ActiveState") in (
            "failed",
            "inactive",
        )
        if ended or time.monotonic() > until:
            argv = ["journalctl", "-u", unit, "-n", "10", "-o", "cat", "--no-pager"]
            said = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
            systemctl("stop", unit)
            how = "ended" if ended else f"does not answer on port {daemon['port']}"
            raise Trouble(f"{unit} {how}", said.splitlines())
        time.sleep(POLL)


def reload(daemon: dict[str, Any]) -> None:
    """Have a daemon read its configuration, and see from itself that it did."""
    answer = ask("POST", daemon["port"], "/-/reload")
    if answer is None:
        raise Trouble(f"{daemon['unit']} does not answer on port {daemon['port']}")
    if answer[0] != 200:
        raise Trouble(f"{daemon['name']} refuses the configuration", answer[1].splitlines())
    metrics = ask("GET", daemon["port"], "/metrics")
    wanted = f"{daemon['name']}_config_last_reload_successful 1\n"
    if metrics is None or wanted not in metrics[1]:
        raise Trouble(f"{daemon['name']} says that it did not read the configuration")


def stop(daemons: list[dict[str, Any]]) -> None:
    """End everything."""
    for daemon in daemons:
        systemctl("stop", daemon["unit"])


def ask(method: str, port: int, path: str) -> tuple[int, str] | None:
    """Give status and body; None when nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HTTP_SECONDS)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def systemctl(*words: str) -> subprocess.CompletedProcess[str]:
    """Run systemctl."""
    return subprocess.run(
        ["systemctl", *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip


def unit_is(unit: str, what: str) -> str:
    """Give a property of a unit."""
    return systemctl("show", f"--property={what}", "--value", unit).stdout.strip()


def target_of(link: Path) -> str | None:
    """Give the name that a link points at; None where there is none."""
    try:
        return Path(os.readlink(link)).name
    except OSError:
        return None


def point(link: Path, target: str) -> None:
    """Point a link at something, in one step."""
    new = link.parent / f".{link.name}.new"
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.rename(link)


def prune(root: Path, live: set[str | None], kept: int) -> None:
    """Remove what is neither live, nor was a moment ago, nor is a release's."""
    links = sorted(
        (root / "releases").glob("v*"), key=lambda link: link.lstat().st_mtime, reverse=True
    )
    for link in links[kept:]:
        link.unlink(missing_ok=True)
    wanted = live | {target_of(link) for link in links[:kept]}
    places = [path for path in (root / "configs").iterdir() if path.name not in wanted]
    places.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in places[SPARE:]:
        shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    json.dump(main(json.loads(sys.argv[1])), sys.stdout)
