"""A whole environment of its own for tests: a source tree to break, a root, free ports, opskit.

What runs is real: releases are built from a copy of the chat service, deployed with the same
steps as anywhere, and serve as processes of their own. Every process is ended by its pid.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checks.smoke import CheckResult, Report
from opskit import operations
from opskit.commands import service
from opskit.deploy.act import Act, Timing
from opskit.deploy.plan import Event, Kind
from opskit.deployments import Record
from opskit.environment import Environment
from opskit.environments import load_environments
from opskit.facts import Facts
from opskit.fleet import Fleet, connect, with_surplus
from opskit.target import Target
from tests.service_process import REPOSITORY, free_ports
from tests.source_tree import SourceTree

TIMING = Timing(start=30.0, end=5.0)


@dataclass
class Site(SourceTree):
    """One environment, `dev`, under a directory of its own.

    Attributes:
        directory: holds environments.yaml, the source and the root.
        layers: built layers, shared by all tests.
        pristine: the source that the site begins with; others change theirs meanwhile.
        events: what happened to the steps of the last act.
    """

    directory: Path
    layers: Path
    settings: dict[str, Any] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=lambda: {"jwt_secret": "generate"})
    keep: int = 5
    pristine: Path = REPOSITORY / "chatservice"
    nodes: int = 1
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port, self.admin_port = free_ports(2)
        self.restore()
        self.configure()

    # --- what is deployed ---------------------------------------------------------------------

    def configure(self, **sections: dict[str, Any]) -> None:
        """Write environments.yaml; sections are those of the chat service."""
        for name, values in sections.items():
            self.settings.setdefault(name, {}).update(values)
        timing = {"presence_grace": 0.3, "drain": 0.1, "reconnect_spread": 0.1, "close": 0.5}
        chat = {
            "service": {"port": self.port, "admin_port": self.admin_port},
            "timing": timing,
            **self.settings,
        }
        environment = {
            "target": "local",
            "root": "r",
            "nodes": self.nodes,
            "secrets": self.secrets,
            "releases": {"keep": self.keep},
            "chat": chat,
        }
        # JSON is YAML, too.
        text = json.dumps({"environments": {"dev": environment}}, indent=1)
        self.file.write_text(text, encoding="utf-8")

    # --- opskit -------------------------------------------------------------------------------

    @property
    def file(self) -> Path:
        """environments.yaml."""
        return self.directory / "environments.yaml"

    @property
    def root(self) -> Path:
        """The environment's root."""
        return self.directory / "r"

    @property
    def environment(self) -> Environment:
        """The environment as it is configured now."""
        return load_environments(self.file).get("dev")

    @property
    def fleet(self) -> Fleet:
        """Its nodes."""
        return connect(self.environment)

    @property
    def target(self) -> Target:
        """Its first node."""
        return self.fleet.lead

    def deploy(
        self,
        *,
        smoke: bool = False,
        timing: Timing = TIMING,
        move: bool = False,
        leave: bool = False,
    ) -> Act:
        """Deploy; unless told otherwise with a smoke test of three requests.

        `move` and `leave` say what becomes of the data when the store changes.
        """
        operation = self.prepare(timing)
        operation.act.move_data, operation.act.leave_data = move, leave
        return self._run(operation, smoke)

    def prepare(self, timing: Timing = TIMING) -> operations.Operation:
        """Prepare a deploy."""
        return operations.deploy(
            self.fleet, observe=self._observe, layers=self.layers, timing=timing
        )

    def rollback(self, wanted: int | None = None, *, smoke: bool = False) -> Act:
        """Roll back."""
        operation = operations.rollback(self.fleet, wanted, observe=self._observe, timing=TIMING)
        return self._run(operation, smoke)

    def stop(self) -> Act:
        """Stop."""
        return self._run(operations.stop(self.fleet, observe=self._observe, timing=TIMING), True)

    def _run(self, operation: operations.Operation, smoke: bool) -> Act:
        self.events.clear()
        if not smoke:
            operation.act.smoke = quick_smoke
        operation.run()
        return operation.act

    def _observe(self, event: Event) -> None:
        self.events.append(event)

    def outcome(self, step: str) -> list[Kind]:
        """Give what happened to a step of the last act."""
        return [event.kind for event in self.events if event.step == step]

    def opskit(
        self, *arguments: str, deadline: float = 120.0, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the command line, as a person would."""
        return subprocess.run(
            [sys.executable, "-m", "opskit", "--environments", str(self.file), *arguments],
            env=self.environ | environ,
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=deadline,
            check=False,
        )

    @property
    def environ(self) -> dict[str, str]:
        """The environment variables of an opskit process."""
        return os.environ | {
            "XDG_CACHE_HOME": str(self.layers.parent.parent),
            "PYTHONPATH": str(REPOSITORY),
        }

    # --- what is there ------------------------------------------------------------------------

    def version(self) -> dict[str, Any] | None:
        """Give what /version says; None when nothing answers."""
        answer = get(self.port, "/version")
        return json.loads(answer[1]) if answer else None

    @property
    def serving(self) -> str | None:
        """The release that answers."""
        version = self.version()
        return version["release"] if version else None

    @property
    def pid(self) -> int:
        """The process that answers."""
        version = self.version()
        assert version is not None, self.log_tail()
        return int(version["pid"])

    @property
    def current(self) -> str | None:
        """What `current` points at."""
        link = self.root / "current"
        return os.readlink(link) if link.is_symlink() else None

    @property
    def upcoming(self) -> str:
        """The release that the next deploy makes."""
        return f"v{self.record.next_number(self.facts.releases)}"

    @property
    def releases(self) -> list[str]:
        """The installed releases, oldest first."""
        names = [path.name for path in (self.root / "releases").glob("v*")]
        return sorted(names, key=lambda name: int(name[1:]))

    @property
    def record(self) -> Record:
        """The record of deployments."""
        return self.target.record()

    @property
    def facts(self) -> Facts:
        """What opskit sees."""
        return self.target.survey()

    def let_the_lease_end(self) -> None:
        """Let the time pass that a dead owner's lease lasts, without waiting for it."""
        let_the_lease_end(self.root)

    def leftovers(self) -> list[str]:
        """Name what no finished act leaves behind."""
        names = ["in-progress.json", "lock", ".lock.new"]
        found = [name for name in names if (self.root / name).exists()]
        for pattern in ("releases/.*", "layers/.*", "secrets/.*", ".*.new"):
            found += [str(path.relative_to(self.root)) for path in self.root.glob(pattern)]
        return found

    def tree(self) -> dict[str, tuple[int, int]]:
        """Give every file with its size and time, but for what the running service writes."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            name = str(path.relative_to(self.root))
            if path.is_file() and name.split("/")[0] not in ("log", "run", "state"):
                status = path.stat()
                found[name] = (status.st_size, status.st_mtime_ns)
        return found

    def log_tail(self) -> str:
        """The end of the service's log, for the message of a failed test."""
        log = self.root / "log" / "chatservice.log"
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        return "\n".join(["--- log", *text.splitlines()[-40:]])

    def close(self) -> None:
        """End every process of the site."""
        for target in with_surplus(self.fleet).nodes:
            pids = [one.pid for one in target.survey().processes]
            if pids:
                command = service.end(target.root, pids, python=target.python, seconds=5.0)
                target.executor.run(command)


def let_the_lease_end(root: Path) -> None:
    """Let the time pass that a dead owner's lease on a node lasts, without waiting for it."""
    lock = root / "lock"
    if lock.exists():
        boot, _, rest = lock.read_text().split(" ", 2)
        lock.write_text(f"{boot} 0 {rest}")


def get(port: int, path: str, timeout: float = 5.0) -> tuple[int, str] | None:
    """Give status and body of a GET request; None when nothing answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def quick_smoke(act: Act) -> Report:
    """Ask three questions over real connections, where a test is about something else."""
    results = []
    for path in ("/healthz", "/readyz", "/version"):
        started = time.monotonic()
        answer = get(act.lead.port, path)
        ok = answer is not None and answer[0] == 200
        seconds = time.monotonic() - started
        results.append(
            CheckResult(path[1:], path, "passed" if ok else "failed", seconds, str(answer))
        )
    total = sum(one.seconds for one in results)
    return Report(f"http://127.0.0.1:{act.lead.port}", "", 0, tuple(results), total)


def watched(
    site: Site, path: str = "/healthz"
) -> contextlib.AbstractContextManager[Callable[[], list[str]]]:
    """Ask the first node of a site something all the time; see `watched_port`."""
    return watched_port(site.port, path)


@contextlib.contextmanager
def watched_port(port: int, path: str = "/healthz") -> Iterator[Callable[[], list[str]]]:
    """Ask a service something all the time; gives what the unanswered questions were.

    A question counts as unanswered when no connection is made, or no good answer comes.
    """
    failures: list[str] = []
    ended = threading.Event()

    def ask() -> None:
        asked = 0
        while not ended.wait(0.02):
            asked += 1
            if (answer := get(port, path, timeout=20.0)) is None or answer[0] != 200:
                failures.append(f"question {asked} at {time.time():.3f}: {answer}")

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield lambda: failures
    finally:
        ended.set()
        thread.join()
