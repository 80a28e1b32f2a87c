"""`opskit top`: the workspaces that make most of the work, over all nodes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from opskit.commands.host import program
from opskit.failure import Failure

if TYPE_CHECKING:
    from opskit.fleet import Fleet
    from opskit.target import Target

Measure = Literal["messages", "bytes", "connections"]
RANKS: Final[tuple[Measure, ...]] = ("messages", "bytes", "connections")
_ASKED: Final = 100
"""Rows asked of each node: more than are shown, since each node ranks for itself."""


@dataclass(frozen=True)
class Row:
    """One workspace: its messages and bytes lately, its connections now."""

    workspace: str
    messages: int
    bytes: int
    connections: int


@dataclass(frozen=True)
class Ranking:
    """The first workspaces by one measure.

    Attributes:
        by: the measure.
        seconds: how far back messages and bytes go.
        error: by how much a count may be too high.
        rows: the first, the heaviest first.
    """

    by: str
    seconds: float
    error: int
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        """Give it for --json; the keys are stable."""
        return {
            "by": self.by,
            "seconds": self.seconds,
            "error": self.error,
            "workspaces": [asdict(row) for row in self.rows],
        }


def look(fleet: Fleet, *, by: str, limit: int) -> Ranking:
    """Ask every node, and add up.

    Raises:
        Failure: a node's admin port does not answer.
    """
    answers = fleet.each(lambda node: _ask(node, by))
    return merge(answers, by=cast(Measure, by), limit=limit)


def merge(answers: Sequence[dict[str, Any]], *, by: Measure, limit: int) -> Ranking:
    """Add up what nodes said. Connections and bytes are of each node; messages pass all of them."""
    rows: dict[str, Row] = {}
    for answer in answers:
        for one in answer["workspaces"]:
            row = Row(**one)
            other = rows.get(row.workspace)
            if other is not None:
                row = Row(
                    row.workspace,
                    max(row.messages, other.messages),
                    row.bytes + other.bytes,
                    row.connections + other.connections,
                )
            rows[row.workspace] = row
    ordered = sorted(rows.values(), key=lambda row: (-int(getattr(row, by)), row.workspace))
    return Ranking(
        by=by,
        seconds=max((float(one["seconds"]) for one in answers), default=0.0),
        error=sum(int(one["error"]) for one in answers),
        rows=tuple(ordered[:limit]),
    )


def _ask(node: Target, by: str) -> dict[str, Any]:
    host, port = node.admin_address
    path = f"/top?by={by}&limit={_ASKED}"
    command = program(
        "ask_admin",
        node.python,
        (host, str(port), path),
        "ask the service for its top workspaces",
        changes=False,
    )
    try:
        said = node.executor.check(command)
    except Failure as failure:
        failure.hint = failure.hint or f"opskit status {node.environment.name}"
        raise
    try:
        fields = json.loads(said)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise Failure(f"{node.name}: the admin port gave no JSON object")
    return fields
