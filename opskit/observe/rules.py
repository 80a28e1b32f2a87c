"""What every alert must have before it may be deployed, checked in the rendered rules.

An alert that wakes somebody without saying what it means, what to do and where to look is worse
than none: whoever is woken learns to ignore it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from opskit.failure import Failure

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
SEVERITIES: Final = ("critical", "warning", "none")
CATEGORIES: Final = (
    "availability", "errors", "latency", "deployment", "connections", "rooms", "storage",
    "saturation", "disk", "certificate", "probe", "monitoring",
)  # fmt: skip
ANNOTATIONS: Final = ("summary", "description", "runbook_url", "dashboard_url")
SECTIONS: Final = ("Symptom", "How to look", "How to mend")


def alerts(text: str) -> list[dict[str, Any]]:
    """Give the alerts of a rules file."""
    groups = yaml.load(text, Loader=_LOADER)["groups"]  # noqa: S506 - the safe one, in C
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def check(text: str, *, runbooks: Path) -> None:
    """Check that every alert of a rules file is complete.

    Raises:
        Failure: some are not; says all that is missing.
    """
    problems: list[str] = []
    seen: set[tuple[str, ...]] = set()
    for rule in alerts(text):
        problems += _problems(rule, runbooks)
        key = (rule["alert"], *sorted(map(str, (rule.get("labels") or {}).items())))
        if key in seen:
            problems.append(f"{rule['alert']}: is there twice with the same labels")
        seen.add(key)
    if problems:
        raise Failure("\n".join(["alerts are incomplete:", *problems]))


def _problems(rule: Mapping[str, Any], runbooks: Path) -> Iterator[str]:
    name, labels = rule["alert"], rule.get("labels") or {}
    told = rule.get("annotations") or {}
    if not re.fullmatch(r"[A-Z][A-Za-z]+", name):
        yield f"{name}: an alert is named in CamelCase"
    for label, known in (("severity", SEVERITIES), ("category", CATEGORIES)):
        if labels.get(label) not in known:
            yield f"{name}: has no {label}; one of: {', '.join(known)}"
    for annotation in ANNOTATIONS:
        if not str(told.get(annotation) or "").strip():
            yield f"{name}: has no {annotation}"
    yield from _runbook(name, runbooks / f"{name}.md")


def _runbook(name: str, path: Path) -> Iterator[str]:
    if not path.is_file():
        yield f"{name}: has no runbook; write docs/runbooks/{path.name}"
        return
    text = path.read_text(encoding="utf-8")
    parts = {
        title.strip(): body
        for title, body in re.findall(r"^## (.+)\n((?:(?!^## ).*\n?)*)", text, re.MULTILINE)
    }
    for section in SECTIONS:
        if not parts.get(section, "").strip():
            yield f"{name}: docs/runbooks/{path.name} says nothing under `## {section}`"
    if not re.search(r"\bopskit [a-z]+", text):
        yield f"{name}: docs/runbooks/{path.name} names no opskit command"
