"""What was deployed, and does it work for simulated users since?"""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from opskit.observe.dashboards.board import UP_OR_DOWN, Board

E = 'environment="$environment"'


def build() -> Dashboard:
    """Build it."""
    board = Board(
        "chat-deployments",
        "Chat: deployments and probes",
        "Releases, and what simulated users say: the smoke test as it is run on a schedule.",
    )
    board.stat(
        "Release",
        "The release that serves.",
        "none", f"max by (release) (chat_build_info{{{E}}})", legend="{{release}}", name=True,
    )  # fmt: skip
    board.stat(
        "Last deployment",
        "How long ago something was deployed or rolled back.",
        "s", f"time() - max(opskit_deploy_timestamp_seconds{{{E}}})", nothing="never",
    )  # fmt: skip
    board.stat(
        "Smoke test",
        "Whether the last run of the smoke test passed.",
        "none", f"min(opskit_probe_success{{{E}}})",
        values={"0": ("fails", "red"), "1": ("passes", "green")}, nothing="never run",
    )  # fmt: skip
    board.stat(
        "Last probe",
        "How long ago the smoke test was last run.",
        "s", f"time() - max(opskit_probe_timestamp_seconds{{{E}}})",
        steps=((None, "green"), (1200, "red")), nothing="never run",
    )  # fmt: skip
    board.stat(
        "Smoke test took",
        "How long the last run of the smoke test took.",
        "s", f"max(opskit_probe_duration_seconds{{{E}}})", nothing="never run",
    )  # fmt: skip
    board.stat(
        "Certificate",
        "How long the certificate that clients are shown is still valid.",
        "s", f"min(opskit_probe_certificate_expiry_timestamp_seconds{{{E}}}) - time()",
        steps=((None, "red"), (7 * 86400, "yellow"), (14 * 86400, "green")), nothing="no TLS",
    )  # fmt: skip
    board.row("Deployments")
    board.series(
        "Errors before and after",
        "Share of failed requests; deployments are the vertical lines.",
        "percentunit",
        [
            ("5 minutes", f"environment:chat_request_errors:ratio_rate5m{{{E}}}"),
            ("1 hour", f"environment:chat_request_errors:ratio_rate1h{{{E}}}"),
        ],
    )
    board.series(
        "Latency before and after",
        "99 of 100 were faster; deployments are the vertical lines.",
        "s",
        [
            ("{{kind}}, 5 minutes", f"environment:chat_latency_seconds:p99_rate5m{{{E}}}"),
            ("{{kind}}, 1 hour", f"environment:chat_latency_seconds:p99_rate1h{{{E}}}"),
        ],
    )
    board.states(
        "Releases that served",
        "Which release served when; two at once while hosts are deployed one after the other.",
        [("{{release}}", f"max by (release) (chat_build_info{{{E}}})")],
        {"1": ("serves", "blue")}, width=24, height=5,
    )  # fmt: skip
    board.row("Probes")
    board.states(
        "Smoke checks",
        "Each check of the smoke test, at each run.",
        [("{{check}}", f"min by (check) (opskit_probe_check_success{{{E}}})")],
        UP_OR_DOWN, width=16, height=10,
    )  # fmt: skip
    board.series(
        "Smoke test duration",
        "How long each run took.",
        "s", [("duration", f"max(opskit_probe_duration_seconds{{{E}}})")], width=8,
    )  # fmt: skip
    return board.build()
