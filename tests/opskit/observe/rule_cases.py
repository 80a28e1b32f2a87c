"""When each alert must fire, and when it must not: cases for `promtool test rules`.

Series are in promtool's notation, one sample a minute: `0+60x10` is 0, 60, ... 600. A case names
the alert, the time at which it is looked for, and the labels it must have then; or that it must
not fire. `thresholds` is the one change after which a firing case must fail, so that the threshold
of environments.yaml is shown to be the one that decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

CHAT: Final = 'environment="main", instance="a:1", job="chat"'
HISTORY: Final = f'{CHAT}, op="history"'
ENV: Final = 'environment="main"'


@dataclass(frozen=True)
class Case:
    """One look at one alert.

    Attributes:
        alert: its name.
        what: what happens, as a plain sentence.
        series: the samples, by series.
        at: when it is looked for.
        firing: the labels of each alert that must fire then, but for severity and category.
        mutation: thresholds with which the case must fail; empty where none decides.
    """

    alert: str
    what: str
    series: Mapping[str, str]
    at: str
    firing: tuple[Mapping[str, str], ...] = ()
    mutation: Mapping[str, Any] = field(default_factory=dict)
    interval: int = 1
    """Minutes from one sample, and one evaluation, to the next."""


def requests(ok: str, error: str = "0x300", op: str = "send") -> dict[str, str]:
    """Give the series of requests that succeed and fail."""
    return {
        f'chat_requests_total{{{CHAT}, op="{op}", result="ok"}}': ok,
        f'chat_requests_total{{{CHAT}, op="{op}", result="error"}}': error,
    }


def histogram(name: str, fast: str, slow: str, labels: str = CHAT) -> dict[str, str]:
    """Give a histogram of which `fast` took at most 0.1 s, and all at most 1 s."""
    return {
        f'{name}_bucket{{{labels}, le="0.1"}}': fast,
        f'{name}_bucket{{{labels}, le="1"}}': slow,
        f'{name}_bucket{{{labels}, le="+Inf"}}': slow,
    }


MAIN: Final = {"environment": "main"}
AT_A: Final = {"environment": "main", "instance": "a:1", "job": "chat"}

_OWN: Final = [
    # --- ChatDown -------------------------------------------------------------------------
    Case(
        "ChatDown", "a process stops answering",
        {f"up{{{CHAT}}}": "1x10 0x10"}, "13m", ({**AT_A},),
    ),
    Case(
        "ChatDown", "all targets are gone from Prometheus itself",
        {'up{job="prometheus"}': "1x20"}, "5m", ({"environment": "main", "job": "chat"},),
    ),
    Case("ChatDown", "it answers", {f"up{{{CHAT}}}": "1x20"}, "15m"),
    Case("ChatDown", "one scrape fails", {f"up{{{CHAT}}}": "1x10 0 1x10"}, "11m"),
    # --- ChatErrorRatio -------------------------------------------------------------------
    Case(
        "ChatErrorRatio", "six of a hundred requests fail",
        requests("0+94x30", "0+6x30"), "20m", (MAIN,), {"error_ratio": 0.07},
    ),
    Case(
        "ChatErrorRatio", "four of a hundred requests fail",
        requests("0+96x30", "0+4x30"), "20m", (), {"error_ratio": 0.03},
    ),
    Case(
        "ChatErrorRatio", "all of very few requests fail",
        requests("0x30", "0+5x30"), "20m", (), {"min_requests": 20},
    ),
    Case("ChatErrorRatio", "nobody asks for anything", requests("5000x30", "400x30"), "20m"),
    Case(
        "ChatErrorRatio", "clients make mistakes",
        {**requests("0+50x30"), f'chat_requests_total{{{CHAT}, op="send", result="client_error"}}':
         "0+50x30"}, "20m",
    ),
    Case(
        "ChatErrorRatio", "a deployment sets the counters back",
        requests("0+100x10 0+100x20", "400x10 0x20"), "13m",
    ),
    Case("ChatErrorRatio", "all targets are gone", {'up{job="prometheus"}': "1x30"}, "20m"),
    # --- ChatLatency ----------------------------------------------------------------------
    Case(
        "ChatLatency", "two of a hundred messages take up to a second",
        {**requests("0+100x30"),
         **histogram("chat_delivery_duration_seconds", "0+98x30", "0+100x30")},
        "20m", ({**MAIN, "kind": "delivery"},), {"latency": 0.6},
    ),
    Case(
        "ChatLatency", "requests take long, messages do not",
        {**requests("0+100x30"),
         **histogram("chat_request_duration_seconds", "0+50x30", "0+100x30", HISTORY),
         **histogram("chat_delivery_duration_seconds", "0+100x30", "0+100x30")},
        "20m", ({**MAIN, "kind": "request"},), {"latency": 0.99},
    ),
    Case(
        "ChatLatency", "all is fast",
        {**requests("0+100x30"),
         **histogram("chat_delivery_duration_seconds", "0+100x30", "0+100x30")},
        "20m", (), {"latency": 0.05},
    ),
    Case(
        "ChatLatency", "one of very few messages is slow",
        {**requests("0+4x30"), **histogram("chat_delivery_duration_seconds", "0+3x30", "0+4x30")},
        "20m", (), {"min_requests": 10},
    ),
    Case(
        "ChatLatency", "nobody says anything",
        {**requests("100x30"), **histogram("chat_delivery_duration_seconds", "9x30", "99x30")},
        "20m",
    ),
    # --- ChatBudgetBurn -------------------------------------------------------------------
    Case(
        "ChatBudgetBurn", "two of a hundred requests fail for an hour",
        requests("0+98x90", "0+2x90"), "70m", (MAIN,), {"slo": 0.99},
    ),
    Case(
        "ChatBudgetBurn", "eight of a thousand fail for six hours",
        requests("0+9920x40", "0+80x40"), "380m", (MAIN,), {"slo": 0.995}, 10,
    ),
    Case(
        "ChatBudgetBurn", "three of a thousand requests fail",
        requests("0+9970x40", "0+30x40"), "380m", (), {"slo": 0.9997}, 10,
    ),
    Case(
        "ChatBudgetBurn", "it was so until forty minutes ago",
        requests("0+98x60 5880+100x50", "0+2x60 120x50"), "101m",
    ),
    Case(
        "ChatBudgetBurn", "all of very few requests fail",
        requests("0x90", "0+0.2x90"), "70m", (), {"min_requests": 0},
    ),
    Case(
        "ChatBudgetBurn", "a deployment sets the counters back",
        requests("0+100x60 0+100x30", "5x60 0x30"), "70m",
    ),
    # --- ChatBudgetBurnSlow ---------------------------------------------------------------
    Case(
        "ChatBudgetBurnSlow", "two of a thousand requests fail for three days",
        requests("0+9980x450", "0+20x450"), "4440m", (MAIN,), {"slo": 0.99}, 10,
    ),
    Case(
        "ChatBudgetBurnSlow", "one of two thousand requests fails",
        requests("0+19990x450", "0+10x450"), "4440m", (), {"slo": 0.9999}, 10,
    ),
    Case(
        "ChatBudgetBurnSlow", "nobody asks for anything", requests("9x450", "9x450"), "4440m",
        interval=10,
    ),
    # --- ChatDeployRegression -------------------------------------------------------------
    Case(
        "ChatDeployRegression", "requests fail since a deployment ten minutes ago",
        {**requests("0+999x90 90880+970x30", "0+1x90 120+30x30"),
         f"opskit_deploy_timestamp_seconds{{{ENV}}}": "0x90 5400x30"},
        "100m", ({**MAIN, "signal": "errors"},), {"regression": 100.0, "min_requests": 90000},
    ),
    Case(
        "ChatDeployRegression", "they failed as much before it",
        {**requests("0+970x130", "0+30x130"),
         f"opskit_deploy_timestamp_seconds{{{ENV}}}": "0x90 5400x30"},
        "100m",
    ),
    Case(
        "ChatDeployRegression", "they failed half as much before it",
        {**requests("0+980x90 88170+970x30", "0+20x90 1830+30x30"),
         f"opskit_deploy_timestamp_seconds{{{ENV}}}": "0x90 5400x30"},
        "100m", (), {"regression": 1.1},
    ),
    Case(
        "ChatDeployRegression", "requests fail, and nothing was deployed for hours",
        {**requests("0+1000x90 90970+970x30", "0x90 30+30x30"),
         f"opskit_deploy_timestamp_seconds{{{ENV}}}": "0x120"},
        "100m",
    ),
    Case(
        "ChatDeployRegression", "messages take ten times as long since a deployment",
        {**requests("0+1000x120"),
         **histogram("chat_delivery_duration_seconds", "0+100x90 9000x30", "0+100x120"),
         f"opskit_deploy_timestamp_seconds{{{ENV}}}": "0x90 5400x30"},
        "105m", ({**MAIN, "signal": "latency", "kind": "delivery"},), {"regression": 20.0},
    ),
    Case(
        "ChatDeployRegression", "the first deployment of all, with nothing to compare with",
        {**requests("0+970x30", "0+30x30"), f"opskit_deploy_timestamp_seconds{{{ENV}}}": "60x30"},
        "20m",
    ),
    Case(
        "ChatDeployRegression", "a deployment sets the counters back",
        {**requests("0+1000x90 0+1000x30", "7x90 0x30"),
         f"opskit_deploy_timestamp_seconds{{{ENV}}}": "0x90 5400x30"},
        "100m",
    ),
    # --- ChatRestartLoop ------------------------------------------------------------------
    Case(
        "ChatRestartLoop", "it starts three times in ten minutes",
        {f"process_start_time_seconds{{{CHAT}}}": "1x10 2x3 3x3 4x10",
         f"opskit_deploy_timestamp_seconds{{{ENV}}}": "0x40"},
        "19m", (AT_A,), {"restarts": 3},
    ),
    Case(
        "ChatRestartLoop", "and nobody has ever deployed with opskit",
        {f"process_start_time_seconds{{{CHAT}}}": "1x10 2x3 3x3 4x10"}, "19m", (AT_A,),
        {"restarts": 3},
    ),
    Case(
        "ChatRestartLoop", "three deployments in ten minutes",
        {f"process_start_time_seconds{{{CHAT}}}": "1x10 2x3 3x3 4x10",
         f"opskit_deploy_timestamp_seconds{{{ENV}}}": "1x10 2x3 3x3 4x10"},
        "19m",
    ),
    Case(
        "ChatRestartLoop", "it starts twice",
        {f"process_start_time_seconds{{{CHAT}}}": "1x10 2x3 3x20"}, "19m", (), {"restarts": 1},
    ),
    # --- ChatConnectionsDropped -----------------------------------------------------------
    Case(
        "ChatConnectionsDropped", "four of ten members are gone at once",
        {f"chat_connections{{{CHAT}}}": "100x10 60x10"}, "12m", (MAIN,),
        {"connections_dropped": 0.5},
    ),
    Case(
        "ChatConnectionsDropped", "four of ten were cut off, and came back at once",
        {f"chat_connections{{{CHAT}}}": "100x30",
         f'chat_connections_closed_total{{{CHAT}, reason="lost"}}': "0x10 40x20"},
        "12m", (MAIN,), {"connections_dropped": 0.6},
    ),
    Case(
        "ChatConnectionsDropped", "four of ten said goodbye and others came",
        {f"chat_connections{{{CHAT}}}": "100x30",
         f'chat_connections_closed_total{{{CHAT}, reason="client"}}': "0x10 40x20"},
        "12m",
    ),
    Case(
        "ChatConnectionsDropped", "two of ten are gone",
        {f"chat_connections{{{CHAT}}}": "100x10 80x10"}, "12m", (), {"connections_dropped": 0.1},
    ),
    Case(
        "ChatConnectionsDropped", "four of five are gone",
        {f"chat_connections{{{CHAT}}}": "5x10 1x10"}, "12m", (), {"min_connections": 5},
    ),
    Case(
        "ChatConnectionsDropped", "they leave in the course of the evening",
        {f"chat_connections{{{CHAT}}}": "100-1x100"}, "30m",
    ),
    Case(
        "ChatConnectionsDropped", "a deployment moves them, and sets the counters back",
        {f"chat_connections{{{CHAT}}}": "100x30",
         f'chat_connections_closed_total{{{CHAT}, reason="lost"}}': "900x10 0x20"},
        "12m",
    ),
    Case("ChatConnectionsDropped", "all targets are gone", {'up{job="prometheus"}': "1x30"}, "20m"),
    # --- ChatSlowMembers ------------------------------------------------------------------
    Case(
        "ChatSlowMembers", "five members in ten minutes do not read",
        {f"chat_slow_members_total{{{CHAT}}}": "0x10 5x10"}, "15m", (AT_A,), {"slow_members": 9},
    ),
    Case(
        "ChatSlowMembers", "two do not",
        {f"chat_slow_members_total{{{CHAT}}}": "0x10 2x10"}, "15m", (), {"slow_members": 1},
    ),
    Case(
        "ChatSlowMembers", "a deployment sets the counter back",
        {f"chat_slow_members_total{{{CHAT}}}": "50x10 0x10"}, "15m",
    ),
    # --- ChatRoomErrors -------------------------------------------------------------------
    Case(
        "ChatRoomErrors", "the very first bug",
        {f'chat_room_errors_total{{{CHAT}, kind="internal"}}': "0x10 1x10"}, "12m",
        ({"environment": "main", "instance": "a:1", "kind": "internal"},), {"room_errors": 5},
    ),
    Case(
        "ChatRoomErrors", "none since a deployment set the counter back",
        {f'chat_room_errors_total{{{CHAT}, kind="internal"}}': "7x10 0x10"}, "12m",
    ),
    Case(
        "ChatRoomErrors", "one long ago",
        {f'chat_room_errors_total{{{CHAT}, kind="internal"}}': "0x10 1x30"}, "20m",
    ),
    # --- ChatStorageErrors ----------------------------------------------------------------
    Case(
        "ChatStorageErrors", "commits fail",
        {f'chat_storage_operations_total{{{CHAT}, op="commit", result="error"}}': "0x10 6x10"},
        "12m", ({"environment": "main", "instance": "a:1", "signal": "operations"},),
        {"storage_errors": 9},
    ),
    Case(
        "ChatStorageErrors", "one fails",
        {f'chat_storage_operations_total{{{CHAT}, op="commit", result="error"}}': "0x10 1x10"},
        "12m", (), {"storage_errors": 0},
    ),
    Case(
        "ChatStorageErrors", "it refuses writes",
        {f"chat_store_up{{{CHAT}}}": "1x10 0x10"}, "13m", ({**AT_A, "signal": "refusing"},),
    ),
    Case(
        "ChatStorageErrors", "it refused them for a moment",
        {f"chat_store_up{{{CHAT}}}": "1x10 0 1x10"}, "12m",
    ),
    Case(
        "ChatStorageErrors", "a deployment sets the counters back",
        {f'chat_storage_operations_total{{{CHAT}, op="commit", result="error"}}': "60x10 0x10"},
        "12m",
    ),
    # --- ChatEventLoopLag -----------------------------------------------------------------
    Case(
        "ChatEventLoopLag", "two turns of a hundred are late by up to a second",
        histogram("chat_event_loop_lag_seconds", "0+98x30", "0+100x30"), "20m",
        ({"environment": "main", "instance": "a:1"},), {"loop_lag": 0.9},
    ),
    Case(
        "ChatEventLoopLag", "all are on time",
        histogram("chat_event_loop_lag_seconds", "0+100x30", "0+100x30"), "20m", (),
        {"loop_lag": 0.05},
    ),
    # --- ChatDiskFilling ------------------------------------------------------------------
    Case(
        "ChatDiskFilling", "less than a gigabyte is free",
        {f"chat_data_free_bytes{{{CHAT}}}": "2000000000x10 900000000x20"}, "15m",
        ({**AT_A, "signal": "low"},), {"disk_free": 800_000_000},
    ),
    Case(
        "ChatDiskFilling", "it will be full tomorrow",
        {f"chat_data_free_bytes{{{CHAT}}}": "20000000000-200000000x50"}, "410m",
        ({**AT_A, "signal": "trend"},), {"disk_hours": 2}, 10,
    ),
    Case(
        "ChatDiskFilling", "it will be full next week",
        {f"chat_data_free_bytes{{{CHAT}}}": "20000000000-20000000x50"}, "410m", (),
        {"disk_hours": 240}, 10,
    ),
    Case(
        "ChatDiskFilling", "there is room",
        {f"chat_data_free_bytes{{{CHAT}}}": "20000000000x50"}, "410m", (),
        {"disk_free": 30_000_000_000}, 10,
    ),
    # --- ChatCertificateExpiring ----------------------------------------------------------
    Case(
        "ChatCertificateExpiring", "it ends in ten days",
        {f"opskit_probe_certificate_expiry_timestamp_seconds{{{ENV}}}": "864000x30"}, "10m",
        (MAIN,), {"certificate_days": 7},
    ),
    Case(
        "ChatCertificateExpiring", "it ended an hour ago",
        {f"opskit_probe_certificate_expiry_timestamp_seconds{{{ENV}}}": "60x90"}, "61m", (MAIN,),
    ),
    Case(
        "ChatCertificateExpiring", "it ends in twenty days",
        {f"opskit_probe_certificate_expiry_timestamp_seconds{{{ENV}}}": "1728000x30"}, "10m", (),
        {"certificate_days": 30},
    ),
    Case(
        "ChatCertificateExpiring", "it lives for twelve hours, and half of them are left",
        {
            f"opskit_probe_certificate_expiry_timestamp_seconds{{{ENV}}}": "22200x30",
            f"opskit_probe_certificate_lifetime_seconds{{{ENV}}}": "43200x30",
        },
        "10m",
    ),
    Case(
        "ChatCertificateExpiring", "it lives for twelve hours, and two of them are left",
        {
            f"opskit_probe_certificate_expiry_timestamp_seconds{{{ENV}}}": "7800x30",
            f"opskit_probe_certificate_lifetime_seconds{{{ENV}}}": "43200x30",
        },
        "10m", (MAIN,),
    ),
    Case("ChatCertificateExpiring", "there is no TLS", {f"up{{{CHAT}}}": "1x30"}, "10m"),
    # --- ChatSmokeFailing -----------------------------------------------------------------
    Case(
        "ChatSmokeFailing", "the last run failed",
        {f"opskit_probe_success{{{ENV}}}": "1x10 0x10"}, "12m", (MAIN,),
    ),
    Case("ChatSmokeFailing", "it passed", {f"opskit_probe_success{{{ENV}}}": "1x20"}, "12m"),
    # --- ChatSmokeStale -------------------------------------------------------------------
    Case(
        "ChatSmokeStale", "the last run was half an hour ago",
        {f"opskit_probe_timestamp_seconds{{{ENV}}}": "60x60"}, "31m", (MAIN,),
        {"smoke_stale": 3600},
    ),
    Case(
        "ChatSmokeStale", "there never was one",
        {f"up{{{CHAT}}}": "1x30"}, "10m", (MAIN,),
    ),
    Case(
        "ChatSmokeStale", "it is run every five minutes",
        {f"opskit_probe_timestamp_seconds{{{ENV}}}": "0x5 300x5 600x5 900x5 1200x10"}, "22m", (),
        {"smoke_stale": 60},
    ),
    # --- Watchdog -------------------------------------------------------------------------
    Case("Watchdog", "nothing happens at all", {}, "1m", (MAIN,)),
]  # fmt: skip


# --- what happens to every service, and must be told by none but the alert it is about --------


def whole(counter: str, failures: str, **gauges: str) -> dict[str, str]:
    """Give every series that any alert looks at: what grows, what fails, and how things stand."""
    stand = {
        "up": "1x40", "connections": "100x40", "store": "1x40", "free": "50000000000x40",
        "started": "1x40", "deployed": "0x40", "probe": "1x40", "probed": "0+60x40",
        "certificate": "9000000x40", **gauges,
    }  # fmt: skip
    return {
        **requests(counter, failures),
        **histogram("chat_delivery_duration_seconds", counter, counter),
        **histogram("chat_request_duration_seconds", counter, counter, f'{CHAT}, op="send"'),
        **histogram("chat_event_loop_lag_seconds", counter, counter),
        f"chat_slow_members_total{{{CHAT}}}": failures,
        f'chat_room_errors_total{{{CHAT}, kind="internal"}}': gauges.get("bugs", failures),
        f'chat_storage_operations_total{{{CHAT}, op="commit", result="error"}}': failures,
        f'chat_connections_closed_total{{{CHAT}, reason="lost"}}': failures,
        f"up{{{CHAT}}}": stand["up"],
        f"chat_connections{{{CHAT}}}": stand["connections"],
        f"chat_store_up{{{CHAT}}}": stand["store"],
        f"chat_data_free_bytes{{{CHAT}}}": stand["free"],
        f"process_start_time_seconds{{{CHAT}}}": stand["started"],
        f"opskit_deploy_timestamp_seconds{{{ENV}}}": stand["deployed"],
        f"opskit_probe_success{{{ENV}}}": stand["probe"],
        f"opskit_probe_timestamp_seconds{{{ENV}}}": stand["probed"],
        f"opskit_probe_certificate_expiry_timestamp_seconds{{{ENV}}}": stand["certificate"],
    }


GONE: Final = "1x10 stale"
ALERTS: Final = list(dict.fromkeys(case.alert for case in _OWN))
SITUATIONS: Final[list[tuple[str, dict[str, str], str, dict[str, Mapping[str, str]]]]] = [
    ("a service under load", whole("0+100x40", "0x40"), "30m", {}),
    ("an idle service, which failed once upon a time", whole("5000x40", "400x40"), "30m", {}),
    (
        "a deployment in the middle of load, which sets all counters back",
        whole(
            "0+100x20 0+100x20", "40x20 0x20", started="1x20 1260x20", deployed="0x20 1260x20"
        ),
        "23m", {},
    ),
    (
        "hardly any traffic, of which something fails",
        whole("0x5 1x35", "0x21 1x20", connections="3x40", bugs="0x40"), "24m", {},
    ),
    (
        "all targets gone from Prometheus",
        whole(
            "0+100x10 stale", "0x10 stale",
            **dict.fromkeys(("up", "connections", "store", "free", "started", "deployed", "probe",
                             "probed", "certificate"), GONE),
        ),
        "30m",
        {"ChatDown": {"environment": "main", "job": "chat"}, "ChatSmokeStale": MAIN},
    ),
]  # fmt: skip
CASES: Final = [
    *_OWN,
    *(
        Case(alert, what, series, at, (firing[alert],) if alert in firing else ())
        for what, series, at, firing in SITUATIONS
        for alert in ALERTS
        if alert != "Watchdog"
    ),
]
