"""How much more can it take?"""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from opskit.observe.dashboards.board import Board, quantiles

E = 'environment="$environment"'
CHAT = f'job="chat", {E}'


def build() -> Dashboard:
    """Build it."""
    board = Board(
        "chat-saturation",
        "Chat: saturation",
        "What runs out first: the CPU that the event loop is on, memory, descriptors, disk.",
    )
    board.stat(
        "CPU",
        "Of one core: the event loop runs on one, and cannot use more.",
        "percentunit",
        f"max(rate(process_cpu_seconds_total{{{CHAT}}}[$__rate_interval]))",
        steps=((None, "green"), (0.7, "yellow"), (0.9, "red")), decimals=0, width=6,
    )  # fmt: skip
    board.stat(
        "Late by",
        "One turn of the event loop in a hundred is later than this.",
        "s",
        "histogram_quantile(0.99, sum by (le) "
        f"(rate(chat_event_loop_lag_seconds_bucket{{{E}}}[$__rate_interval])))",
        steps=((None, "green"), (0.05, "yellow"), (0.25, "red")), width=6,
    )  # fmt: skip
    board.stat(
        "Memory",
        "Resident memory of the largest process.",
        "bytes", f"max(process_resident_memory_bytes{{{CHAT}}})", width=6,
    )  # fmt: skip
    board.stat(
        "Free disk now",
        "Free space where the data is kept; the least of all hosts.",
        "bytes", f"min(chat_data_free_bytes{{{E}}})",
        steps=((None, "red"), (1e9, "yellow"), (5e9, "green")), width=6,
    )  # fmt: skip
    board.row("The process")
    board.series(
        "CPU time",
        "Of one core; at 100 % everything waits.",
        "percentunit",
        [("{{instance}}", f"rate(process_cpu_seconds_total{{{CHAT}}}[$__rate_interval])")],
    )
    board.series(
        "Event loop lag",
        "How late timers are called: something blocked the loop for as long.",
        "s", quantiles("chat_event_loop_lag_seconds", "", 0.5, 0.99),
    )  # fmt: skip
    board.series(
        "Memory over time",
        "Resident memory, about 5 KiB of it a connection.",
        "bytes", [("{{instance}}", f"process_resident_memory_bytes{{{CHAT}}}")],
    )  # fmt: skip
    board.series(
        "File descriptors",
        "Open ones, one a connection, and how many there may be.",
        "short",
        [
            ("open {{instance}}", f"process_open_fds{{{CHAT}}}"),
            ("limit {{instance}}", f"process_max_fds{{{CHAT}}}"),
        ],
    )
    board.row("The disk")
    board.series(
        "Free disk",
        "Free space where the data is kept, and what the data itself takes of it.",
        "bytes",
        [
            ("free {{instance}}", f"chat_data_free_bytes{{{E}}}"),
            ("data {{instance}}", f"chat_data_bytes{{{E}}}"),
        ],
    )
    board.series(
        "Garbage collections",
        "Of Python's memory, by generation; each stops everything for a moment, 2 for the longest.",
        "cps",
        [
            (
                "generation {{generation}}",
                "sum by (generation) "
                f"(rate(python_gc_collections_total{{{CHAT}}}[$__rate_interval]))",
            )
        ],
    )
    return board.build()
