"""Do rooms do what they are asked, and does the disk keep up?"""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from opskit.observe.dashboards.board import UP_OR_DOWN, Board, quantiles, rate

E = 'environment="$environment"'


def build() -> Dashboard:
    """Build it."""
    board = Board(
        "chat-rooms",
        "Chat: rooms and storage",
        "Rooms in memory, what fails in them, and the way of a message to the disk.",
    )
    board.row("Rooms")
    board.series(
        "Rooms in memory",
        "Workspaces somebody is in, or was in a minute ago.",
        "short", [("{{instance}}", f"sum by (instance) (chat_rooms{{{E}}})")], stacked=True,
    )  # fmt: skip
    board.series(
        "Room errors",
        "What members asked of a room and did not get, within five minutes. `internal` is a bug.",
        "short",
        [("{{kind}}", f"sum by (kind) (increase(chat_room_errors_total{{{E}}}[5m]))")],
        bars=True, stacked=True,
    )  # fmt: skip
    board.row("Storage")
    board.states(
        "Store takes writes",
        "Red while sends are refused because nothing can be stored.",
        [("{{instance}}", f"min by (instance) (chat_store_up{{{E}}})")],
        UP_OR_DOWN, width=24, height=4,
    )  # fmt: skip
    board.series(
        "Store operations",
        "Calls of the store that succeeded.",
        "ops",
        [("{{op}}", rate("chat_storage_operations_total", "op", 'result="ok"'))],
        stacked=True,
    )
    board.series(
        "Store errors",
        "Calls of the store that failed, within five minutes.",
        "short",
        [
            (
                "{{op}}",
                "sum by (op) (increase("
                f'chat_storage_operations_total{{result="error", {E}}}[5m]))',
            )
        ],
        bars=True, stacked=True,
    )  # fmt: skip
    board.series(
        "Store time",
        "How long one call in a hundred takes, or longer.",
        "s", quantiles("chat_storage_operation_duration_seconds", "op", 0.99),
    )  # fmt: skip
    board.heat(
        "Commit time, spread",
        "How many transactions took how long to be on disk.",
        "s", rate("chat_storage_operation_duration_seconds_bucket", "le", 'op="commit"'),
    )  # fmt: skip
    board.series(
        "Messages in a commit",
        "What arrives while one transaction runs goes into the next: more load, larger batches.",
        "short", quantiles("chat_commit_batch_messages"),
    )  # fmt: skip
    board.series(
        "Data",
        "Space that the database takes.",
        "bytes", [("{{instance}}", f"sum by (instance) (chat_data_bytes{{{E}}})")],
    )  # fmt: skip
    return board.build()
