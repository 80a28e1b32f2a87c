"""How is it? The first look, from far away."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from opskit.observe.dashboards.board import Board, quantiles, rate

E = 'environment="$environment"'


def build() -> Dashboard:
    """Build it."""
    board = Board(
        "chat-overview",
        "Chat: overview",
        "Requests, connections, errors, latency: whether members are served, at one look.",
    )
    board.stat(
        "Processes that answer",
        "Chat processes that answer Prometheus; every one of them should.",
        "none", f'sum(up{{job="chat", {E}}})',
        steps=((None, "red"), (1, "green")),
    )  # fmt: skip
    board.stat(
        "Members",
        "Connections that were welcomed and are open now.",
        "short", f"sum(chat_connections{{{E}}})", decimals=0,
    )  # fmt: skip
    board.stat(
        "Requests",
        "What clients ask for, by second.",
        "reqps", f"sum(rate(chat_requests_total{{{E}}}[$__rate_interval]))",
    )  # fmt: skip
    board.stat(
        "Failed",
        "Share of requests that failed for a reason of ours, over five minutes.",
        "percentunit", f"environment:chat_request_errors:ratio_rate5m{{{E}}}",
        steps=((None, "green"), (0.001, "yellow"), (0.05, "red")), decimals=2,
        nothing="no requests",
    )  # fmt: skip
    board.stat(
        "Delivered within",
        "99 of 100 messages were written to all members of their room within this time.",
        "s", f'environment:chat_latency_seconds:p99_rate5m{{kind="delivery", {E}}}',
        steps=((None, "green"), (0.25, "yellow"), (0.5, "red")), nothing="no messages",
    )  # fmt: skip
    board.stat(
        "Alerts firing",
        "Alerts that fire, but for the watchdog, which always does.",
        "none",
        f'count(ALERTS{{alertstate="firing", alertname!="Watchdog", {E}}}) or vector(0)',
        steps=((None, "green"), (1, "red")),
    )  # fmt: skip
    board.row("Requests")
    board.series(
        "Requests by operation",
        "What clients ask for, whatever became of it.",
        "reqps", [("{{op}}", rate("chat_requests_total", "op"))], stacked=True,
    )  # fmt: skip
    board.series(
        "Requests that failed",
        "Share that failed for a reason of ours, and share that was refused for the client's.",
        "percentunit",
        [
            ("failed", f"environment:chat_request_errors:ratio_rate5m{{{E}}}"),
            (
                "refused",
                rate("chat_requests_total", "", 'result="client_error"')
                + " / "
                + rate("chat_requests_total"),
            ),
        ],
    )
    board.series(
        "Time to answer",
        "From received to answered, for all operations together.",
        "s", quantiles("chat_request_duration_seconds"),
    )  # fmt: skip
    board.series(
        "Error budget burn",
        "Share of failed requests over longer times. The objective tolerates as much as it leaves "
        "to 100 %; a month's budget is gone in two days at 14.4 times that.",
        "percentunit",
        [
            (span, f"environment:chat_request_errors:ratio_rate{span}{{{E}}}")
            for span in ("1h", "6h", "3d")
        ],
    )
    board.row("Members")
    board.series(
        "Members by process",
        "Connections that are open, stacked.",
        "short", [("{{instance}}", f"sum by (instance) (chat_connections{{{E}}})")], stacked=True,
    )  # fmt: skip
    board.series(
        "Process starts",
        "How often each process was started within ten minutes. A deployment starts it once.",
        "short",
        [("{{instance}}", f'changes(process_start_time_seconds{{job="chat", {E}}}[10m])')],
        bars=True,
    )
    return board.build()
