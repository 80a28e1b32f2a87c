"""The committed dashboards, as far as others point into them: which panel has which number."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from opskit.failure import Failure
from opskit.render import TEMPLATES

DASHBOARDS: Final = TEMPLATES / "grafana" / "dashboards"


@cache
def _parsed(text: str) -> dict[str, Any]:
    dashboard: dict[str, Any] = json.loads(text)
    return dashboard


@dataclass(frozen=True)
class Panels:
    """The dashboards by file name, each as Grafana reads it."""

    files: Mapping[str, str]

    @classmethod
    def load(cls, directory: Path = DASHBOARDS) -> Panels:
        """Read the committed dashboards."""
        return cls(
            {
                path.name: path.read_text(encoding="utf-8")
                for path in sorted(directory.glob("*.json"))
            }
        )

    def dashboards(self) -> Iterator[dict[str, Any]]:
        """Give each dashboard."""
        for text in self.files.values():
            yield _parsed(text)

    def number(self, dashboard: str, title: str, *, wanted_by: str) -> int:
        """Give the number of a panel.

        Raises:
            Failure: there is no such panel, to which an alert points.
        """
        titles: list[str] = []
        for one in self.dashboards():
            if one["uid"] != dashboard:
                continue
            for panel in one["panels"]:
                if panel["title"] == title:
                    return int(panel["id"])
                titles.append(panel["title"])
        known = f"there are: {', '.join(titles)}" if titles else "there is no such dashboard"
        raise Failure(
            f"alert {wanted_by}: links to the panel {title!r} of the dashboard {dashboard!r}; "
            f"{known}",
            hint="name one of them in templates/prometheus/rules/alerts.yml.j2",
        )
