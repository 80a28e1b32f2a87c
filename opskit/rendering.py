"""`opskit render`: files written, or compared with what is live."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from opskit.failure import Failure
from opskit.fleet import Fleet
from opskit.render import diff, render
from opskit.target import Target


def differences(fleet: Fleet) -> str:
    """Give the diff from what is live to what would be rendered, over all nodes."""
    return "".join(fleet.each(_differences))


def _differences(node: Target) -> str:
    current = node.survey().current
    live = live_configuration(node, current) if current is not None else {}
    return diff(live, render(node.environment))


def live_configuration(target: Target, number: int) -> dict[str, str]:
    """Give the configuration of a release on the host."""
    release = target.layout.release(number)
    there = {path: target.executor.get(release / path) for path in render(target.environment)}
    return {path: text for path, text in there.items() if text}


def write(files: Mapping[str, str], directory: Path) -> list[Path]:
    """Write rendered files below a directory, and give their paths.

    Raises:
        Failure: one could not be written.
    """
    written = []
    for name, text in sorted(files.items()):
        path = directory / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise Failure(f"{path}: cannot be written: {error.strerror}") from None
        written.append(path)
    return written
