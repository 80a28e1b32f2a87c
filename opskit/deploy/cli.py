"""The commands that change what serves: deploy, rollback, stop, drain; parse, call and show."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from opskit.failure import Failure, Misuse
from opskit.session import Env, Json, print_json, session

if TYPE_CHECKING:
    from opskit.deploy.plan import Observer
    from opskit.environment import Environment
    from opskit.operations import OnCheck, Operation
    from opskit.ui import Ui


def register(app: typer.Typer) -> None:
    """Add the commands to opskit's own."""
    for command in (deploy, rollback, stop, drain):
        app.command()(command)


def deploy(
    env: Env,
    plan: Annotated[
        bool, typer.Option("--plan", help="Show what would be done; do nothing.")
    ] = False,
    move_data: Annotated[
        bool, typer.Option("--move-data", help="Copy the SQLite store into PostgreSQL.")
    ] = False,
    leave_data: Annotated[
        bool, typer.Option("--leave-data", help="Start the new store empty; the old one stays.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Build a release and let it serve; what fails is undone."""
    from opskit import operations

    fleet = session.fleet(env)
    ui = session.ui()
    if plan:
        act, planned, changes = operations.planning(
            fleet, move_data=move_data, leave_data=leave_data
        )
        if as_json:
            from opskit.reports import plan_report

            print_json(plan_report(act, planned, changes))
        else:
            ui.heading("Deploying (plan only)", fleet.environment)
            ui.plan(act, planned, changes)
        return

    def prepare(observe: Observer, on_check: OnCheck | None) -> Operation:
        return operations.deploy(
            fleet,
            observe=observe,
            on_check=on_check,
            layers=_layers(),
            move_data=move_data,
            leave_data=leave_data,
        )

    _carry_out(ui, prepare, "Deploying", fleet.environment, as_json)


def rollback(
    version: Annotated[
        str | None,
        typer.Argument(
            metavar="[VERSION]", help="v12 or 12 (default: the last good one before this)."
        ),
    ] = None,
    env: Annotated[str, typer.Option(metavar="ENV", help="Where.")] = "prod",
    no_smoke: Annotated[
        bool, typer.Option("--no-smoke", help="Skip the smoke test: let it serve, come what may.")
    ] = False,
    leave_data: Annotated[
        bool,
        typer.Option(
            "--leave-data", help="Go to a release with another store; what was written since stays."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Let an earlier release serve again."""
    from opskit import operations
    from opskit.layout import BadVersion, release_number

    try:
        wanted = release_number(version) if version is not None else None
    except BadVersion as error:
        raise Misuse(str(error)) from None
    fleet = session.fleet(env)

    def prepare(observe: Observer, on_check: OnCheck | None) -> Operation:
        return operations.rollback(
            fleet,
            wanted,
            observe=observe,
            on_check=on_check,
            smoke=not no_smoke,
            leave_data=leave_data,
        )

    _carry_out(session.ui(), prepare, "Rolling back", fleet.environment, as_json)


def stop(env: Env, as_json: Json = False) -> None:
    """Stop the service; the data stays."""
    from opskit import operations

    fleet = session.fleet(env)

    def prepare(observe: Observer, on_check: OnCheck | None) -> Operation:
        return operations.stop(fleet, observe=observe)

    _carry_out(session.ui(), prepare, "Stopping", fleet.environment, as_json)


def drain(
    env: Env,
    node: Annotated[str, typer.Argument(metavar="NODE", help="A host, or the number of a node.")],
    as_json: Json = False,
) -> None:
    """Send the members of one node away, paced, and stop it: before a reboot, say."""
    from opskit import operations

    fleet = session.fleet(env).only(node)

    def prepare(observe: Observer, on_check: OnCheck | None) -> Operation:
        return operations.stop(fleet, observe=observe, drain=True)

    _carry_out(session.ui(), prepare, f"Draining {node} of", fleet.environment, as_json)


def _carry_out(
    ui: Ui,
    prepare: Callable[[Observer, OnCheck | None], Operation],
    verb: str,
    environment: Environment,
    as_json: bool,
) -> None:
    """Run an act, and show how it goes and how it went; a signal undoes it."""
    from opskit.progress import Progress
    from opskit.reports import Steps, act_report

    _undo_on_signals()
    ui.terminal.outlive()
    steps = Steps()
    if as_json:
        operation = prepare(steps, None)
    else:
        ui.heading(verb, environment)
        progress = Progress(ui.terminal)
        operation = prepare(progress, progress.check)
    try:
        operation.run()
    except Failure as failure:
        if as_json:
            print_json(act_report(operation.act, steps, failure))
            raise typer.Exit(failure.status) from None
        if operation.act.report is not None and not operation.act.report.ok:
            ui.smoke(operation.act.report)
        raise
    if as_json:
        print_json(act_report(operation.act, steps, None))
    elif operation.act.action == "stop":
        ui.stopped(operation.act)
    else:
        ui.deployed(operation.act)


def _undo_on_signals() -> None:
    """Take a termination or a lost terminal for Ctrl-C, which undoes what was begun.

    What is ignored still is: under nohup a deployment goes on without its terminal.
    """

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)


def _layers() -> Path:
    from opskit.layer import kept_layers

    return kept_layers()
