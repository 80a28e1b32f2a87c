"""The monitoring host: its programs, its configuration, and what they are asked over HTTP."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from opskit.commands import Command, script
from opskit.commands.host import program

PYTHON = "/usr/bin/python3"
"""The interpreter there: the standard library is all that is needed of it."""

_RESTART = 'systemctl daemon-reload && systemctl try-restart "$1"'
_MISSING = """
for path in "$@"; do
  [ -e "$path" ] || echo "$path"
done
"""
_STOP = """
for unit in "$@"; do
  # A oneshot that is at work is `activating`: is-active --quiet would not call it active.
  case "$(systemctl is-active "$unit")" in active | activating | reloading) ;; *) continue ;; esac
  systemctl stop "$unit" && echo "$unit" || exit
done
"""


def missing(paths: Sequence[PurePosixPath]) -> Command:
    """Print which of these are not there."""
    argv = script(_MISSING, *map(str, paths))
    return Command(argv, "see what is there", "missing-paths", changes=False)


def mask(units: Sequence[str]) -> Command:
    """Keep units from ever being started, installed already or not."""
    argv = ("systemctl", "mask", "--quiet", *units)
    return Command(argv, f"keep {', '.join(units)} from starting", "mask-units")


def restart_if_active(unit: str) -> Command:
    """Have systemd read a unit, and start it anew if it runs."""
    argv = script(_RESTART, unit)
    return Command(argv, f"start {unit} anew, if it runs", "restart-unit", timeout=120.0)


def start(*units: str, wait: bool = True) -> Command:
    """Start units, and wait until they have started (a oneshot: until it has ended)."""
    how = () if wait else ("--no-block",)
    text = f"start {', '.join(units)}"
    return Command(("systemctl", "start", *how, *units), text, "start-unit", timeout=60.0)


def stop(units: Sequence[str]) -> Command:
    """Stop units; prints those that ran."""
    argv = script(_STOP, *units)
    return Command(argv, f"stop {', '.join(units)}", "stop-units", timeout=180.0)


def switch(order: Mapping[str, Any]) -> Command:
    """Make a configuration live, or leave what was; see `host/switch_monitoring.py`."""
    what = f"make the monitoring's configuration {order['configuration']} live"
    if not order["configuration"]:
        what = f"bring back the monitoring's configuration of {order['release']}"
    return program("switch_monitoring", PYTHON, (json.dumps(order),), what, timeout=300.0)


def ask(method: str, port: int, path: str, kind: str = "", body: str = "") -> Command:
    """Ask what listens on the host's loopback; see `host/ask_http.py`."""
    more = (kind, body) if kind else ()
    what = f"ask port {port} of the host's loopback"
    arguments = (method, str(port), path, *more)
    return program("ask_http", PYTHON, arguments, what, changes=method != "GET", timeout=40.0)


def survey(order: Mapping[str, Any], *, python: str = PYTHON, seconds: float = 15.0) -> Command:
    """Look at what watches an environment, which holds nobody up.

    See `host/survey_monitoring.py`.
    """
    what = "look at what watches it"
    arguments = (json.dumps(order),)
    command = program("survey_monitoring", python, arguments, what, changes=False, timeout=seconds)
    return replace(command, quick=True)
