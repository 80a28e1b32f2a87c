"""`opskit provision`: parse, call and show."""

from __future__ import annotations

from typing import Annotated

import typer

from opskit.failure import Failure, Misuse
from opskit.session import Env, Json, print_json, session


def register(app: typer.Typer) -> None:
    """Add the command to opskit's own."""
    app.command()(provision)


def provision(
    env: Env,
    plan: Annotated[
        bool, typer.Option("--plan", help="Show what would be done; do nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make fresh Debian hosts ready to deploy to; changes only what is not so already."""
    from opskit.provision import run, views

    environment = session.environment(env)
    if environment.target != "ssh":
        raise Misuse(
            f"{environment.where('target')}: {env} is on this machine, which needs no provisioning",
            hint=f"opskit deploy {env}",
        )
    environment.require_deployable()
    nodes = run.nodes_of(environment)
    ui = session.ui()
    ui.terminal.outlive()
    if not as_json:
        ui.heading("Provisioning (plan only)" if plan else "Provisioning", environment)
    if plan:
        outcomes = run.planned(nodes)
    elif as_json:
        outcomes = run.provision(nodes)
    else:
        outcomes = run.provision(nodes, views.progress(ui))
    if as_json:
        print_json({"environment": env, "plan": plan, **views.to_json(outcomes)})
    elif plan:
        views.show_plan(ui, outcomes)
    else:
        views.show(ui, environment, outcomes)
    if environment.monitoring.host and not as_json:
        from opskit.observe.provisioning import warnings

        ui.warnings(warnings(environment))
    failures = [one.failure for one in outcomes if one.failure is not None]
    if failures and as_json:
        raise typer.Exit(1)
    if failures:
        raise _together(failures, len(nodes))


def _together(failures: list[Failure], hosts: int) -> Failure:
    """Give the failures of several hosts as one; a single one is itself."""
    if len(failures) == 1:
        return failures[0]
    ready = f"{len(failures)} of {hosts} hosts are not ready"
    lines = [f"{failure}; {failure.hint}" if failure.hint else str(failure) for failure in failures]
    return Failure(ready, lines=lines)
