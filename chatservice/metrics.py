"""Prometheus metrics of one process.

Base units, `_total` on counters, and bounded label values only: never a workspace or a user.
Every label combination is created at start, so that the first error counts
(https://prometheus.io/docs/practices/instrumentation/#avoid-missing-metrics), and the children
that the hot path uses are kept as attributes.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from shutil import disk_usage
from typing import Final, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

from chatservice.histogram import Histogram
from chatservice.protocol import Operation
from chatservice.store import StoreErrorKind
from chatservice.top import Top

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

OPERATIONS: Final = get_args(Operation)
RESULTS: Final = ("ok", "client_error", "error")
CLOSE_REASONS: Final = (
    "client",
    "lost",
    "restart",
    "token_expired",
    "too_slow",
    "too_fast",
    "protocol_error",
    "forbidden",
    "heartbeat",
    "error",
)
HANDSHAKES: Final = (
    "accepted",
    "bad_request",
    "unauthorized",
    "forbidden",
    "too_many",
    "unavailable",
    "timeout",
    "abandoned",
)
RESUMES: Final = ("resumed", "reset", "fresh")
STORAGE_OPERATIONS: Final = ("open", "enter", "commit", "since", "history", "members", "check")

_FAST: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class Metrics:
    """All metrics of one process, in a registry of their own."""

    def __init__(self, *, release: str, commit: str, state_dir: Path) -> None:
        # A second series for each, which no query of ours uses.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        self.top = Top()
        """Which workspaces make most of the work: no metric, since their number is not bounded."""
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)

        build_info = Gauge(
            "chat_build_info", "What runs: always 1.", ["release", "commit", "python"],
            registry=registry,
        )  # fmt: skip
        build_info.labels(release, commit, platform.python_version()).set(1)

        self.connections = Gauge("chat_connections", "Members connected now.", registry=registry)
        self.rooms = Gauge("chat_rooms", "Workspaces in memory now.", registry=registry)
        self.opened = Counter(
            "chat_connections_opened_total", "Members welcomed.", registry=registry
        )
        closed = Counter(
            "chat_connections_closed_total", "Members gone, by reason.", ["reason"],
            registry=registry,
        )  # fmt: skip
        self.closed = {reason: closed.labels(reason) for reason in CLOSE_REASONS}
        handshakes = Counter(
            "chat_handshakes_total", "Attempts to connect, by result.", ["result"],
            registry=registry,
        )  # fmt: skip
        self.handshakes = {result: handshakes.labels(result) for result in HANDSHAKES}
        resumes = Counter(
            "chat_resumes_total",
            "Members welcomed: resumed, reset (asked to, but could not), or fresh.",
            ["result"],
            registry=registry,
        )
        self.resumes = {result: resumes.labels(result) for result in RESUMES}

        requests = Counter(
            "chat_requests_total",
            "What clients asked for: done, refused for the client's fault, or failed for ours.",
            ["op", "result"],
            registry=registry,
        )
        self.requests = {
            (op, result): requests.labels(op, result) for op in OPERATIONS for result in RESULTS
        }
        self.request_duration = Histogram(
            "chat_request_duration_seconds",
            "From received to answered.",
            label="op",
            values=OPERATIONS,
            buckets=_FAST,
            registry=registry,
        ).children
        self.delivery_duration = Histogram(
            "chat_delivery_duration_seconds",
            "From a message received to written to all members.",
            buckets=_FAST,
            registry=registry,
        ).child
        self.fanout_recipients = Histogram(
            "chat_fanout_recipients",
            "Members written to in one batch of one room.",
            buckets=(1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000),
            registry=registry,
        ).child
        self.messages = Counter("chat_messages_total", "Messages made durable.", registry=registry)
        self.deliveries = Counter(
            "chat_deliveries_total", "Messages written to members.", registry=registry
        )

        room_errors = Counter(
            "chat_room_errors_total",
            "Sends that could not be stored (by what the store said), and bugs (internal).",
            ["kind"],
            registry=registry,
        )
        self.room_errors = {kind: room_errors.labels(kind) for kind in StoreErrorKind}
        storage = Counter(
            "chat_storage_operations_total", "Calls of the store.", ["op", "result"],
            registry=registry,
        )  # fmt: skip
        self.storage = {
            (op, result): storage.labels(op, result)
            for op in STORAGE_OPERATIONS
            for result in ("ok", "error")
        }
        self.storage_duration = Histogram(
            "chat_storage_operation_duration_seconds",
            "Duration of the calls of the store.",
            label="op",
            values=STORAGE_OPERATIONS,
            buckets=_FAST,
            registry=registry,
        ).children
        self.store_up = Gauge(
            "chat_store_up", "1 when the store takes writes, 0 when sends are refused.",
            registry=registry,
        )  # fmt: skip
        self.commit_batch = Histogram(
            "chat_commit_batch_messages",
            "Messages in one transaction.",
            buckets=(1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 5000),
            registry=registry,
        ).child

        self._send_queue = Gauge(
            "chat_send_queue_bytes", "Bytes accepted but not yet taken by members' sockets.",
            registry=registry,
        )  # fmt: skip
        self.slow_members = Counter(
            "chat_slow_members_total", "Members closed for not reading.", registry=registry
        )
        self.loop_lag = Histogram(
            "chat_event_loop_lag_seconds",
            "How late the event loop called a timer.",
            buckets=_FAST,
            registry=registry,
        ).child
        Gauge(
            "chat_data_free_bytes", "Free space where the state is kept.", registry=registry
        ).set_function(lambda: _measured(lambda: disk_usage(state_dir).free))
        Gauge("chat_data_bytes", "Space that the state occupies.", registry=registry).set_function(
            lambda: _measured(lambda: directory_bytes(state_dir))
        )

    def measure_send_queue(self, total: Callable[[], float]) -> None:
        """Say how the bytes waiting for members are counted; called at each scrape."""
        self._send_queue.set_function(total)

    def exposition(self) -> bytes:
        """Give the text that Prometheus scrapes."""
        return generate_latest(self.registry)


def _measured(measure: Callable[[], int]) -> float:
    """Measure for a scrape, which a disk that is gone must not spoil."""
    try:
        return float(measure())
    except OSError:
        return float("nan")


def directory_bytes(path: Path) -> int:
    """Add up the files of a flat directory; one that vanishes meanwhile counts nothing."""
    total = 0
    for file in path.iterdir():
        try:
            total += file.stat().st_size
        except FileNotFoundError:
            continue
    return total
