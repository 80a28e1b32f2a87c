"""Where a client connects to, with what, and what it makes of a refusal."""

from __future__ import annotations

from typing import Any

import pytest
from websockets.datastructures import Headers
from websockets.http11 import Response

from chatservice.client.handshake import Target, TokenUnavailable, _refusal, current_token


def target(url: str = "ws://h:1", workspace: str = "w") -> Target:
    return Target(
        url=url, workspace=workspace, token_in="header", origin=None, ssl=None, headers={},
        proxy=None, open_timeout=1.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("url", "uri"),
    [
        ("ws://h:1", "ws://h:1/api/chat/workspace/w/connect"),
        ("wss://h", "wss://h/api/chat/workspace/w/connect"),
        ("http://h:1/", "ws://h:1/api/chat/workspace/w/connect"),
        ("https://h/pre/fix/", "wss://h/pre/fix/api/chat/workspace/w/connect"),
        ("ws://[::1]:5", "ws://[::1]:5/api/chat/workspace/w/connect"),
    ],
)
def test_the_address_is_built_from_whatever_names_the_service(url: str, uri: str) -> None:
    assert target(url).uri({}) == uri


def test_ids_and_parameters_are_quoted() -> None:
    assert target(workspace="a/b ?#ä").uri({"after": "3", "epoch": "x&y"}) == (
        "ws://h:1/api/chat/workspace/a%2Fb%20%3F%23%C3%A4/connect?after=3&epoch=x%26y"
    )


@pytest.mark.parametrize("url", ["", "h:1", "ftp://h", "ws://", "ws:///path", "//h"])
def test_what_is_no_address_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="is no address of the form"):
        target(url)


def test_a_workspace_must_be_named() -> None:
    with pytest.raises(ValueError, match="the workspace is empty"):
        target(workspace="")


@pytest.mark.parametrize(
    ("status", "headers", "body", "message", "retry_after"),
    [
        (401, {}, b'{"error":"the token has expired"}\n', "the token has expired", None),
        (503, {"Retry-After": "7"}, b"down\n", "down", 7.0),
        (503, {"Retry-After": "86400"}, b"", "Reason", 300.0),
        (503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, b"", "Reason", None),
        (502, {}, b"<html>" + b"x" * 1000, "<html>" + "x" * 494, None),
        (502, {}, b"\xff[", "\ufffd[", None),
        (400, {}, b'{"error":["a"]}', "['a']", None),
        (400, {}, b'["x"]', '["x"]', None),
        (400, {}, b"7", "7", None),
    ],
)
def test_a_refusal_says_what_the_server_said(
    status: int, headers: dict[str, str], body: bytes, message: str, retry_after: float | None
) -> None:
    refused = _refusal(Response(status, "Reason", Headers(headers), body))
    assert (refused.status, refused.message, refused.retry_after) == (status, message, retry_after)
    assert str(refused) == f"refused with {status}: {message}"


@pytest.mark.parametrize(
    ("status", "final"),
    [(400, True), (401, True), (403, True), (404, False), (429, False), (500, False), (503, False)],
)
def test_which_refusals_are_final(status: int, final: bool) -> None:
    assert _refusal(Response(status, "", Headers(), b"")).final is final


async def test_tokens_come_from_text_functions_and_coroutines() -> None:
    async def later() -> str:
        return "t3"

    assert await current_token("t1") == "t1"
    assert await current_token(lambda: "t2") == "t2"
    assert await current_token(later) == "t3"
    assert await current_token(None) == ""


async def test_a_failing_source_of_tokens_is_named() -> None:
    def fail() -> str:
        raise OSError("no network")

    async def fail_later() -> str:
        raise OSError("no network")

    sources: list[Any] = [fail, fail_later]
    for source in sources:
        with pytest.raises(TokenUnavailable, match=r"OSError\('no network'\)"):
            await current_token(source)
