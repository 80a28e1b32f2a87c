"""What these tests run for real, and what becomes of them where it is not installed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
NEEDED = {
    "promtool": {"test_rules.py", "test_rendering.py", "test_probe.py"},
    "prometheus": {"test_alerts_live.py", "test_monitor.py"},
    "amtool": {"test_rendering.py"},
    "prometheus-alertmanager": {"test_alerts_live.py", "test_monitor.py", "test_receivers.py"},
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where Prometheus is not installed these tests do not run; in CI that is a failure."""
    if os.environ.get("CI") == "true":
        return
    for program, files in NEEDED.items():
        if shutil.which(program) is not None:
            continue
        skipped = pytest.mark.skip(reason=f"{program} is not installed; see tests/install")
        for item in items:
            if item.path.parent == HERE and item.path.name in files:
                item.add_marker(skipped)
