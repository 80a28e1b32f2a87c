"""Who is connected, and how fast do they get what is said to them?"""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from opskit.observe.dashboards.board import Board, quantiles, rate

E = 'environment="$environment"'


def build() -> Dashboard:
    """Build it."""
    board = Board(
        "chat-connections",
        "Chat: connections and delivery",
        "Members coming, staying and going; messages from received to written to everybody.",
    )
    board.row("Connections")
    board.series(
        "Members connected",
        "Connections that are open now, and those that came and went.",
        "short",
        [
            ("connected", f"sum(chat_connections{{{E}}})"),
            ("came in 5 min", f"sum(increase(chat_connections_opened_total{{{E}}}[5m]))"),
            ("went in 5 min", f"sum(increase(chat_connections_closed_total{{{E}}}[5m]))"),
        ],
    )
    board.series(
        "Why members went",
        "Connections closed, by reason: `client` is an orderly farewell; `lost` a broken line.",
        "cps", [("{{reason}}", rate("chat_connections_closed_total", "reason"))], stacked=True,
    )  # fmt: skip
    board.series(
        "Attempts to connect",
        "Handshakes by what became of them.",
        "cps", [("{{result}}", rate("chat_handshakes_total", "result"))], stacked=True,
    )  # fmt: skip
    board.series(
        "Coming back",
        "Welcomes: resumed without a gap, reset (asked to resume and could not), or fresh.",
        "cps", [("{{result}}", rate("chat_resumes_total", "result"))], stacked=True,
    )  # fmt: skip
    board.row("Delivery")
    board.series(
        "Delivery time",
        "From a message received to written to all members of its room; it is on disk by then.",
        "s", quantiles("chat_delivery_duration_seconds", "", 0.5, 0.9, 0.99),
    )  # fmt: skip
    board.heat(
        "Delivery time, spread",
        "How many messages took how long.",
        "s", rate("chat_delivery_duration_seconds_bucket", "le"),
    )  # fmt: skip
    board.series(
        "Messages and deliveries",
        "Messages made durable, and copies of them written to members.",
        "cps",
        [("messages", rate("chat_messages_total")), ("deliveries", rate("chat_deliveries_total"))],
    )
    board.series(
        "Members reached by a batch",
        "How many members one write to a room goes to.",
        "short", quantiles("chat_fanout_recipients"),
    )  # fmt: skip
    board.row("Backpressure")
    board.series(
        "Unread bytes",
        "Bytes accepted for members and not yet taken by their sockets.",
        "bytes", [("{{instance}}", f"sum by (instance) (chat_send_queue_bytes{{{E}}})")],
    )  # fmt: skip
    board.series(
        "Slow members",
        "Members closed because they left too much unread; they resume by number.",
        "short",
        [("{{instance}}", f"sum by (instance) (increase(chat_slow_members_total{{{E}}}[10m]))")],
        bars=True,
    )
    return board.build()
