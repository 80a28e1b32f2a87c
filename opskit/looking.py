"""The commands that look at an environment, or ask something of it; they parse, call and show."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from opskit.failure import Misuse
from opskit.session import Env, Json, print_json, session


def register(app: typer.Typer) -> None:
    """Add the commands to opskit's own."""
    for command in (status, deployments, check, smoke, tail):
        app.command()(command)
    app.command("exec", context_settings={"ignore_unknown_options": True})(execute)
    app.command()(render)
    app.command()(token)


def status(env: Env, as_json: Json = False) -> None:
    """Show how it is; exit status 1 when it does not serve."""
    from opskit.status import look

    seen = look(session.fleet(env), watching=True)
    if as_json:
        print_json(seen.to_json())
    else:
        from opskit.views import show_status

        show_status(session.ui(), seen)
    if not seen.ok:
        raise typer.Exit(1)


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

        print_json(deployments_report(seen, limit))
    else:
        from opskit.views import show_deployments

        show_deployments(session.ui(), seen, limit)


def check(env: Env, as_json: Json = False) -> None:
    """Show whether a deploy could work here; changes nothing."""
    from opskit.preflight import examine

    verdicts = examine(session.fleet(env))
    if as_json:
        from opskit.reports import check_report

        print_json(check_report(env, verdicts))
    else:
        from opskit.views import show_verdicts

        show_verdicts(session.ui(), verdicts)
    if not all(one.ok for one in verdicts):
        raise typer.Exit(1)


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
        print_json({"environment": env, **report.to_dict()})
    else:
        ui.smoke(report)
    if not report.ok:
        raise typer.Exit(1)


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


def execute(
    env: Env,
    words: Annotated[list[str], typer.Argument(metavar="-- COMMAND", help="What to run.")],
) -> None:
    """Run a command on every node, as root on hosts; exit status 1 when it fails on one."""
    from opskit.execute import execute as run

    statuses = run(session.fleet(env), words, ui=session.ui(), aside=session.ui(sys.stderr))
    if any(statuses.values()):
        raise typer.Exit(1)


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
            print_json({"environment": env, "differs": bool(found), "diff": found})
        else:
            session.ui().diff(found)
        return
    files = rendered(session.environment(env))
    if out is not None:
        written = [str(path) for path in write(files, out)]
        if as_json:
            print_json({"environment": env, "written": written})
        else:
            for path in written:
                typer.echo(path)
    elif as_json:
        print_json({"environment": env, "files": files})
    else:
        session.ui().files(files)


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
        print_json(issued.to_json())
        return
    typer.echo(issued.token)
    if sys.stdout.isatty():
        session.ui(sys.stderr).connect_with(issued)
