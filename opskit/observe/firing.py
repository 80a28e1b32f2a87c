"""`opskit alerts`: what fires, as Alertmanager and Prometheus tell it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from opskit.environment import Environment
from opskit.failure import Failure

if TYPE_CHECKING:
    import httpx

_HTTP: Final = 10.0
_ORDER: Final = {"critical": 0, "warning": 1, "none": 2}


@dataclass(frozen=True)
class Firing:
    """One alert that fires, or is about to.

    Attributes:
        name, severity, state: `state` is firing, pending, silenced or inhibited.
        since: when it began; RFC 3339.
        labels: what tells it from others of its name.
        summary, description, runbook, dashboard: for whoever is woken by it.
    """

    name: str
    severity: str
    state: str
    since: str
    labels: Mapping[str, str]
    summary: str
    description: str
    runbook: str
    dashboard: str

    @property
    def age(self) -> float:
        """For how many seconds it has been so."""
        return (datetime.now(UTC) - datetime.fromisoformat(self.since)).total_seconds()


@dataclass(frozen=True)
class Seen:
    """What is seen from the outside.

    Attributes:
        environment: of what.
        alerts: what fires or is pending, the worst first; the watchdog apart.
        watchdog: whether the watchdog has reached Alertmanager, so that the others would too.
    """

    environment: str
    alerts: tuple[Firing, ...]
    watchdog: bool

    @property
    def ok(self) -> bool:
        """Whether nothing fires, and it would be known if it did."""
        return self.watchdog and not any(one.state == "firing" for one in self.alerts)

    def to_json(self) -> dict[str, Any]:
        """Give it for --json; the keys are stable."""
        return {
            "ok": self.ok,
            "watchdog": self.watchdog,
            "alerts": [
                {
                    "name": one.name,
                    "severity": one.severity,
                    "state": one.state,
                    "since": one.since,
                    "labels": dict(one.labels),
                    "summary": one.summary,
                    "description": one.description,
                    "runbook": one.runbook,
                    "dashboard": one.dashboard,
                }
                for one in self.alerts
            ],
        }


def look(environment: Environment) -> Seen:
    """Ask Alertmanager what fires, and Prometheus what is about to.

    Raises:
        Failure: one of them does not answer.
    """
    from opskit.observe.reach import client, reached  # here: it loads an HTTP client

    ports = environment.monitoring
    with reached(environment) as transport, client(transport, _HTTP) as asks:
        told = _get(environment, asks, ports.alertmanager_port, "Alertmanager", "/api/v2/alerts")
        rules = _get(environment, asks, ports.prometheus_port, "Prometheus", "/api/v1/alerts")
    return seen_in(environment, told, rules["data"]["alerts"])


def seen_in(
    environment: Environment, told: Sequence[Mapping[str, Any]], rules: Sequence[Mapping[str, Any]]
) -> Seen:
    """Give what is seen in the answers of both.

    Args:
        environment: whose alerts.
        told: what Alertmanager was told of, `/api/v2/alerts`.
        rules: what Prometheus has in its rules, the `alerts` of `/api/v1/alerts`.
    """
    alerts = [_told(one) for one in told]
    alerts += [_pending(one) for one in rules if one["state"] == "pending"]
    mine = [one for one in alerts if one.labels.get("environment") == environment.name]
    watchdog = any(one.name == "Watchdog" for one in mine)
    shown = [one for one in mine if one.name != "Watchdog"]
    shown.sort(key=lambda one: (one.state != "firing", _ORDER.get(one.severity, 3), one.since))
    return Seen(environment.name, tuple(shown), watchdog)


def _get(environment: Environment, asks: httpx.Client, port: int, who: str, path: str) -> Any:
    import httpx

    try:
        answer = asks.get(f"http://127.0.0.1:{port}{path}")
        return answer.raise_for_status().json()
    except (httpx.HTTPError, ValueError) as error:
        raise Failure(
            f"{environment.name}: nobody watches: {who} does not answer on port {port} ({error})",
            hint=f"opskit monitor {environment.name}",
        ) from None


def _told(one: Mapping[str, Any]) -> Firing:
    status = one["status"]
    state = "firing"
    if status["silencedBy"]:
        state = "silenced"
    elif status["inhibitedBy"]:
        state = "inhibited"
    return _firing(one, state, one["startsAt"])


def _pending(one: Mapping[str, Any]) -> Firing:
    return _firing(one, "pending", one["activeAt"])


def _firing(one: Mapping[str, Any], state: str, since: str) -> Firing:
    labels, notes = dict(one["labels"]), one["annotations"]
    name, severity = labels.pop("alertname"), labels.pop("severity", "none")
    whole, _, fraction = since.removesuffix("Z").partition(".")
    stamp = f"{whole}.{(fraction or '0')[:6]}+00:00"  # RFC 3339 with nanoseconds
    return Firing(
        name=name,
        severity=severity,
        state=state,
        since=stamp,
        labels=labels,
        summary=str(notes.get("summary", "")),
        description=str(notes.get("description", "")),
        runbook=str(notes.get("runbook_url", "")),
        dashboard=str(notes.get("dashboard_url", "")),
    )
