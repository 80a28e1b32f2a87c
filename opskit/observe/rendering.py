"""templates/ and an environment make what watches it: Prometheus, Alertmanager, Grafana.

Pure: the same environment and root give the same text. No secret is in it: receivers name files
below the root. Rules are checked before they are given (see `rules`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Final

import jinja2

from opskit import host_names
from opskit.environment import Environment
from opskit.failure import Failure
from opskit.observe import rules
from opskit.observe.pace import Pace, percent, size
from opskit.observe.panels import Panels
from opskit.render import TEMPLATES

RUNBOOKS: Final = TEMPLATES.parent / "docs" / "runbooks"
FILES: Final[Mapping[str, str]] = {
    "prometheus/prometheus.yml": "prometheus/prometheus.yml.j2",
    "prometheus/rules/recording.yml": "prometheus/rules/recording.yml.j2",
    "prometheus/rules/alerts.yml": "prometheus/rules/alerts.yml.j2",
    "prometheus/targets/chat-{environment}.yml": "prometheus/targets/chat.yml.j2",
    "prometheus/targets/opskit-{environment}.yml": "prometheus/targets/opskit.yml.j2",
    "alertmanager/alertmanager.yml": "alertmanager/alertmanager.yml.j2",
    "alertmanager/chat.tmpl": "alertmanager/chat.tmpl.j2",
    "grafana/provisioning/datasources/chat.yml": "grafana/datasource.yml.j2",
    "grafana/provisioning/dashboards/chat.yml": "grafana/dashboards.yml.j2",
}
"""Path below the configuration -> template."""
_AS_WRITTEN: Final = Pace()


def render_monitoring(
    environment: Environment,
    *,
    root: Path | PurePosixPath | None = None,
    pace: Pace = _AS_WRITTEN,
) -> dict[str, str]:
    """Give everything that the monitoring of an environment runs from: path -> content.

    Args:
        environment: what is watched, and at which thresholds.
        root: where the monitoring lies, when that is not `<root>/monitoring` of the environment.
        pace: how fast the rules' clock goes.

    Raises:
        Failure: a template is missing, or an alert lacks what every alert must have.
    """
    place = PurePosixPath(root or environment.root / "monitoring")
    panels = Panels.load()
    values = _values(environment, place, pace, panels)
    files = {
        path.format(environment=environment.name): template(name).render(**values)
        for path, name in FILES.items()
    }
    rules.check(files["prometheus/rules/alerts.yml"], runbooks=RUNBOOKS)
    return files | {f"grafana/dashboards/{name}": text for name, text in panels.files.items()}


def _values(
    environment: Environment, place: PurePosixPath, pace: Pace, panels: Panels
) -> dict[str, Any]:
    monitoring = environment.monitoring
    alerts = monitoring.alerts
    return {
        "environment": environment.name,
        "monitoring": monitoring,
        "alerts": alerts,
        "receivers": monitoring.receivers,
        "interval": f"{monitoring.scrape_interval}s",
        "timeout": f"{min(monitoring.scrape_interval, 10)}s",
        "targets": scrape_addresses(environment),
        "place": str(place),
        "secrets": str(place / "secrets"),
        "window": pace.window,
        "hold": pace.hold,
        "seconds": pace.seconds,
        "percent": percent,
        "size": size,
        "burn": lambda factor: f"{factor * (1 - alerts.slo):.6g}",
        "alert": _alert(environment, panels),
    }


def _alert(environment: Environment, panels: Panels) -> Callable[..., str]:
    """Give what writes an alert around its expression: labels before, links after."""
    monitoring = environment.monitoring

    def alert(
        name: str,
        severity: str,
        category: str,
        dashboard: str,
        panel: str,
        *,
        caller: Callable[[], str],
        **labels: str,
    ) -> str:
        number = panels.number(dashboard, panel, wanted_by=name)
        told = {"severity": severity, "category": category, **labels}
        lines = [f"      - alert: {name}", "        labels:"]
        lines += [f"          {key}: {value}" for key, value in told.items()]
        query = f"viewPanel={number}&var-environment={environment.name}"
        links = [
            f"          runbook_url: {monitoring.runbooks_url.rstrip('/')}/{name}.md",
            f"          dashboard_url: {monitoring.grafana_url.rstrip('/')}/d/{dashboard}?{query}",
        ]
        return "\n".join([*lines, caller().rstrip("\n"), *links]) + "\n"

    return alert


def scrape_addresses(environment: Environment) -> list[str]:
    """Give where Prometheus asks for the metrics of each process of an environment.

    On this machine that is the admin port of each node. On hosts it is each host's, unless the
    admin port is on loopback there: then only a Prometheus on that host reaches it.
    """
    if environment.target == "local":
        nodes = (environment.node(number) for number in range(1, environment.nodes + 1))
        return [_joined(*_admin(node)) for node in nodes]
    if admin_on_loopback(environment):
        return [_joined(*_admin(environment))]
    port = environment.settings.service.admin_port
    return [_joined(host_names.name_of(host), port) for host in environment.hosts]


def admin_on_loopback(environment: Environment) -> bool:
    """Say whether the metrics can be read on each host alone."""
    return environment.settings.service.admin_host in ("127.0.0.1", "::1", "localhost")


def _admin(environment: Environment) -> tuple[str, int]:
    bound = environment.settings.service
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bound.admin_host, bound.admin_host)  # noqa: S104 - recognised, not bound
    return host, bound.admin_port


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@cache
def _templates() -> jinja2.Environment:
    """Templates whose marks are `<<` and `<%`: `{{` belongs to Prometheus' own templates."""
    if not TEMPLATES.is_dir():
        raise Failure(
            f"{TEMPLATES} is missing",
            hint="opskit runs from a checkout of its repository: run `make dev` there",
        )
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 - YAML, not HTML; what a person wrote goes through `yaml`
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
    )
    templates.filters["yaml"] = lambda text: json.dumps(text, ensure_ascii=False)
    return templates


def template(name: str) -> jinja2.Template:
    """Give a template whose marks are `<<` and `<%`."""
    return _templates().get_template(name)
