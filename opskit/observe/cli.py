"""The commands that watch: monitor, alerts, probe, top, dashboard. They parse, call and show."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from opskit.failure import Misuse
from opskit.session import Env, Json, print_json, session

if TYPE_CHECKING:
    from opskit.environment import Environment


def register(app: typer.Typer) -> None:
    """Add the commands to opskit's own."""
    for command in (monitor, alerts, probe, top, dashboard):
        app.command()(command)


def monitor(
    env: Env,
    stop: Annotated[bool, typer.Option("--stop", help="End what watches it.")] = False,
    as_json: Json = False,
) -> None:
    """Watch it, from here or its monitoring host: Prometheus and all; started or updated."""
    from opskit.observe import views
    from opskit.observe.local import site_of, watch

    environment = session.environment(env)
    if environment.monitoring.host:
        _monitor_there(environment, stop=stop, as_json=as_json)
        return
    site = site_of(environment, file=session.file)
    if stop:
        ended = site.stop()
        if as_json:
            print_json({"environment": env, "stopped": ended})
        else:
            views.show_stopped(session.ui(), environment, ended)
        return
    changes = watch(environment, site)
    if as_json:
        print_json({"environment": env, **views.changes_json(environment, site, changes)})
    else:
        views.show_changes(session.ui(), environment, site, changes)


def _monitor_there(environment: Environment, *, stop: bool, as_json: bool) -> None:
    """Do the same on the monitoring host."""
    from opskit.observe import views
    from opskit.observe.remote import remote_site, watch

    with remote_site(environment) as site:
        if stop:
            ended = site.stop()
            if as_json:
                print_json({"environment": environment.name, "stopped": ended})
            else:
                views.show_stopped(session.ui(), environment, ended)
            return
        changes = watch(site, session.fleet(environment.name))
        if as_json:
            print_json(
                {"environment": environment.name, **views.changes_json(environment, site, changes)}
            )
        else:
            views.show_changes(session.ui(), environment, site, changes)


def alerts(env: Env, as_json: Json = False) -> None:
    """Show which alerts fire; exit status 1 when one does, or when nobody watches."""
    from opskit.observe import views
    from opskit.observe.firing import look

    seen = look(session.environment(env))
    if as_json:
        print_json({"environment": env, **seen.to_json()})
    else:
        views.show_alerts(session.ui(), seen)
    if not seen.ok:
        raise typer.Exit(1)


def probe(
    env: Env,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Where to write the metrics (default: <root>/monitoring/metrics)."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run the smoke test once and export its result; exit status 1 when it fails."""
    from opskit.observe.local import probe_now
    from opskit.progress import Progress

    fleet, ui = session.fleet(env), session.ui()
    if as_json:
        found, path = probe_now(fleet, out)
        print_json({"environment": env, "written": str(path), **found.to_json()})
    else:
        from opskit.observe import views

        with Progress(ui.terminal).watching("probe") as on_check:
            found, path = probe_now(fleet, out, on_result=on_check)
        views.show_probe(ui, found, path)
    if not found.ok:
        raise typer.Exit(1)


def top(
    env: Env,
    by: Annotated[
        str, typer.Option(metavar="messages|bytes|connections", help="What to rank by.")
    ] = "messages",
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many to show.")] = 10,
    as_json: Json = False,
) -> None:
    """Show the workspaces that make the most of it."""
    from opskit.observe import views
    from opskit.observe.top import RANKS, look

    if by not in RANKS:
        raise Misuse(f"--by {by}: expected one of {', '.join(RANKS)}")
    seen = look(session.fleet(env), by=by, limit=limit)
    if as_json:
        print_json({"environment": env, **seen.to_json()})
    else:
        views.show_top(session.ui(), seen)


def dashboard(
    env: Env,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to write it (default: a new file).")
    ] = None,
    since: Annotated[str, typer.Option(metavar="TIME", help="How far back: 15m, 3h, 7d.")] = "3h",
) -> None:
    """Draw the dashboards as one HTML page, for a person without Grafana; prints its path."""
    from opskit.durations import BadDuration, parse_duration
    from opskit.observe.page import draw

    try:
        seconds = parse_duration(since)
    except BadDuration as error:
        raise Misuse(f"--since: {error}") from None
    path = draw(session.environment(env), seconds=seconds, out=out)
    typer.echo(path)
    if sys.stdout.isatty():
        session.ui(sys.stderr).say(f"open it: file://{path.absolute()}")
