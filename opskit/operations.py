"""Deploy, roll back, stop: what the command line calls, with everything put together."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from opskit.deploy import plan
from opskit.deploy.act import Act, Timing
from opskit.deploy.acts import deploy_steps, rollback_steps, stop_steps
from opskit.deploy.dry_run import Differences, Planned, differences, rehearse
from opskit.deploy.install import MARKER, LayerBuilder
from opskit.deploy.plan import Event, Kind, Observer
from opskit.deploy.step import Step
from opskit.deployments import Action
from opskit.environment import Environment
from opskit.person import this_person
from opskit.problems import ConfigError, Problem
from opskit.secrets import Secret, Source, resolve
from opskit.target import Target

if TYPE_CHECKING:
    from checks.smoke import CheckResult, Report
    from opskit.release import Release

OnCheck = Callable[["CheckResult"], None]
CHECKOUT = Path(__file__).resolve().parent.parent


_TIMING = Timing()


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


def deploy(
    target: Target,
    *,
    observe: Observer,
    layers: Path,
    on_check: OnCheck | None = None,
    timing: Timing = _TIMING,
) -> Operation:
    """Prepare a deploy.

    Args:
        target: where to.
        observe: is told of every step.
        layers: the directory on this machine where built layers are kept.
        on_check: is told of every smoke check.
        timing: how long things may take.

    Raises:
        ConfigError: a secret is missing.
    """
    secrets = target.environment.resolve_secrets()
    resources = ExitStack()
    directory = resources.enter_context(tempfile.TemporaryDirectory(prefix="opskit-"))
    act = _act(target, Action.DEPLOY, observe, on_check, timing, secrets)
    act.build = _builder(target.environment, Path(directory))
    steps = deploy_steps(_layer_builder(target.environment, layers))
    return Operation(act, steps, observe, resources)


def planning(target: Target) -> tuple[Act, list[Planned], Differences]:
    """Give what a deploy would do, and to which files; changes nothing, here or there.

    Raises:
        Failure: it could not be done.
    """

    def ignore(event: Event) -> None:
        """A plan shows its steps all at once."""

    with tempfile.TemporaryDirectory(prefix="opskit-") as name:
        directory = Path(name)
        secrets = _secrets_without_making_any(target)
        act = _act(target, Action.DEPLOY, ignore, None, Timing(), secrets)
        act.smoke = _no_smoke
        act.build = _builder(target.environment, directory)
        planned = rehearse(act, deploy_steps(lambda key: _no_layer(directory)))
        return act, planned, differences(act)


def rollback(
    target: Target,
    wanted: int | None,
    *,
    observe: Observer,
    on_check: OnCheck | None = None,
    smoke: bool = True,
    timing: Timing = _TIMING,
) -> Operation:
    """Prepare a rollback to a release, or to the last good one before the current.

    Raises:
        ConfigError: a secret that the smoke test needs is missing.
    """
    secrets = target.environment.resolve_secrets() if smoke else {}
    act = _act(target, Action.ROLLBACK, observe, on_check, timing, secrets)
    act.wanted, act.smoke_gates = wanted, smoke
    return Operation(act, rollback_steps(), observe)


def stop(target: Target, *, observe: Observer, timing: Timing = _TIMING) -> Operation:
    """Prepare to stop the service."""
    act = _act(target, Action.STOP, observe, None, timing, {})
    return Operation(act, stop_steps(), observe)


def _act(
    target: Target,
    action: Action,
    observe: Observer,
    on_check: OnCheck | None,
    timing: Timing,
    secrets: Mapping[str, Secret],
) -> Act:
    def smoke(act: Act) -> Report:
        from opskit.smoke import smoke as run  # here: it loads the client, which takes long

        return run(act.target, secrets, number=act.number, on_result=on_check)

    return Act(
        target=target,
        action=action,
        person=this_person(),
        smoke=smoke,
        note=lambda text: observe(Event(Kind.NOTE, "", text)),
        timing=timing,
        secrets=secrets,
        tool=tool_version(),
    )


def _builder(environment: Environment, into: Path) -> Callable[[int], Release]:
    def build(number: int) -> Release:
        from opskit.release import build

        return build(environment, number, into=into, source=source(environment))

    return build


def _layer_builder(environment: Environment, layers: Path) -> LayerBuilder:
    def build(key: str) -> Path:
        from opskit.layer import build_layer

        lock_file = source(environment) / "chatservice" / "requirements.txt"
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
    url, users = act.target.environment.base_url, act.target.environment.smoke.users
    return Report(url, "", users, (planned,), 0.0)


def _no_layer(directory: Path) -> Path:
    """Stand in for a layer that is only planned."""
    place = directory / "layer"
    place.mkdir()
    (place / MARKER).write_text('{"files": {"planned": ""}}', encoding="utf-8")
    return place
