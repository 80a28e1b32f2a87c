"""Writes the dashboards: `python -m opskit.observe.dashboards [DIRECTORY]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from opskit.observe.dashboards import connections, deployments, overview, rooms, saturation
from opskit.observe.panels import DASHBOARDS

_BUILDERS: Final = (overview, connections, rooms, saturation, deployments)


def dashboards() -> dict[str, str]:
    """Give every dashboard: file name -> JSON, the same at each call."""
    built = [module.build() for module in _BUILDERS]
    return {f"{one.uid}.json": _text(one) for one in built}


def _text(one: Dashboard) -> str:
    tree: Any = json.loads(JSONEncoder().encode(one))
    return json.dumps(tree, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def write(files: Mapping[str, str], directory: Path) -> None:
    """Write the dashboards, and remove those that are no more."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.glob("*.json"):
        if path.name not in files:
            path.unlink()
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(dashboards(), Path(sys.argv[1]) if len(sys.argv) > 1 else DASHBOARDS)
