"""`deploy --plan`: what would be run, found out by running the very same steps.

What only reads is really run; what changes anything is recorded instead, and answered as a host
would on which all goes well. The release is built (in a temporary directory) to know what would
change; a layer that is not there is not fetched.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from opskit.commands import Command
from opskit.deploy import plan
from opskit.deploy.act import Act
from opskit.deploy.install import listed
from opskit.deploy.plan import Event, Kind
from opskit.deploy.step import Step
from opskit.render import diff, render
from opskit.rendering import live_configuration
from opskit.transport import Executor, RecordingExecutor, Result


@dataclass(frozen=True)
class Planned:
    """One step: what it would do, in words and as commands; or why it would not."""

    step: str
    text: str
    skipped: str
    result: str
    commands: tuple[Command, ...]


@dataclass(frozen=True)
class Differences:
    """What a release would change: paths of files, and the diff of its configuration."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    configuration: str = ""


def differences(act: Act) -> Differences:
    """Compare the release that was built with the one that serves; needs no more than looking."""
    if act.release is None:
        return Differences()
    executor, layout = act.target.executor, act.target.layout
    before: dict[str, str] = {}
    live: dict[str, str] = {}
    if act.before:
        before = listed(executor.get(layout.release(act.before) / "manifest.json"))
        live = live_configuration(act.target, act.before)
    now = {path: digest for path, digest in act.release.files.items() if _source(path)}
    before = {path: digest for path, digest in before.items() if _source(path)}
    return Differences(
        added=tuple(sorted(now.keys() - before.keys())),
        changed=tuple(sorted(one for one in now.keys() & before.keys() if now[one] != before[one])),
        removed=tuple(sorted(before.keys() - now.keys())),
        configuration=diff(live, render(act.target.environment)) if act.before else "",
    )


def _source(path: str) -> bool:
    return "__pycache__" not in path


class Rehearsal:
    """A host on which every change succeeds and none is made."""

    def __init__(self, act: Act, reader: Executor) -> None:
        self._act = act
        self._reader = reader
        self._started = False
        self.executor = RecordingExecutor(
            {
                "survey": self._survey,
                "link": lambda command: Result(0, command.argv[-2] + "\n"),
                "start": self._start,
                "await-release": self._serves,
                "verify-checksums": Result(0),
                "migrate": self._migrated,
                "ctl": Result(0, '{"ok": true, "connections": 0}'),
                "read-file": self._read,
            },
            reader=reader,
        )

    def _start(self, command: Command) -> Result:
        self._started = True
        return Result(0, "0 0\n")

    def _serves(self, command: Command) -> Result:
        said = {"state": "serving", "seconds": 0.0, "reason": "", "pid": 0}
        return Result(0, json.dumps(said))

    def _migrated(self, command: Command) -> Result:
        version = self._act.manifest.schema_version if self._act.manifest else 0
        return Result(0, json.dumps({"database": {"version": version}}))

    def _read(self, command: Command) -> Result:
        return self._reader.run(command)

    def _survey(self, command: Command) -> Result:
        """Show the host as it is, or as it would be once the release had been started."""
        result = self._reader.run(command)
        if not self._started:
            return result
        seen = json.loads(result.stdout)
        name, manifest = self._act.name, self._act.manifest
        version = {"release": name, "pid": 0, "commit": manifest.commit if manifest else ""}
        host, port = self._act.target.address
        seen["current"] = f"releases/{name}"
        seen["processes"] = [{"pid": 0, "release": name, "started": 0.0}]
        seen["answers"] = [
            {
                "host": host,
                "port": port,
                "version": {"status": 200, "body": json.dumps(version)},
                "ready": {"status": 200, "body": "{}"},
                "metrics": 200,
            }
        ]
        return Result(0, json.dumps(seen))


def rehearse(act: Act, steps: Sequence[Step]) -> list[Planned]:
    """Give what an act would do, without doing it.

    Raises:
        Failure: it could not be done; nothing was changed, here or there.
    """
    rehearsal = Rehearsal(act, act.target.executor)
    act.target = act.target.through(rehearsal.executor)
    by_name = {step.name: step for step in steps}
    planned: list[Planned] = []
    heard = 0

    def observe(event: Event) -> None:
        nonlocal heard
        commands = tuple(rehearsal.executor.commands[heard:])
        if event.kind is Kind.SKIPPED:
            planned.append(Planned(event.step, "", event.text, "", ()))
        elif event.kind is Kind.DONE:
            text = by_name[event.step].describe(act)
            planned.append(Planned(event.step, text, "", event.text, commands))
        if event.kind is not Kind.NOTE:
            heard = len(rehearsal.executor.commands)

    plan.run(act, steps, observe)
    return planned
