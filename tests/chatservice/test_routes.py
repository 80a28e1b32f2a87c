"""The HTTP side as pure functions: which path means what, and how an answer looks."""

from __future__ import annotations

import json

import pytest
from websockets.datastructures import Headers
from websockets.http11 import Request

from chatservice.routes import (
    Place,
    RequestError,
    Route,
    check_origin,
    error_response,
    json_response,
    number,
    origin_of,
    parse_target,
    preflight_response,
)


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/healthz", Route(Place.HEALTH, "", {})),
        ("/readyz?x=1", Route(Place.READY, "", {"x": "1"})),
        ("/version", Route(Place.VERSION, "", {})),
        ("http://chat.test/version", Route(Place.VERSION, "", {})),
        ("/api/chat/workspace/w/connect", Route(Place.CONNECT, "w", {})),
        (
            "/api/chat/workspace/a.B_c~1-2/connect?after=7&epoch=e%2Ff&empty=",
            Route(Place.CONNECT, "a.B_c~1-2", {"after": "7", "epoch": "e/f", "empty": ""}),
        ),
        ("/api/chat/workspace/%77/messages", Route(Place.MESSAGES, "w", {})),
        ("/api/chat/workspace/" + "w" * 64 + "/members", Route(Place.MEMBERS, "w" * 64, {})),
    ],
)
def test_a_path_leads_to_its_place(path: str, route: Route) -> None:
    assert parse_target(path) == route


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 404),
        ("", 404),
        ("*", 404),
        ("/healthz/", 404),
        ("/HEALTHZ", 404),
        ("/api/chat/workspace/w", 404),
        ("/api/chat/workspace/w/connect/", 404),
        ("/api/chat/workspace/a/b/connect", 404),
        ("/x/api/chat/workspace/w/connect", 404),
        ("/api/chat/workspace//connect", 400),
        ("/api/chat/workspace/%2e%2e%2f/connect", 400),
        ("/api/chat/workspace/a%20b/connect", 400),
        ("/api/chat/workspace/a%00/connect", 400),
        ("/api/chat/workspace/%ff/connect", 400),
        ("/api/chat/workspace/%C3%BC/connect", 400),
        ("/api/chat/workspace/w%0A/connect", 400),
        ("/api/chat/workspace/" + "w" * 65 + "/connect", 400),
        ("//[", 400),
        ("http://[::1/version", 400),
    ],
)
def test_a_path_that_leads_nowhere_is_refused(path: str, status: int) -> None:
    with pytest.raises(RequestError) as refusal:
        parse_target(path)
    assert refusal.value.status == status


@pytest.mark.parametrize(
    "value", ["", "-1", "+1", "1.0", "1e3", "0x1", "１", " 1", "1" * 16, "one"]
)
def test_a_number_is_digits(value: str) -> None:
    with pytest.raises(RequestError, match="after must be a whole number") as refusal:
        number({"after": value}, "after")
    assert refusal.value.status == 400


def test_a_number_that_is_not_given_has_its_default() -> None:
    assert number({}, "after") is None
    assert number({}, "limit", 50) == 50
    assert number({"limit": "007"}, "limit", 50) == 7


def test_a_second_origin_header_is_refused() -> None:
    headers = Headers([("Origin", "https://a.test"), ("Origin", "https://b.test")])
    with pytest.raises(RequestError) as refusal:
        origin_of(Request("/", headers))
    assert refusal.value.status == 400


@pytest.mark.parametrize("origin", [None, "https://a.test", "HTTPS://A.test"])
def test_what_is_no_browsers_and_what_is_listed_may_ask(origin: str | None) -> None:
    check_origin(origin, {"https://a.test"})


@pytest.mark.parametrize(
    "origin", ["null", "", "https://a.test.evil.test", "http://a.test", "https://a.test:444"]
)
def test_the_page_of_another_site_may_not_ask(origin: str) -> None:
    check_origin(origin, set())
    with pytest.raises(RequestError) as refusal:
        check_origin(origin, {"https://a.test"})
    assert refusal.value.status == 403


def test_an_answer_tells_caches_and_proxies_what_they_need() -> None:
    response = json_response({"a": [1]}, origin="https://a.test")
    assert response.body == b'{"a":[1]}\n'
    assert dict(response.headers.raw_items()) == {
        "Connection": "close",
        "Cache-Control": "no-store",
        "Content-Type": "application/json",
        "Content-Length": "10",
        "Vary": "Origin",
        "Access-Control-Allow-Origin": "https://a.test",
    }


@pytest.mark.parametrize(
    ("status", "header", "value"),
    [
        (401, "WWW-Authenticate", "Bearer"),
        (405, "Allow", "GET, OPTIONS"),
        (426, "Upgrade", "websocket"),
    ],
)
def test_an_error_carries_the_header_that_its_status_requires(
    status: int, header: str, value: str
) -> None:
    response = error_response(RequestError(status, "why"))
    assert json.loads(response.body) == {"error": "why"}
    assert response.headers[header] == value


@pytest.mark.parametrize(("seconds", "header"), [(0.2, "1"), (1.0, "1"), (4.6, "5")])
def test_retry_after_is_whole_seconds_and_never_none(seconds: float, header: str) -> None:
    assert error_response(RequestError(503, "why", seconds)).headers["Retry-After"] == header


def test_a_preflight_allows_a_token_to_a_page_that_may_ask() -> None:
    response = preflight_response("https://a.test")
    assert (response.status_code, response.body) == (204, b"")
    assert response.headers["Access-Control-Allow-Origin"] == "https://a.test"
    assert response.headers["Access-Control-Allow-Methods"] == "GET"
    assert response.headers["Access-Control-Allow-Headers"] == "Authorization"
    assert "Content-Length" not in response.headers
    assert "Access-Control-Allow-Origin" not in preflight_response(None).headers
