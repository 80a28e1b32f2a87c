"""The command line: parses, calls, shows. Nothing else.

What a command needs is imported when it runs, so that `opskit --help` answers at once.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from opskit.failure import Failure, Misuse
from opskit.observe.cli import register
from opskit.problems import ConfigError
from opskit.provision.cli import register as register_provision

if TYPE_CHECKING:
    from opskit.deploy.plan import Observer
    from opskit.environment import Environment, Environments
    from opskit.fleet import Fleet
    from opskit.operations import OnCheck, Operation
    from opskit.ui import Ui

app = typer.Typer(
    name="opskit",
    help="Deploys, proves, watches and rolls back the chat service.",
    epilog="Exit status: 0 done; 1 failed, and nothing changed or all was undone; 2 wrong usage or "
    "configuration; 3 a person is needed (the command to run is shown).",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Env = Annotated[str, typer.Argument(metavar="ENV", help="An environment of environments.yaml.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, with stable keys.")]
_FILE = "environments.yaml"


class Session:
    """What the global options said, for the command that runs."""

    def __init__(self) -> None:
        self.file: Path | None = None

    def environments(self) -> Environments:
        """Read environments.yaml: the one given, or the nearest from here upward."""
        from opskit.environment import load_environments

        return load_environments(self.file or _nearest())

    def environment(self, name: str) -> Environment:
        """Give one environment."""
        return self.environments().get(name)

    def fleet(self, name: str) -> Fleet:
        """Reach one environment's nodes."""
        from opskit.fleet import connect

        return connect(self.environment(name))

    def ui(self, stream: Any = None) -> Ui:
        """Give what speaks to a person."""
        from opskit.terminal import Terminal
        from opskit.ui import Ui, program

        options = ["--environments", str(self.file)] if self.file else []
        return Ui(Terminal(stream or sys.stdout), program(options))


session = Session()


def _nearest() -> Path:
    here = Path.cwd()
    for directory in (here, *here.parents):
        if (directory / _FILE).is_file():
            return directory / _FILE
    return here / _FILE


@app.callback()
def _global(
    environments: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=f"The environments (default: {_FILE}, here or in a directory above).",
        ),
    ] = None,
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
) -> None:
    session.file = environments


# --- acts -------------------------------------------------------------------------------------


@app.command()
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

            _print(plan_report(act, planned, changes))
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


@app.command()
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


@app.command()
def stop(env: Env, as_json: Json = False) -> None:
    """Stop the service; the data stays."""
    from opskit import operations

    fleet = session.fleet(env)

    def prepare(observe: Observer, on_check: OnCheck | None) -> Operation:
        return operations.stop(fleet, observe=observe)

    _carry_out(session.ui(), prepare, "Stopping", fleet.environment, as_json)


@app.command()
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
            _print(act_report(operation.act, steps, failure))
            raise typer.Exit(failure.status) from None
        if operation.act.report is not None and not operation.act.report.ok:
            ui.smoke(operation.act.report)
        raise
    if as_json:
        _print(act_report(operation.act, steps, None))
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


# --- looking ----------------------------------------------------------------------------------


@app.command()
def status(env: Env, as_json: Json = False) -> None:
    """Show how it is; exit status 1 when it does not serve."""
    from opskit.status import look

    seen = look(session.fleet(env), watching=True)
    if as_json:
        _print(seen.to_json())
    else:
        from opskit.views import show_status

        show_status(session.ui(), seen)
    if not seen.ok:
        raise typer.Exit(1)


@app.command()
def deployments(
    env: Env,
    limit: Annotated[int, typer.Option(min=1, help="How many to show, newest first.")] = 20,
    as_json: Json = False,
) -> None:
    """Show who deployed or rolled back what, when, and with which result."""
    from opskit.status import look

    seen = look(session.fleet(env))
    if as_json:
        from opskit.reports import deployments_report

        _print(deployments_report(seen, limit))
    else:
        from opskit.views import show_deployments

        show_deployments(session.ui(), seen, limit)


@app.command()
def check(env: Env, as_json: Json = False) -> None:
    """Show whether a deploy could work here; changes nothing."""
    from opskit.preflight import examine

    verdicts = examine(session.fleet(env))
    if as_json:
        from opskit.reports import check_report

        _print(check_report(env, verdicts))
    else:
        from opskit.views import show_verdicts

        show_verdicts(session.ui(), verdicts)
    if not all(one.ok for one in verdicts):
        raise typer.Exit(1)


@app.command()
def smoke(
    env: Env,
    users: Annotated[int | None, typer.Option(min=2, help="How many simulated users.")] = None,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write JUnit XML there too.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Prove as several users that the service works."""
    from opskit.progress import Progress
    from opskit.smoke import smoke_now

    fleet, ui = session.fleet(env), session.ui()
    if as_json:
        report = smoke_now(fleet, users=users)
    else:
        with Progress(ui.terminal).watching("smoke") as on_check:
            report = smoke_now(fleet, users=users, on_result=on_check)
    if junit is not None:
        try:
            junit.write_text(report.to_junit(), encoding="utf-8")
        except OSError as error:
            raise Misuse(f"{junit}: cannot be written: {error.strerror}") from None
    if as_json:
        _print({"environment": env, **report.to_dict()})
    else:
        ui.smoke(report)
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def tail(
    env: Env,
    form: Annotated[
        str | None,
        typer.Option("--format", metavar="pretty|json", help="Default: pretty on a terminal."),
    ] = None,
    search: Annotated[str, typer.Option(metavar="TEXT", help="Only lines that hold it.")] = "",
    level: Annotated[
        str, typer.Option(metavar="LEVEL", help="Only this level and worse: info, warning, error.")
    ] = "",
    workspace: Annotated[str, typer.Option(metavar="ID", help="Only about this workspace.")] = "",
    since: Annotated[
        str, typer.Option(metavar="WHEN", help="Only from then on: 15m (ago), or a date and time.")
    ] = "",
    lines: Annotated[int, typer.Option(min=0, help="How many of the last lines first.")] = 20,
    follow: Annotated[bool, typer.Option(help="Wait for more.")] = True,
) -> None:
    """Show the log, and what is added to it."""
    from opskit.log import show

    show(
        session.fleet(env),
        form=form,
        search=search,
        level=level,
        workspace=workspace,
        since=since,
        lines=lines,
        follow=follow,
        ui=session.ui(),
        aside=session.ui(sys.stderr),
    )


@app.command("exec", context_settings={"ignore_unknown_options": True})
def execute(
    env: Env,
    words: Annotated[list[str], typer.Argument(metavar="-- COMMAND", help="What to run.")],
) -> None:
    """Run a command on every node, as root on hosts; exit status 1 when it fails on one."""
    from opskit.execute import execute as run

    statuses = run(session.fleet(env), words, ui=session.ui(), aside=session.ui(sys.stderr))
    if any(statuses.values()):
        raise typer.Exit(1)


# --- other ------------------------------------------------------------------------------------


@app.command()
def render(
    env: Env,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write the files there.")] = None,
    diff: Annotated[bool, typer.Option("--diff", help="Compare with what is live.")] = False,
    as_json: Json = False,
) -> None:
    """Show the configuration that a deploy would bring."""
    from opskit.render import render as rendered
    from opskit.rendering import differences, write

    if diff:
        found = differences(session.fleet(env))
        if as_json:
            _print({"environment": env, "differs": bool(found), "diff": found})
        else:
            session.ui().diff(found)
        return
    files = rendered(session.environment(env))
    if out is not None:
        written = [str(path) for path in write(files, out)]
        if as_json:
            _print({"environment": env, "written": written})
        else:
            for path in written:
                typer.echo(path)
    elif as_json:
        _print({"environment": env, "files": files})
    else:
        session.ui().files(files)


@app.command()
def token(
    env: Env,
    workspace: Annotated[
        list[str], typer.Option(metavar="ID", help="Where it lets in; may be given again.")
    ],
    user: Annotated[str, typer.Option(metavar="ID", help="For whom.")],
    name: Annotated[str, typer.Option(help="As whom others see them.")] = "",
    ttl: Annotated[
        str, typer.Option(metavar="TIME", help="How long it is valid: 90s, 15m, 2h.")
    ] = "1h",
    as_json: Json = False,
) -> None:
    """Print a token to connect with."""
    from opskit.tokens import issue

    issued = issue(session.environment(env), workspaces=workspace, user=user, name=name, ttl=ttl)
    if as_json:
        _print(issued.to_json())
        return
    typer.echo(issued.token)
    if sys.stdout.isatty():
        session.ui(sys.stderr).connect_with(issued)


def _print(report: Any) -> None:
    typer.echo(json.dumps(report, indent=2, ensure_ascii=False))


print_json = _print
register(app)
register_provision(app)


# --- the program ------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and end with its exit status."""
    arguments = hoist(sys.argv[1:] if argv is None else argv)
    try:
        app(arguments, prog_name="opskit")
    except (Failure, ConfigError) as error:
        _explain(error, arguments)
        sys.exit(error.status)
    except KeyboardInterrupt:
        sys.exit(1)
    except OSError as error:
        said = f"{error.filename or 'system'}: {error.strerror}"
        _explain(Failure(said).with_traceback(error.__traceback__), arguments)
        sys.exit(1)
    except Exception as error:
        said = f"internal error: {type(error).__name__}: {error}"
        bug = Failure(said, hint="see where with: --debug").with_traceback(error.__traceback__)
        _explain(bug, arguments)
        sys.exit(1)
    sys.exit(0)


def _explain(error: Failure | ConfigError, arguments: Sequence[str]) -> None:
    """Say what went wrong: as JSON where that was asked for, else on standard error."""
    if "--debug" in arguments:
        import traceback

        traceback.print_exception(error)
    if "--json" in arguments:
        from opskit.reports import error_report

        _print(error_report(error))
    else:
        session.ui(sys.stderr).error(error)


def hoist(arguments: Sequence[str]) -> list[str]:
    """Let the global options stand anywhere: move them to the front."""
    first: list[str] = []
    rest: list[str] = []
    waiting = iter(arguments)
    for one in waiting:
        if one == "--":
            rest += [one, *waiting]
        elif one == "--debug" or one.startswith("--environments="):
            first.append(one)
        elif one == "--environments":
            first += [one, *([value] if (value := next(waiting, None)) is not None else [])]
        else:
            rest.append(one)
    return first + rest
