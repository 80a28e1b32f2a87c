"""What `--json` prints: plain values under stable keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from opskit.commands import shown
from opskit.deploy.plan import Event, Kind
from opskit.failure import Failure
from opskit.layout import release_name
from opskit.problems import ConfigError

if TYPE_CHECKING:
    from opskit.deploy.act import Act
    from opskit.deploy.dry_run import Differences, Planned
    from opskit.deploy.preflight import Verdict
    from opskit.status import Status


class Steps:
    """Collects what happened to each step."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def __call__(self, event: Event) -> None:
        """Note how a step ended."""
        if event.kind in (Kind.STARTED, Kind.UNDOING, Kind.NOTE):
            return
        self.seen.append(
            {
                "step": event.step,
                "node": event.node,
                "outcome": event.kind.value,
                "detail": event.text,
                "seconds": round(event.seconds, 3),
            }
        )


def error_report(error: Failure | ConfigError) -> dict[str, Any]:
    """Say what went wrong."""
    if isinstance(error, ConfigError):
        problems = [{"where": one.where, "key": one.key, "why": one.why} for one in error.problems]
        return {
            "ok": False,
            "status": error.status,
            "error": str(error),
            "next": "",
            "log": [],
            "problems": problems,
        }
    return {
        "ok": False,
        "status": error.status,
        "error": str(error),
        "next": error.hint,
        "log": list(error.lines),
        "problems": [],
    }


def act_report(act: Act, steps: Steps, failure: Failure | None) -> dict[str, Any]:
    """Say how a deploy, rollback or stop went."""
    outcome = error_report(failure) if failure else {"ok": True, "status": 0}
    return {
        **outcome,
        "environment": act.environment.name,
        "action": act.action.value,
        "id": act.id,
        "release": release_name(act.number) if act.number else None,
        "from": release_name(act.before) if act.before else None,
        "changed": not act.unchanged and failure is None,
        "url": act.environment.base_url,
        "seconds": round((datetime.now(UTC) - act.started).total_seconds(), 3),
        "secrets_changed": list(act.changed_secrets),
        "warnings": act.warnings,
        "steps": steps.seen,
        "smoke": act.report.to_dict() if act.report else None,
    }


def plan_report(act: Act, planned: Sequence[Planned], changes: Differences) -> dict[str, Any]:
    """Say what a deploy would do."""
    return {
        "ok": True,
        "status": 0,
        "environment": act.environment.name,
        "action": act.action.value,
        "release": act.name,
        "from": release_name(act.before) if act.before else None,
        "changed": not act.unchanged,
        "secrets_changed": list(act.changed_secrets),
        "files": {
            "added": list(changes.added),
            "changed": list(changes.changed),
            "removed": list(changes.removed),
        },
        "configuration_diff": changes.configuration,
        "steps": [
            {
                "step": one.step,
                "node": one.node,
                "description": one.text,
                "skipped": one.skipped,
                "result": one.result,
                "commands": [
                    {
                        "description": command.description,
                        "changes": command.changes,
                        "command": shown(command),
                    }
                    for command in one.commands
                ],
            }
            for one in planned
        ],
    }


def deployments_report(status: Status, limit: int) -> dict[str, Any]:
    """Give the record, newest first."""
    record = status.record
    current = next((node.facts.current for node in status.seen if node.facts.current), None)
    newest = list(reversed(record.deployments))[:limit]
    return {
        "environment": status.fleet.environment.name,
        "current": release_name(current) if current else None,
        "deployments": [one.to_json() for one in newest],
        "unreadable_lines": list(record.torn),
    }


def check_report(environment: str, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Say what `check` found."""
    return {
        "environment": environment,
        "ok": all(one.ok for one in verdicts),
        "checks": [
            {
                "node": one.node,
                "name": one.name,
                "ok": one.ok,
                "detail": one.detail,
                "next": one.hint,
            }
            for one in verdicts
        ],
    }
