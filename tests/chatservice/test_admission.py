"""Who gets in, and what is answered to who does not: each over HTTP, before any upgrade."""

from __future__ import annotations

import pytest

from chatservice.auth import sign
from tests.chatservice.wire import (
    Wire,
    bearer,
    connect_path,
    eventually,
    http,
    metrics,
    request,
    status,
    troubles,
    upgrade_headers,
)
from tests.conftest import ServiceFactory
from tests.service_process import Overrides, ServiceProcess

ORIGIN = "https://chat.test"
API = "/api/chat/workspace/w"


@pytest.fixture(scope="module")
def module_overrides() -> Overrides:
    return {
        "auth": {"origins": [ORIGIN, "http://localhost:3000"]},
        "limits": {
            "connections": 8,
            "connections_per_user": 2,
            "connections_per_workspace": 4,
        },
        "history": {"keep": 100, "newest": 5, "page": 20},
        "timing": {"presence_grace": 0.0},
    }


# --- the token ----------------------------------------------------------------------------


def test_a_token_is_taken_from_header_subprotocol_and_query(
    module_service: ServiceProcess,
) -> None:
    token = module_service.token("ann", "w")
    in_pair = {"Sec-WebSocket-Protocol": f"chat.v1, bearer.{token}"}
    in_two = {"Sec-WebSocket-Protocol": f"bearer.{token},chat.v1"}
    for path, extra in (
        (connect_path("w"), bearer(token)),
        (connect_path("w"), {**bearer(token), "Sec-WebSocket-Protocol": "chat.v1"}),
        (connect_path("w"), in_pair),
        (connect_path("w"), in_two),
        (connect_path("w", token=token), {}),
    ):
        with Wire(module_service) as wire:
            wire.write(request(path, {**upgrade_headers(), **extra}))
            answer = wire.answer()
            assert answer.status == 101
            offered = "Sec-WebSocket-Protocol" in extra
            assert answer.headers.get("sec-websocket-protocol") == ("chat.v1" if offered else None)
            assert "sec-websocket-extensions" not in answer.headers
            assert wire.next("welcome")["user"] == "ann"


def test_compression_is_not_negotiated(module_service: ServiceProcess) -> None:
    headers = {
        **upgrade_headers(module_service.token("ann", "w")),
        "Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits",
    }
    with Wire(module_service) as wire:
        wire.write(request(connect_path("w"), headers))
        answer = wire.answer()
        assert answer.status == 101
        assert "sec-websocket-extensions" not in answer.headers


@pytest.mark.parametrize("path", [connect_path("w"), f"{API}/messages", f"{API}/members"])
def test_who_has_no_good_token_is_refused_with_401(
    module_service: ServiceProcess, path: str
) -> None:
    good = {"user": "ann", "workspaces": ["w"], "ttl": 60.0}
    for token, why in (
        ("", "a token is required"),
        ("x", "the token is no JWT"),
        (module_service.token("ann", "w", ttl=-60), "the token has expired"),
        (sign("another secret " * 4, **good), "the token's signature is wrong"),  # type: ignore[arg-type]
    ):
        headers = {**upgrade_headers(), **bearer(token)}
        answer = http(module_service, path, headers)
        assert (answer.status, answer.json) == (401, {"error": why})
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("path", [connect_path("w"), f"{API}/messages", f"{API}/members"])
def test_who_is_of_another_workspace_is_refused_with_403(
    module_service: ServiceProcess, path: str
) -> None:
    headers = {**upgrade_headers(), **bearer(module_service.token("ann", "another", "w2"))}
    answer = http(module_service, path, headers)
    assert (answer.status, answer.json) == (403, {"error": "the token is not for this workspace"})


# --- the request --------------------------------------------------------------------------


def changed(name: str, value: str | None) -> dict[str, str]:
    """Give good upgrade headers but for one."""
    headers = {**upgrade_headers(), name: value or ""}
    if value is None:
        del headers[name]
    return headers


@pytest.mark.parametrize(
    ("path", "headers", "expected"),
    [
        (connect_path("a b".replace(" ", "%20")), {}, 400),
        (connect_path("x" * 65), {}, 400),
        (connect_path("w", after="x"), {}, 400),
        (connect_path("w", after="-1"), {}, 400),
        (connect_path("w"), changed("Upgrade", None), 426),
        (connect_path("w"), changed("Upgrade", "h2c"), 426),
        (connect_path("w"), changed("Connection", "keep-alive"), 426),
        (connect_path("w"), changed("Sec-WebSocket-Key", None), 400),
        (connect_path("w"), changed("Sec-WebSocket-Key", "short"), 400),
        (connect_path("w"), changed("Sec-WebSocket-Key", "!" * 24), 400),
        (connect_path("w"), changed("Sec-WebSocket-Key", "\xe4" * 24), 400),
        (connect_path("w"), changed("Sec-WebSocket-Version", None), 400),
        (connect_path("w"), changed("Sec-WebSocket-Version", "8"), 400),
        (connect_path("w"), changed("Sec-WebSocket-Protocol", "chat.v1,,@"), 400),
    ],
)
def test_a_malformed_upgrade_is_refused_with_json(
    module_service: ServiceProcess, path: str, headers: dict[str, str], expected: int
) -> None:
    full = {**(headers or upgrade_headers()), **bearer(module_service.token("ann", "w"))}
    answer = http(module_service, path, full)
    assert answer.status == expected
    assert list(answer.json) == ["error"]
    if expected == 426:
        assert answer.headers["upgrade"] == "websocket"
    assert status(module_service)["connections"] == 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "BREW"])
@pytest.mark.parametrize("path", ["/healthz", connect_path("w"), f"{API}/messages"])
def test_other_methods_are_refused_with_405(
    module_service: ServiceProcess, method: str, path: str
) -> None:
    answer_to_head = method == "HEAD"
    with Wire(module_service) as wire:
        wire.write(request(path, bearer(module_service.token("ann", "w")), method=method))
        if answer_to_head:
            head = b""
            while chunk := wire.socket.recv(4096):
                head += chunk
            assert head.startswith(b"HTTP/1.1 405 ")
            assert b"\r\nAllow: GET, OPTIONS\r\n" in head
            assert head.endswith(b"\r\n\r\n")  # no body
        else:
            answer = wire.answer()
            assert (answer.status, answer.headers["allow"]) == (405, "GET, OPTIONS")
            assert answer.json == {"error": "only GET is answered here"}


def test_an_unknown_path_is_404(module_service: ServiceProcess) -> None:
    answer = http(module_service, "/api/chat/workspace/w")
    assert answer.status == 404
    assert answer.json == {"error": "no such path; the service answers under /api/chat/workspace/"}


# --- origins ------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", [ORIGIN, ORIGIN.upper(), "http://localhost:3000"])
def test_a_page_of_an_allowed_origin_gets_in_and_may_read_answers(
    module_service: ServiceProcess, origin: str
) -> None:
    token = module_service.token("ann", "w")
    with Wire(module_service) as wire:
        wire.write(request(connect_path("w"), {**upgrade_headers(token), "Origin": origin}))
        assert wire.answer().status == 101
    for headers, expected in ((bearer(token), 200), ({}, 401)):
        answer = http(module_service, f"{API}/messages", {**headers, "Origin": origin})
        assert answer.status == expected
        assert answer.headers["access-control-allow-origin"] == origin
        assert answer.headers["vary"] == "Origin"


@pytest.mark.parametrize("origin", ["https://evil.test", "null", f"{ORIGIN}.evil.test", "\xff"])
def test_a_page_of_another_origin_is_refused_with_403(
    module_service: ServiceProcess, origin: str
) -> None:
    token = module_service.token("ann", "w")
    for path in (connect_path("w"), f"{API}/messages", "/version"):
        answer = http(module_service, path, {**upgrade_headers(token), "Origin": origin})
        assert answer.status == 403
        assert answer.json == {
            "error": "this origin is not allowed; see auth.origins in the settings"
        }
        assert "access-control-allow-origin" not in answer.headers


def test_without_a_list_every_origin_is_allowed(service_factory: ServiceFactory) -> None:
    service = service_factory()
    for origin in ("https://any.test", "null", "\xff", "x" * 8000):
        headers = {**bearer(service.token("ann", "w")), "Origin": origin}
        answer = http(service, f"{API}/messages", headers)
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == origin
    assert troubles(service) == []


def test_a_browsers_preflight_is_answered(module_service: ServiceProcess) -> None:
    asking = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "x"}
    answer = http(module_service, f"{API}/messages", {**asking, "Origin": ORIGIN}, method="OPTIONS")
    assert answer.status == 204
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert answer.headers["access-control-allow-headers"] == "Authorization"
    refused = {**asking, "Origin": "https://evil.test"}
    assert http(module_service, f"{API}/messages", refused, method="OPTIONS").status == 403


# --- limits -------------------------------------------------------------------------------


def test_too_many_connections_are_refused_until_somebody_leaves(
    module_service: ServiceProcess,
) -> None:
    def refusal(user: str, workspace: str) -> tuple[int, str, str]:
        with Wire(module_service) as wire:
            answer = wire.upgrade(workspace, module_service.token(user, workspace))
            return answer.status, answer.json["error"], answer.headers["retry-after"]

    members: list[Wire] = []

    def let_in(user: str, workspace: str) -> None:
        members.append(Wire.join(module_service, workspace, user))

    try:
        let_in("ann", "w")
        let_in("ann", "w2")
        assert refusal("ann", "w3") == (429, "too many connections of this user", "10")
        for user in ("bob", "eve", "joe"):
            let_in(user, "w")
        assert refusal("zoe", "w") == (429, "too many connections in this workspace", "10")
        for user in ("bob", "eve", "joe"):
            let_in(user, "w2")
        assert refusal("zoe", "w3") == (503, "the service is full", "5")
        members.pop(0).reset()
        eventually(lambda: status(module_service)["connections"] == 7)
        let_in("ann", "w3")
    finally:
        for wire in members:
            wire.socket.close()
    eventually(lambda: status(module_service)["connections"] == 0)


# --- what is open to all -------------------------------------------------------------------


def test_version_and_health_are_open_to_all(module_service: ServiceProcess) -> None:
    assert http(module_service, "/healthz").body == b"ok\n"
    assert http(module_service, "/readyz").json == {"ready": True}
    version = http(module_service, "/version").json
    assert (version["pid"], version["release"]) == (module_service.pid, "unreleased")
    assert set(version) == {"release", "commit", "schema", "pid", "python", "started"}


# --- what becomes of the numbers ----------------------------------------------------------


def test_refusals_are_counted_by_their_reason(service_factory: ServiceFactory) -> None:
    service = service_factory({"limits": {"connections_per_user": 1}})
    with Wire.join(service) as ann:
        for workspace, token, count in (
            ("w", "", 1),
            ("w", service.token("ann", "other"), 1),
            ("w", service.token("ann", "w"), 1),
            ("%20", service.token("ann", "w"), 2),
        ):
            for _ in range(count):
                with Wire(service) as wire:
                    assert wire.upgrade(workspace, token).status >= 400
        ann.send("ping")
        assert ann.next("pong")
        found = metrics(service)
    results = {
        name.partition('"')[2].rstrip('"}'): value
        for name, value in found.items()
        if name.startswith("chat_handshakes_total")
    }
    assert results == {
        "accepted": 1,
        "unauthorized": 1,
        "forbidden": 1,
        "too_many": 1,
        "bad_request": 2,
        "unavailable": 0,
        "timeout": 0,
        "abandoned": 0,
    }
    assert found['chat_requests_total{op="connect",result="ok"}'] == 1
    assert found['chat_requests_total{op="connect",result="client_error"}'] == 3
    assert found['chat_requests_total{op="invalid",result="client_error"}'] == 2
    assert found['chat_requests_total{op="connect",result="error"}'] == 0
