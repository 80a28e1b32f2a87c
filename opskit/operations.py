"""Deploy, roll back, stop: what the command line calls, with everything put together."""

from __future__ import annotations

import contextlib
import importlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Lock, Thread
from typing import TYPE_CHECKING

from opskit.deploy import plan
from opskit.deploy.act import Act, Build, Timing
from opskit.deploy.acts import deploy_steps, rollback_steps, stop_steps
from opskit.deploy.dry_run import Differences, Planned, differences, rehearse
from opskit.deploy.install import MARKER, LayerBuilder
from opskit.deploy.plan import Event, Kind, Observer
from opskit.deploy.step import Step
from opskit.deployments import Action
from opskit.environment import SIGNING, Environment
from opskit.fleet import Fleet, with_surplus
from opskit.observe.deployment import follow
from opskit.person import this_person
from opskit.problems import ConfigError, Problem
from opskit.secrets import Secret, Source, resolve
from opskit.target import Target

if TYPE_CHECKING:
    from checks.smoke import CheckResult, Report
    from opskit.release import Release

OnCheck = Callable[["CheckResult"], None]
CHECKOUT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Operation:
    """A deploy, rollback or stop that is about to begin; `act` says afterwards how it went."""

    act: Act
    steps: Sequence[Step]
    observe: Observer
    _resources: ExitStack = field(default_factory=ExitStack, repr=False)

    def run(self) -> None:
        """Carry it out.

        Raises:
            Failure: it was not done, and everything was undone.
            PersonNeeded: it was not done, and not everything could be undone.
        """
        with self._resources:
            plan.run(self.act, self.steps, self.observe)
        follow(self.act)


def deploy(
    fleet: Fleet,
    *,
    observe: Observer,
    layers: Path,
    on_check: OnCheck | None = None,
    move_data: bool = False,
    leave_data: bool = False,
    timing: Timing | None = None,
) -> Operation:
    """Prepare a deploy.

    Args:
        fleet: where to.
        observe: is told of every step.
        layers: the directory on this machine where built layers are kept.
        on_check: is told of every smoke check.
        move_data: copy the data, when the store changes from SQLite to PostgreSQL.
        leave_data: start with an empty store, when it changes.
        timing: how long things may take; by default what is right for its hosts.

    Raises:
        ConfigError: a secret is missing.
    """
    secrets = fleet.environment.resolve_secrets()
    resources = ExitStack()
    directory = resources.enter_context(tempfile.TemporaryDirectory(prefix="opskit-"))
    act = _act(fleet, Action.DEPLOY, observe, on_check, timing, secrets)
    act.build = _builder(fleet.environment, Path(directory), layers.with_name("bytecode"))
    act.move_data, act.leave_data = move_data, leave_data
    resources.callback(_loading_the_smoke_test().join)
    steps = deploy_steps(_layer_builder(fleet.environment, layers))
    return Operation(act, steps, observe, resources)


def planning(
    fleet: Fleet, *, move_data: bool = False, leave_data: bool = False
) -> tuple[Act, list[Planned], Differences]:
    """Give what a deploy would do, and to which files; changes nothing, here or there.

    Raises:
        Failure: it could not be done.
    """

    def ignore(event: Event) -> None:
        """A plan shows its steps all at once."""

    with tempfile.TemporaryDirectory(prefix="opskit-") as name:
        directory = Path(name)
        secrets = _secrets_without_making_any(fleet.lead)
        act = _act(fleet, Action.DEPLOY, ignore, None, None, secrets)
        act.smoke = _no_smoke
        act.move_data, act.leave_data = move_data, leave_data
        act.build = _builder(fleet.environment, directory)
        planned = rehearse(act, deploy_steps(lambda key: _no_layer(directory)))
        return act, planned, differences(act)


def rollback(
    fleet: Fleet,
    wanted: int | None,
    *,
    observe: Observer,
    on_check: OnCheck | None = None,
    smoke: bool = True,
    leave_data: bool = False,
    timing: Timing | None = None,
) -> Operation:
    """Prepare a rollback to a release, or to the last good one before the current.

    With `leave_data` it may be one with another store, which has none of the messages since.

    Raises:
        ConfigError: a secret that the smoke test needs is missing.
    """
    secrets = fleet.environment.resolve_secrets(SIGNING) if smoke else {}
    act = _act(fleet, Action.ROLLBACK, observe, on_check, timing, secrets)
    act.wanted, act.smoke_gates, act.leave_data = wanted, smoke, leave_data
    resources = ExitStack()
    if smoke:
        resources.callback(_loading_the_smoke_test().join)
    return Operation(act, rollback_steps(), observe, resources)


def stop(
    fleet: Fleet, *, observe: Observer, drain: bool = False, timing: Timing | None = None
) -> Operation:
    """Prepare to stop the service, nodes that the environment no longer has included.

    With `drain` the members of these nodes, and of no others, are first sent away, paced.

    Raises:
        Failure: the first node could not be looked at.
    """
    if not drain:
        fleet = with_surplus(fleet)
    act = _act(fleet, Action.STOP, observe, None, timing, {})
    return Operation(act, stop_steps(drain=drain), observe)


def _act(
    fleet: Fleet,
    action: Action,
    observe: Observer,
    on_check: OnCheck | None,
    timing: Timing | None,
    secrets: Mapping[str, Secret],
) -> Act:
    def smoke(act: Act) -> Report:
        from opskit.smoke import smoke as run  # here: no other command needs it

        return run(act.fleet, secrets, number=act.number, on_result=on_check)

    return Act(
        fleet=fleet,
        action=action,
        person=this_person(),
        smoke=smoke,
        say=lambda node, text: observe(Event(Kind.NOTE, "", text, node=node)),
        timing=timing or Timing.on(fleet.environment),
        secrets=secrets,
        tool=tool_version(),
    )


def _loading_the_smoke_test() -> Thread:
    """Load it, with the client and all, while the hosts do what comes before it."""

    def load() -> None:
        with contextlib.suppress(Exception):  # who needs it loads it again, and says what is wrong
            importlib.import_module("opskit.smoke")

    thread = Thread(target=load, name="loading", daemon=True)
    thread.start()
    return thread


def _builder(environment: Environment, into: Path, bytecode: Path | None = None) -> Build:
    """Give what builds releases: one for all nodes that have the same settings."""
    built: dict[tuple[Path, int], Release] = {}

    def build(node: Target, number: int) -> Release:
        from opskit.release import build

        key = (node.environment.root, number)
        if key not in built:
            place = into / str(len(built))
            place.mkdir()
            built[key] = build(
                node.environment,
                number,
                into=place,
                source=source(environment),
                lasting=False,  # a host syncs what it is sent
                bytecode=bytecode,
            )
        return built[key]

    return build


def _layer_builder(environment: Environment, layers: Path) -> LayerBuilder:
    one_at_a_time = Lock()  # nodes are installed together, and the layer is built once for all

    def build(key: str) -> Path:
        from opskit.layer import build_layer

        lock_file = source(environment) / "chatservice" / "requirements.txt"
        with one_at_a_time:
            return build_layer(
                lock_file, key, layers, python=environment.python, platform=environment.platform
            )

    return build


def source(environment: Environment) -> Path:
    """Give the source tree that is deployed: that of environments.yaml, or opskit's own."""
    own = environment.base_dir / "chatservice" / "requirements.txt"
    return environment.base_dir if own.is_file() else CHECKOUT


def tool_version() -> str:
    """Give the version of opskit."""
    try:
        return version("opskit")
    except PackageNotFoundError:
        return "unknown"


def _secrets_without_making_any(target: Target) -> dict[str, Secret]:
    """Resolve secrets as for a deploy, but for those that a deploy would generate."""
    environment = target.environment
    values: dict[str, Secret] = {}
    problems: list[Problem] = []
    for name, ref in environment.secrets.items():
        if ref.source is Source.GENERATE:
            there = target.executor.get(target.layout.secret(name)).encode()
            values[name] = Secret(there.rstrip(b"\n") or b"made by the first deployment")
            continue
        try:
            values[name] = resolve(ref, environment.base_dir)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return values


def _no_smoke(act: Act) -> Report:
    """Stand in for a smoke test that is only planned."""
    from checks.smoke import CheckResult, Report

    planned = CheckResult("planned", "The smoke test would run", "passed", 0.0, "")
    url, users = act.environment.base_url, act.environment.smoke.users
    return Report(url, "", users, (planned,), 0.0)


def _no_layer(directory: Path) -> Path:
    """Stand in for a layer that is only planned."""
    place = directory / "layer"
    place.mkdir()
    (place / MARKER).write_text('{"files": {"planned": ""}}', encoding="utf-8")
    return place
