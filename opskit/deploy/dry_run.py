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
from opskit.deploy.act import Act, Part
from opskit.deploy.install import listed
from opskit.deploy.plan import Event, Kind
from opskit.deploy.step import Order, Step
from opskit.render import diff, render
from opskit.rendering import live_configuration
from opskit.transport import RecordingExecutor, Result


@dataclass(frozen=True)
class Planned:
    """One step on one node: what it would do, in words and as commands; or why it would not.

    `node` is empty where there is one, or for all of them.
    """

    step: str
    node: str
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
    """Compare the release that was built with the one that serves; needs no more than looking.

    Nodes differ in nothing but their ports and paths, so that the first one speaks for all.
    """
    part = act.lead
    if part.release is None:
        return Differences()
    executor, layout = part.target.executor, part.target.layout
    before: dict[str, str] = {}
    live: dict[str, str] = {}
    if part.before:
        before = listed(executor.get(layout.release(part.before) / "manifest.json"))
        live = live_configuration(part.target, part.before)
    now = {path: digest for path, digest in part.release.files.items() if _source(path)}
    before = {path: digest for path, digest in before.items() if _source(path)}
    return Differences(
        added=tuple(sorted(now.keys() - before.keys())),
        changed=tuple(sorted(one for one in now.keys() & before.keys() if now[one] != before[one])),
        removed=tuple(sorted(before.keys() - now.keys())),
        configuration=diff(live, render(part.target.environment)) if part.before else "",
    )


def _source(path: str) -> bool:
    return "__pycache__" not in path


class Rehearsal:
    """A host on which every change succeeds and none is made."""

    def __init__(self, part: Part) -> None:
        reader = part.target.executor
        self._part = part
        self._reader = reader
        self._started = False
        self.executor = RecordingExecutor(
            {
                "survey": self._survey,
                "link": lambda command: Result(0, command.argv[-2] + "\n"),
                "start": self._start,
                "serve-unit": self._serve,
                "await-release": self._serves,
                "end": Result(0, "{}"),
                "verify-checksums": Result(0),
                "migrate": self._migrated,
                "copy": Result(0, '{"workspaces": 0, "messages": 0, "cursors": 0}'),
                "ctl": Result(0, '{"ok": true, "connections": 0}'),
                "read-file": self._read,
            },
            reader=reader,
        )

    def _start(self, command: Command) -> Result:
        self._started = True
        return Result(0, "0 0\n")

    def _serve(self, command: Command) -> Result:
        self._started = True
        return Result(0, "pid=0\n")

    def _serves(self, command: Command) -> Result:
        said = {"state": "serving", "seconds": 0.0, "reason": "", "pid": 0}
        return Result(0, json.dumps(said))

    def _migrated(self, command: Command) -> Result:
        version = self._part.manifest.schema_version if self._part.manifest else 0
        return Result(0, json.dumps({"database": {"version": version}}))

    def _read(self, command: Command) -> Result:
        return self._reader.run(command)

    def _survey(self, command: Command) -> Result:
        """Show the host as it is, or as it would be once the release had been started."""
        result = self._reader.run(command)
        if not self._started:
            return result
        seen = json.loads(result.stdout)
        name, manifest = self._part.name, self._part.manifest
        version = {"release": name, "pid": 0, "commit": manifest.commit if manifest else ""}
        host, port = self._part.target.address
        seen["current"] = f"releases/{name}"
        seen["control"] = {"ok": True, "pid": 0, "connections": 0}
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
    rehearsals = [Rehearsal(part) for part in act.parts]
    for part, rehearsal in zip(act.parts, rehearsals, strict=True):
        part.target = part.target.through(rehearsal.executor)
    recorders = {part.node: one.executor for part, one in zip(act.parts, rehearsals, strict=True)}
    parts = {part.node: part for part in act.parts}
    by_name = {step.name: step for step in steps}
    planned: list[Planned] = []
    heard = dict.fromkeys(recorders, 0)

    def observe(event: Event) -> None:
        everywhere = by_name[event.step].order is Order.ONCE and not event.node
        nodes = list(recorders) if everywhere else [event.node]
        if event.kind is Kind.SKIPPED:
            planned.append(Planned(event.step, event.node, "", event.text, "", ()))
        elif event.kind is Kind.DONE:
            part = act.lead if everywhere else parts[event.node]
            text = by_name[event.step].describe(part)
            commands = tuple(c for node in nodes for c in recorders[node].commands[heard[node] :])
            planned.append(Planned(event.step, event.node, text, "", event.text, commands))
        if event.kind is not Kind.NOTE:
            for node in nodes:
                heard[node] = len(recorders[node].commands)

    plan.run(act, steps, observe)
    return planned
