"""The client on a wire that breaks in every way: nothing is lost, repeated or left hanging."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from chatservice.client import (
    Backoff,
    ChatClient,
    ClosedForGood,
    LaggedError,
    NotConnected,
    Refused,
    RequestRefused,
    SendRefused,
)
from chatservice.protocol import (
    Ack,
    Authenticate,
    Authenticated,
    Error,
    ErrorCode,
    History,
    Message,
    Ping,
    Pong,
    Presence,
    PresenceChange,
    Read,
    ReadCursor,
    ReadHistory,
    Reconnect,
    Send,
    ServerFrame,
    StartTyping,
    Typing,
    Welcome,
)
from tests.chatservice.client.scripted import (
    DEADLINE,
    Refusal,
    ScriptedServer,
    Wire,
    message,
    refuse,
)

QUICK = Backoff(base=0.005, cap=0.05)


def client(server: ScriptedServer, **settings: Any) -> ChatClient:
    given: dict[str, Any] = {"workspace": "w", "token": "t0ken", "backoff": QUICK}
    return ChatClient(server.url, **given | settings)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.002)


def _client_tasks() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if "chat client" in task.get_name()]


async def messages(member: ChatClient, upto: int) -> list[int]:
    """Give the numbers of the messages from `events`, up to one number."""
    seen: list[int] = []
    async with asyncio.timeout(DEADLINE):
        async for frame in member.events():
            if isinstance(frame, Message):
                seen.append(frame.seq)
                if frame.seq == upto:
                    break
    return seen


async def stay(wire: Wire) -> None:
    await wire.welcome()
    await wire.idle()


# --- coming in ----------------------------------------------------------------------------


async def test_the_token_travels_in_the_header_by_default() -> None:
    async with ScriptedServer(stay) as server, client(server, headers={"X-Device": "d1"}):
        (request,) = server.requests
        assert request.path == "/api/chat/workspace/w/connect"
        assert request.headers["Authorization"] == "Bearer t0ken"
        assert request.headers["Sec-WebSocket-Protocol"] == "chat.v1"
        assert request.headers["X-Device"] == "d1"
        assert "Origin" not in request.headers
        assert "Sec-WebSocket-Extensions" not in request.headers  # 64 KiB a connection


async def test_the_token_travels_as_a_subprotocol_like_a_browsers() -> None:
    async with (
        ScriptedServer(stay) as server,
        client(server, token_in="subprotocol", origin="https://a.example"),
    ):
        (request,) = server.requests
        assert request.headers["Sec-WebSocket-Protocol"] == "chat.v1, bearer.t0ken"
        assert request.headers["Origin"] == "https://a.example"
        assert "Authorization" not in request.headers


async def test_the_token_travels_in_the_query() -> None:
    async with ScriptedServer(stay) as server, client(server, token_in="query"):
        (request,) = server.requests
        assert request.path == "/api/chat/workspace/w/connect?token=t0ken"
        assert "Authorization" not in request.headers


async def test_without_a_token_none_travels() -> None:
    async with ScriptedServer(stay) as server, client(server, token=None):
        (request,) = server.requests
        assert "Authorization" not in request.headers
        assert request.path == "/api/chat/workspace/w/connect"


async def test_what_the_welcome_says_is_known() -> None:
    async def script(wire: Wire) -> None:
        await wire.welcome(7, newest=[message(6), message(7)], unread=2)
        await wire.say(PresenceChange("bob", "Bob", Presence.ONLINE), message(8))
        await wire.idle()

    async with ScriptedServer(script) as server:
        member = client(server)
        assert not member.connected
        async with member:
            assert member.connected
            assert (member.welcome.user, member.epoch, member.connections) == ("ada", "e1", 1)
            await until(lambda: member.seq == 8)
            assert (member.unread, member.cursor) == (3, 0)
            assert member.online == {"ada": "Ada", "bob": "Bob"}
        assert not member.connected


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_a_final_refusal_is_raised_at_once(status: int) -> None:
    async with ScriptedServer(refuse(status, '{"error":"why"}')) as server:
        with pytest.raises(Refused) as caught:
            async with client(server):
                raise AssertionError
        assert (caught.value.status, caught.value.message) == (status, "why")
        assert len(server.requests) == 1


@pytest.mark.parametrize("status", [404, 429, 500, 502, 503])
async def test_another_refusal_is_tried_again(status: int) -> None:
    async with ScriptedServer(refuse(status), refuse(status), stay) as server:
        async with client(server) as member:
            assert member.connected
        assert len(server.requests) == 3


async def test_retry_after_is_heeded() -> None:
    async with ScriptedServer(refuse(503, Retry_After="1"), stay) as server:
        began = time.monotonic()
        async with client(server):
            assert time.monotonic() - began >= 1.0


async def test_without_reconnecting_any_refusal_and_any_loss_is_final() -> None:
    async with ScriptedServer(refuse(503, "full", Retry_After="7")) as server:
        with pytest.raises(Refused) as caught:
            await client(server, reconnect=False).connect()
        assert (caught.value.status, caught.value.retry_after) == (503, 7.0)

    async def restart(wire: Wire) -> None:
        await wire.welcome()
        await wire.close(1012, "restart")

    async with ScriptedServer(restart) as server, client(server, reconnect=False) as member:
        with pytest.raises(ClosedForGood) as closed:
            await member.wait_for(lambda frame: False)
        assert (closed.value.code, closed.value.reason) == (1012, "restart")
        assert len(server.requests) == 1
    with pytest.raises(ClosedForGood, match="Connect call failed"):
        await ChatClient("ws://127.0.0.1:9", workspace="w", token=None, reconnect=False).connect()


async def test_no_connection_in_time_says_what_went_wrong() -> None:
    async with ScriptedServer(refuse(503, "draining")) as server:
        with pytest.raises(NotConnected) as caught:
            await client(server, connect_timeout=0.5).connect()
        assert str(caught.value) == (
            f"not connected to {server.url} within 0.5 s; last: refused with 503: draining"
        )
    unreachable = ChatClient(
        "ws://127.0.0.1:9", workspace="w", token="t", connect_timeout=0.5, backoff=QUICK
    )
    with pytest.raises(NotConnected, match="Connect call failed"):
        await unreachable.connect()
    assert not _client_tasks()


async def test_a_server_that_never_welcomes_is_given_up() -> None:
    async def silent(wire: Wire) -> None:
        await wire.idle()

    async with ScriptedServer(silent, stay) as server:
        async with client(server, open_timeout=0.5) as member:
            assert member.connections == 1
        assert len(server.requests) == 2


async def test_a_redirect_is_not_followed_with_the_token() -> None:
    async with ScriptedServer(stay) as elsewhere:
        location = f"{elsewhere.url}/api/chat/workspace/w/connect"
        async with ScriptedServer(refuse(307, "gone", Location=location)) as server:
            with pytest.raises(NotConnected, match="refused with 307"):
                await client(server, token_in="subprotocol", connect_timeout=0.2).connect()
        assert elsewhere.requests == []


async def test_each_connection_gets_a_fresh_token_even_after_a_failing_source() -> None:
    calls: list[int] = []

    async def source() -> str:
        calls.append(1)
        if len(calls) == 2:
            raise OSError("the identity provider is down")
        return f"t{len(calls)}"

    async def expired(wire: Wire) -> None:
        await wire.welcome()
        await wire.close(4401, "the token expired")

    async with ScriptedServer(expired, stay) as server, client(server, token=source) as member:
        await until(lambda: member.connections == 2)
        sent = [request.headers["Authorization"] for request in server.requests]
        assert sent == ["Bearer t1", "Bearer t3"]


# --- coming back --------------------------------------------------------------------------


async def test_a_broken_connection_is_resumed_without_loss_or_repeat() -> None:
    async def first(wire: Wire) -> None:
        await wire.welcome(2, newest=[message(1), message(2)])
        await wire.say(message(3), message(4))
        wire.cut()

    async def second(wire: Wire) -> None:
        assert wire.query == {"after": "4", "epoch": "e1"}
        await wire.welcome(6, resumed=True)
        await wire.say(message(5), message(6), message(7))
        await wire.idle()

    async with ScriptedServer(first, second) as server, client(server) as member:
        assert await messages(member, 7) == [3, 4, 5, 6, 7]
        assert (member.connections, member.repeats, member.gaps) == (2, 0, 0)


async def test_messages_that_the_server_repeats_come_once() -> None:
    async def first(wire: Wire) -> None:
        await wire.welcome()
        await wire.say(message(1), message(1), message(2))
        wire.cut()

    async def second(wire: Wire) -> None:
        await wire.welcome(3, resumed=True)
        await wire.say(message(1), message(2), message(3), message(3))
        await wire.idle()

    wired: list[ServerFrame] = []
    async with (
        ScriptedServer(first, second) as server,
        client(server, on_frame=wired.append) as member,
    ):
        assert await messages(member, 3) == [1, 2, 3]
        await until(lambda: member.repeats == 4)
        assert [f.seq for f in wired if isinstance(f, Message)] == [1, 1, 2, 1, 2, 3, 3]


async def test_a_missing_message_is_fetched_by_connecting_again() -> None:
    async def first(wire: Wire) -> None:
        await wire.welcome()
        await wire.say(message(1), message(3))
        await wire.idle()

    async def second(wire: Wire) -> None:
        assert wire.query == {"after": "1", "epoch": "e1"}
        await wire.welcome(3, resumed=True)
        await wire.say(message(2), message(3))
        await wire.idle()

    async with ScriptedServer(first, second) as server, client(server) as member:
        assert await messages(member, 3) == [1, 2, 3]
        assert member.gaps == 1


async def test_a_lost_tail_is_found_by_pings() -> None:
    async def first(wire: Wire) -> None:
        await wire.welcome(heartbeat=0.05)
        while True:
            await wire.hear(Ping)
            await wire.say(Pong(1))

    async def second(wire: Wire) -> None:
        await wire.welcome(1, resumed=True)
        await wire.say(message(1))
        await wire.idle()

    async with ScriptedServer(first, second) as server, client(server) as member:
        assert await messages(member, 1) == [1]
        assert "the newest message is 1, but only 0 came" in member.last_failure


async def test_a_reset_shows_as_a_welcome_and_goes_on_from_the_newest() -> None:
    async def first(wire: Wire) -> None:
        await wire.welcome(9)
        wire.cut()

    async def second(wire: Wire) -> None:
        assert wire.query == {"after": "9", "epoch": "e1"}
        await wire.welcome(2, epoch="e2", newest=[message(1), message(2)])
        await wire.say(message(3))
        await wire.idle()

    async with ScriptedServer(first, second) as server, client(server) as member:
        kinds: list[tuple[str, Any]] = []
        async for frame in member.events():
            kinds.append((type(frame).__name__, getattr(frame, "resumed", None)))
            if isinstance(frame, Message):
                break
        assert kinds == [
            ("Welcome", False), ("History", None), ("Welcome", False), ("History", None),
            ("Message", None),
        ]  # fmt: skip
        assert (member.epoch, member.seq) == ("e2", 3)


async def test_a_resume_of_another_history_is_not_believed() -> None:
    async def first(wire: Wire) -> None:
        await wire.welcome(9)
        wire.cut()

    async def confused(wire: Wire) -> None:
        await wire.welcome(9, resumed=True, epoch="e2")
        await wire.idle()

    async def third(wire: Wire) -> None:
        assert wire.query == {}
        await stay(wire)

    async with ScriptedServer(first, confused, third) as server, client(server) as member:
        await until(lambda: len(server.requests) == 3 and member.connected)


@pytest.mark.parametrize("code", [1000, 1001, 1011, 1012, 4000, 4401, 4408, 4429, 4499])
async def test_after_these_codes_it_comes_back(code: int) -> None:
    async def first(wire: Wire) -> None:
        await wire.welcome()
        await wire.close(code)

    async with ScriptedServer(first, stay) as server, client(server) as member:
        await until(lambda: member.connections == 2)


@pytest.mark.parametrize("code", [4500, 4503, 4999])
async def test_after_these_codes_everybody_who_waits_is_told(code: int) -> None:
    async def script(wire: Wire) -> None:
        await wire.welcome()
        await wire.hear(Send)
        await wire.close(code, "why")

    async with ScriptedServer(script) as server, client(server, outbox=1) as member:
        waiting: list[asyncio.Task[Any]] = [
            asyncio.create_task(member.send("a")),
            asyncio.create_task(member.send("waits for room")),
            asyncio.create_task(member.wait_for(lambda frame: False, DEADLINE)),
            asyncio.create_task(messages(member, 99)),
        ]
        for task in waiting:
            with pytest.raises(ClosedForGood) as caught:
                await asyncio.wait_for(task, DEADLINE)
            assert (caught.value.code, caught.value.reason) == (code, "why")
        for call in (member.send("b"), member.history(), member.ping(), member.typing(),
                     member.read(1), member.renew("t")):  # fmt: skip
            with pytest.raises(ClosedForGood):
                await call
        assert not member.connected
        assert len(server.requests) == 1


async def test_a_final_refusal_on_coming_back_tells_everybody() -> None:
    async def first(wire: Wire) -> None:
        await wire.welcome()
        await wire.hear(Send)
        await wire.close(4401)

    async with ScriptedServer(first, refuse(401, "expired")) as server, client(server) as member:
        with pytest.raises(Refused, match="refused with 401: expired"):
            await member.send("a")
        assert len(server.requests) == 2


async def test_it_comes_back_when_the_server_said_and_not_before() -> None:
    async def first(wire: Wire) -> None:
        await wire.welcome()
        await wire.say(Reconnect(400))
        await wire.close(1012)

    async with ScriptedServer(first, stay) as server, client(server) as member:
        began = time.monotonic()
        await member.wait_for(lambda frame: isinstance(frame, Reconnect))
        await until(lambda: member.connections == 2)
        assert time.monotonic() - began >= 0.38


async def test_the_time_to_come_back_counts_for_one_attempt_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When that one fails, the backoff has its say again, and nobody is hammered."""
    monkeypatch.setattr("chatservice.client.membership.random.random", lambda: 1.0)
    refused_at: list[float] = []

    async def first(wire: Wire) -> None:
        await wire.welcome()
        await wire.say(Reconnect(1))
        await wire.close(1012)

    def full(request: Request) -> Response:
        refused_at.append(time.monotonic())
        return refuse(503).answer(request)

    async with (
        ScriptedServer(first, Refusal(full), Refusal(full), stay) as server,
        client(server, backoff=Backoff(base=0.2, cap=0.2)) as member,
    ):
        await until(lambda: member.connections == 2)
    assert refused_at[1] - refused_at[0] >= 0.19


async def test_what_came_with_the_close_is_not_lost() -> None:
    """Acks, messages and `reconnect` right before a close frame are all taken in."""

    async def first(wire: Wire) -> None:
        await wire.welcome()
        sends = [await wire.hear(Send) for _ in range(20)]
        for seq, send in enumerate(sends, 1):
            await wire.publish(send, seq)
        await wire.say(Reconnect(1))
        await wire.close(1012)

    async def second(wire: Wire) -> None:
        assert wire.query == {"after": "20", "epoch": "e1"}
        await wire.welcome(20, resumed=True)
        await wire.idle()

    async with ScriptedServer(first, second) as server, client(server) as member:
        acks = await asyncio.gather(*(member.send(f"{n}") for n in range(20)))
        assert [ack.seq for ack in acks] == list(range(1, 21))
        await until(lambda: member.connections == 2)


async def test_a_silent_server_is_pinged_and_then_left() -> None:
    async def dead(wire: Wire) -> None:
        await wire.welcome(heartbeat=0.1)
        await wire.hear(Ping)
        await wire.say(Pong(0))
        await wire.hear(Ping)  # and no answer
        with pytest.raises(ConnectionClosed):
            await wire.socket.recv()

    async with ScriptedServer(dead, stay) as server, client(server) as member:
        await until(lambda: member.connections == 2)
        assert "nothing came from the server for 0.2 s" in member.last_failure


async def test_a_server_that_talks_is_not_pinged() -> None:
    async def talkative(wire: Wire) -> None:
        await wire.welcome(heartbeat=0.3)
        for _ in range(20):
            await wire.say(Typing("bob"))
            await asyncio.sleep(0.02)
        await wire.say(Typing("end"))
        await wire.idle()

    async with ScriptedServer(talkative) as server, client(server) as member:
        await member.wait_for(lambda frame: frame == Typing("end"), DEADLINE)
        assert member.connections == 1


@pytest.mark.parametrize("garbage", ["x", '{"type":"pong"}', b"\xff", "[" * 1000])
async def test_a_server_that_talks_nonsense_is_left(garbage: str | bytes) -> None:
    async def nonsense(wire: Wire) -> None:
        await wire.welcome()
        await wire.socket.send(garbage)
        await wire.idle()

    async with ScriptedServer(nonsense, stay) as server, client(server) as member:
        await until(lambda: member.connections == 2)


async def test_frames_of_a_newer_server_are_passed_over() -> None:
    async def newer(wire: Wire) -> None:
        await wire.welcome()
        await wire.socket.send('{"type":"reaction","seq":1}')
        await wire.say(message(1))
        await wire.idle()

    async with ScriptedServer(newer) as server, client(server) as member:
        assert await messages(member, 1) == [1]
        assert member.connections == 1


# --- sending ------------------------------------------------------------------------------


async def test_a_send_returns_its_number() -> None:
    async def script(wire: Wire) -> None:
        await wire.welcome(4)
        await wire.serve_sends(4)

    async with ScriptedServer(script) as server, client(server) as member:
        assert await member.send("hello", "id-1") == Ack("id-1", 5, 5000)
        acks = await asyncio.gather(*(member.send(f"{n}") for n in range(200)))
        assert [ack.seq for ack in acks] == list(range(6, 206))
        assert len({ack.id for ack in acks}) == 200


async def test_unanswered_sends_go_again_in_order_but_for_what_was_resumed() -> None:
    """Of a, b, c, d the ack of a came, b and c were stored, and d was not."""

    async def first(wire: Wire) -> None:
        await wire.welcome()
        sends = [await wire.hear(Send) for _ in range(4)]
        await wire.publish(sends[0], 1)
        wire.cut()

    async def second(wire: Wire) -> None:
        assert wire.query["after"] == "1"
        await wire.welcome(4, resumed=True)
        await wire.say(message(2, "ada", "b"), message(3, "bob"), message(4, "ada", "c"))
        assert await wire.hear_sends(1) == ["d"]
        await wire.publish(Send("d", "x"), 5)
        await wire.idle()

    async with ScriptedServer(first, second) as server, client(server) as member:
        acks = await asyncio.gather(*(member.send("x", id) for id in "abcd"))
        assert [(ack.id, ack.seq) for ack in acks] == [("a", 1), ("b", 2), ("c", 4), ("d", 5)]


async def test_nothing_goes_again_before_what_was_missed_has_come() -> None:
    """Otherwise a message would be sent again though its echo is on the way."""

    async def first(wire: Wire) -> None:
        await wire.welcome()
        await wire.hear_sends(1)
        wire.cut()

    async def second(wire: Wire) -> None:
        await wire.welcome(2, resumed=True)
        await wire.say(message(1))
        catching_up.set()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await wire.hear(Send)
        await wire.say(message(2, "ada", "a"))
        await wire.serve_sends(2)

    catching_up = asyncio.Event()
    async with ScriptedServer(first, second) as server, client(server) as member:
        sending = asyncio.create_task(member.send("x", "a"))
        await catching_up.wait()
        assert await member.send("x", "b") == Ack("b", 3, 3000)
        assert await sending == Ack("a", 2, 2000)


async def test_after_a_reset_the_newest_history_answers_sends_too() -> None:
    async def first(wire: Wire) -> None:
        await wire.welcome()
        await wire.hear_sends(2)
        wire.cut()

    async def second(wire: Wire) -> None:
        await wire.welcome(7, epoch="e2", newest=[message(7, "ada", "a")])
        assert await wire.hear_sends(1) == ["b"]
        await wire.publish(Send("b", "x"), 8)
        await wire.idle()

    async with ScriptedServer(first, second) as server, client(server) as member:
        acks = await asyncio.gather(member.send("x", "a"), member.send("x", "b"))
        assert [ack.seq for ack in acks] == [7, 8]


async def test_an_echo_whose_ack_is_cut_off_is_an_answer() -> None:
    async def first(wire: Wire) -> None:
        await wire.welcome()
        send = await wire.hear(Send)
        await wire.say(message(1, "ada", send.id))
        wire.cut()

    async def second(wire: Wire) -> None:
        assert wire.query["after"] == "1"
        await wire.welcome(1, resumed=True)
        assert await wire.hear_sends(1) == ["b"]
        await wire.publish(Send("b", "x"), 2)
        await wire.idle()

    async with ScriptedServer(first, second) as server, client(server) as member:
        assert (await member.send("x", "a")).seq == 1
        assert (await member.send("x", "b")).seq == 2


async def test_somebody_elses_message_with_the_same_id_is_no_answer() -> None:
    async def first(wire: Wire) -> None:
        await wire.welcome()
        await wire.hear_sends(1)
        wire.cut()

    async def second(wire: Wire) -> None:
        await wire.welcome(1, resumed=True)
        await wire.say(message(1, "bob", "a"))
        assert await wire.hear_sends(1) == ["a"]
        await wire.publish(Send("a", "x"), 2)
        await wire.idle()

    async with ScriptedServer(first, second) as server, client(server) as member:
        assert (await member.send("x", "a")).seq == 2


async def test_a_send_begun_without_a_connection_goes_with_the_next() -> None:
    async def first(wire: Wire) -> None:
        await wire.welcome()
        wire.cut()

    async def second(wire: Wire) -> None:
        await wire.welcome(resumed=True)
        await wire.serve_sends(0)

    steps = (first, refuse(503), refuse(503), second)
    async with ScriptedServer(*steps) as server, client(server) as member:
        await until(lambda: len(server.requests) > 1)
        assert (await member.send("x")).seq == 1


async def test_a_refusal_for_good_is_raised_to_its_sender_only() -> None:
    async def script(wire: Wire) -> None:
        await wire.welcome()
        sends = [await wire.hear(Send) for _ in range(2)]
        await wire.say(Error(ErrorCode.TOO_LONG, "the text has 5 characters", sends[0].id))
        await wire.publish(sends[1], 1)
        await wire.idle()

    async with ScriptedServer(script) as server, client(server) as member:
        first, second = await asyncio.gather(
            member.send("aaaaa"), member.send("b"), return_exceptions=True
        )
        assert isinstance(first, SendRefused)
        assert (first.code, first.message) == ("too_long", "the text has 5 characters")
        assert isinstance(second, Ack)
        assert member.connections == 1


@pytest.mark.parametrize("code", [ErrorCode.UNAVAILABLE, ErrorCode.RATE_LIMITED])
async def test_a_refusal_for_now_is_sent_again_with_its_id(code: ErrorCode) -> None:
    async def script(wire: Wire) -> None:
        await wire.welcome()
        for _ in range(3):
            send = await wire.hear(Send)
            assert send.id == "a"
            await wire.say(Error(code, "later", send.id))
        await wire.serve_sends(0)

    async with ScriptedServer(script) as server, client(server) as member:
        assert (await member.send("x", "a")).seq == 1


async def test_after_a_refusal_for_now_sends_start_again_slowly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a pause one goes alone, and with each acknowledgement one more may be under way."""
    monkeypatch.setattr("chatservice.client.membership.random.random", lambda: 1.0)

    async def silence(wire: Wire) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await wire.hear(Send)

    async def script(wire: Wire) -> None:
        await wire.welcome()
        sends = [await wire.hear(Send) for _ in range(5)]
        for send in sends:
            await wire.say(Error(ErrorCode.RATE_LIMITED, "slower", send.id))
        refused_at = time.monotonic()
        assert await wire.hear_sends(1) == ["a"]
        assert time.monotonic() - refused_at >= 0.18
        await silence(wire)
        await wire.publish(sends[0], 1)
        assert await wire.hear_sends(2) == ["b", "c"]
        await silence(wire)
        await wire.publish(sends[1], 2)
        assert await wire.hear_sends(2) == ["d", "e"]
        for seq in (3, 4, 5):
            await wire.publish(sends[seq - 1], seq)
        await wire.idle()

    slow = Backoff(base=0.2, cap=0.2)
    async with ScriptedServer(script) as server, client(server, backoff=slow) as member:
        acks = await asyncio.gather(*(member.send("x", id) for id in "abcde"))
        assert [ack.seq for ack in acks] == [1, 2, 3, 4, 5]


async def test_a_send_that_is_too_late_is_raised_and_not_sent_again() -> None:
    async def first(wire: Wire) -> None:
        await wire.welcome()
        await wire.hear_sends(1)
        await member_gave_up.wait()
        wire.cut()

    async def second(wire: Wire) -> None:
        await wire.welcome(resumed=True)
        assert await wire.hear_sends(1) == ["b"]
        await wire.publish(Send("b", "x"), 1)
        await wire.idle()

    member_gave_up = asyncio.Event()
    async with ScriptedServer(first, second) as server, client(server) as member:
        with pytest.raises(TimeoutError, match=r"no acknowledgement within 0\.1 s; connected"):
            await member.send("x", "a", timeout=0.1)
        member_gave_up.set()
        assert (await member.send("x", "b")).seq == 1


async def test_a_late_send_without_connection_says_why_there_is_none() -> None:
    async def first(wire: Wire) -> None:
        await wire.welcome()
        wire.cut()

    async with ScriptedServer(first, refuse(503, "full")) as server, client(server) as member:
        with pytest.raises(TimeoutError) as caught:
            await member.send("x", timeout=0.6)
        assert str(caught.value) == (
            "no acknowledgement within 0.6 s; not connected (refused with 503: full)"
        )


async def test_a_cancelled_send_is_not_sent_again() -> None:
    async def first(wire: Wire) -> None:
        await wire.welcome()
        await wire.hear_sends(1)
        cut.set()
        await cancelled.wait()
        wire.cut()

    async def second(wire: Wire) -> None:
        await wire.welcome(resumed=True)
        assert await wire.hear_sends(1) == ["b"]
        await wire.publish(Send("b", "x"), 1)
        await wire.idle()

    cut, cancelled = asyncio.Event(), asyncio.Event()
    async with ScriptedServer(first, second) as server, client(server) as member:
        sending = asyncio.create_task(member.send("x", "a"))
        await cut.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        cancelled.set()
        assert (await member.send("x", "b")).seq == 1


async def test_the_outbox_is_bounded_and_the_rest_waits() -> None:
    async def script(wire: Wire) -> None:
        await wire.welcome()
        assert await wire.hear_sends(2) == ["0", "1"]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await wire.hear(Send)
        await wire.publish(Send("0", "x"), 1)
        assert await wire.hear_sends(1) == ["2"]
        await wire.publish(Send("1", "x"), 2)
        await wire.publish(Send("2", "x"), 3)
        await wire.serve_sends(3)

    async with ScriptedServer(script) as server, client(server, outbox=2) as member:
        sending = [asyncio.create_task(member.send("x", str(n))) for n in range(5)]
        await asyncio.sleep(0)
        assert len(member._membership._outbox) == 2
        acks = await asyncio.gather(*sending)
        assert [ack.seq for ack in acks] == [1, 2, 3, 4, 5]


async def test_ids_are_checked_before_anything_is_sent() -> None:
    async with ScriptedServer(stay) as server, client(server) as member:
        for bad in ("", "x" * 65):
            with pytest.raises(ValueError, match="1 to 64 characters"):
                await member.send("x", bad)
        sending = asyncio.create_task(member.send("x", "a"))
        await asyncio.sleep(0)
        with pytest.raises(ValueError, match="'a' is under way already"):
            await member.send("x", "a")
        sending.cancel()


# --- asking -------------------------------------------------------------------------------


async def test_pings_pages_and_renewals_are_answered() -> None:
    page = History([message(3), message(4)], True)

    async def script(wire: Wire) -> None:
        await wire.welcome(9)
        await wire.hear(Ping)
        await wire.say(Pong(9))
        assert await wire.hear(ReadHistory) == ReadHistory(5, 2)
        await wire.say(page)
        assert await wire.hear(ReadHistory) == ReadHistory(10, 50)
        await wire.say(History([], False))
        assert await wire.hear(Authenticate) == Authenticate("t2")
        await wire.say(Authenticated(77))
        assert await wire.hear(StartTyping) == StartTyping()
        assert await wire.hear(Read) == Read(9)
        await wire.say(ReadCursor(9, 0), Typing("end"))
        await wire.idle()

    async with ScriptedServer(script) as server, client(server) as member:
        assert await member.ping() == 9
        assert await member.history(5, 2) == page
        assert await member.history() == History([], False)
        assert await member.renew("t2") == 77
        await member.typing()
        await member.read(9)
        await member.wait_for(lambda frame: frame == Typing("end"))
        assert (member.cursor, member.unread) == (9, 0)
        seen = [type(frame) for frame in member._membership.feed.since(0)]
        assert seen == [Welcome, History, ReadCursor, Typing]


async def test_a_request_that_the_connection_ate_is_made_again() -> None:
    async def first(wire: Wire) -> None:
        await wire.welcome(9)
        await wire.hear(ReadHistory)
        wire.cut()

    async def second(wire: Wire) -> None:
        await wire.welcome(9, resumed=True)
        await wire.hear(ReadHistory)
        await wire.say(Error(ErrorCode.UNAVAILABLE, "history: the store does not answer"))
        await wire.hear(ReadHistory)
        await wire.say(History([message(3)], True))
        await wire.idle()

    async with ScriptedServer(first, second) as server, client(server) as member:
        assert await member.history(4, 1) == History([message(3)], True)


async def test_a_late_page_is_not_taken_for_the_next() -> None:
    async def script(wire: Wire) -> None:
        await wire.welcome(99)
        await wire.hear(ReadHistory)
        await wire.hear(ReadHistory)
        await wire.say(History([message(90)], True), History([message(4), message(5)], True))
        await wire.say(History([message(4)], True))
        await wire.idle()

    async with ScriptedServer(script) as server, client(server) as member:
        with pytest.raises(TimeoutError, match=r"no answer within 0\.05 s; connected"):
            await member.history(91, 1, timeout=0.05)
        assert await member.history(5, 1) == History([message(4)], True)


async def test_a_page_refused_for_good_is_raised() -> None:
    async def script(wire: Wire) -> None:
        await wire.welcome(9)
        await wire.hear(ReadHistory)
        await wire.say(Error(ErrorCode.BAD_FRAME, "history: `limit` must be 1 to 200"))
        await wire.idle()

    async with ScriptedServer(script) as server, client(server) as member:
        with pytest.raises(RequestRefused) as caught:
            await member.history(limit=0)
        assert str(caught.value) == "bad_frame: history: `limit` must be 1 to 200"


async def test_a_renewed_token_is_used_from_then_on() -> None:
    async def first(wire: Wire) -> None:
        await wire.welcome()
        await wire.hear(Authenticate)
        await wire.say(Error(ErrorCode.AUTH_FAILED, "the token has expired"))
        await wire.hear(Authenticate)
        await wire.say(Authenticated(77))
        await renewed.wait()
        wire.cut()

    renewed = asyncio.Event()
    async with ScriptedServer(first, stay) as server, client(server, token="t1") as member:
        with pytest.raises(RequestRefused, match="auth_failed: the token has expired"):
            await member.renew("bad")
        assert await member.renew("t2") == 77
        renewed.set()
        await until(lambda: member.connections == 2)
        sent = [request.headers["Authorization"] for request in server.requests]
        assert sent == ["Bearer t1", "Bearer t2"]


async def test_a_renewed_token_does_not_displace_a_source_of_tokens() -> None:
    async def first(wire: Wire) -> None:
        await wire.welcome()
        await wire.hear(Authenticate)
        await wire.say(Authenticated(77))
        await renewed.wait()
        wire.cut()

    renewed = asyncio.Event()
    source = iter(["t1", "t2"])
    async with (
        ScriptedServer(first, stay) as server,
        client(server, token=lambda: next(source)) as member,
    ):
        await member.renew("once")
        renewed.set()
        await until(lambda: member.connections == 2)
        assert server.requests[1].headers["Authorization"] == "Bearer t2"


async def test_the_clients_own_ping_does_not_answer_anybody_elses() -> None:
    async def script(wire: Wire) -> None:
        await wire.welcome(heartbeat=1.0)
        await wire.hear(Ping)  # the heartbeat's
        own_ping_sent.set()
        await wire.hear(Ping)
        await wire.say(Pong(0), message(1), Pong(1))
        await wire.idle()

    own_ping_sent = asyncio.Event()
    async with ScriptedServer(script) as server, client(server) as member:
        await own_ping_sent.wait()
        assert await member.ping() == 1


async def test_a_cursor_moved_without_a_connection_is_said_at_the_next() -> None:
    async def first(wire: Wire) -> None:
        await wire.welcome(9)
        wire.cut()

    async def second(wire: Wire) -> None:
        await wire.welcome(9, resumed=True)
        assert await wire.hear(Read) == Read(8)
        await wire.say(Error(ErrorCode.UNAVAILABLE, "read: the store does not answer"))
        assert await wire.hear(Read) == Read(8)
        await wire.say(ReadCursor(8, 1))
        await wire.idle()

    async with ScriptedServer(first, refuse(503), second) as server, client(server) as member:
        await until(lambda: len(server.requests) > 1)
        await member.read(7)
        await member.read(8)
        await member.read(3)
        await member.wait_for(lambda frame: frame == ReadCursor(8, 1), DEADLINE)


async def test_a_cursor_refused_for_good_is_not_said_again() -> None:
    async def first(wire: Wire) -> None:
        await wire.welcome(9)
        await wire.hear(Read)
        await wire.say(Error(ErrorCode.BAD_FRAME, "read: `seq` must be 0 to 9"))
        wire.cut()

    async def second(wire: Wire) -> None:
        await wire.welcome(9, resumed=True)
        await wire.hear(StartTyping)
        await wire.say(Typing("end"))
        await wire.idle()

    async with ScriptedServer(first, second) as server, client(server) as member:
        await member.read(10)
        await until(lambda: member.connections == 2)
        await member.typing()
        await member.wait_for(lambda frame: frame == Typing("end"), DEADLINE)


# --- leaving ------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", range(1, 9))
async def test_a_close_that_is_cancelled_at_any_moment_leaves_no_connection(turns: int) -> None:
    """Who does not wait for the goodbye cuts the connection, however far the closing has come."""
    gone = asyncio.Event()

    async def script(wire: Wire) -> None:
        await wire.welcome()
        await wire.idle()
        gone.set()

    async with ScriptedServer(script) as server:
        member = client(server)
        await member.connect()
        closing = asyncio.create_task(member.close())
        for _ in range(turns):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        async with asyncio.timeout(DEADLINE):
            await gone.wait()
        with pytest.raises(ClosedForGood):
            await member.ping()
        assert _client_tasks() == []


# --- reading ------------------------------------------------------------------------------


async def test_events_go_on_where_they_were_left_and_end_with_the_client() -> None:
    async def script(wire: Wire) -> None:
        await wire.welcome()
        await wire.say(*(message(n) for n in range(1, 7)))
        await wire.idle()

    async with ScriptedServer(script) as server:
        async with client(server) as member:
            assert await messages(member, 3) == [1, 2, 3]
            assert await messages(member, 5) == [4, 5]
            await until(lambda: member.seq == 6)
        rest = [frame async for frame in member.events()]
        assert rest == [message(6)]


async def test_a_reader_that_is_too_slow_is_told_and_goes_on() -> None:
    async def script(wire: Wire) -> None:
        await wire.welcome()
        await wire.say(*(message(n) for n in range(1, 51)))
        await wire.idle()

    async with ScriptedServer(script) as server, client(server, buffer=10) as member:
        await until(lambda: member.seq == 50)
        with pytest.raises(LaggedError) as caught:
            await messages(member, 50)
        assert caught.value.lost == 42
        assert await messages(member, 50) == list(range(41, 51))


async def test_wait_for_looks_back_to_its_mark() -> None:
    async def script(wire: Wire) -> None:
        await wire.welcome()
        await wire.say(Typing("bob"))
        await go.wait()
        await wire.say(Typing("cy"), Typing("bob"))
        await wire.idle()

    def bob(frame: ServerFrame) -> bool:
        return frame == Typing("bob")

    go = asyncio.Event()
    async with ScriptedServer(script) as server, client(server) as member:
        assert await member.wait_for(bob) == Typing("bob")
        mark = member.mark()
        with pytest.raises(TimeoutError) as caught:
            await member.wait_for(bob, 0.05, since=mark)
        assert str(caught.value) == "no such frame within 0.05 s; there came nothing"
        go.set()
        assert await member.wait_for(bob, DEADLINE, since=mark) == Typing("bob")
        assert member.mark() == mark + 2
        with pytest.raises(TimeoutError) as caught:
            await member.wait_for(lambda frame: False, 0.05)
        assert str(caught.value) == (
            "no such frame within 0.05 s; there came Welcome 1x, History 1x, Typing 3x"
        )


async def test_errors_that_answer_nothing_are_events() -> None:
    async def script(wire: Wire) -> None:
        await wire.welcome()
        await wire.say(Error(ErrorCode.BAD_FRAME, "read: `seq` must be 0 to 0"))
        await wire.idle()

    async with ScriptedServer(script) as server, client(server) as member:
        await member.wait_for(lambda frame: isinstance(frame, Error), DEADLINE)


# --- leaving ------------------------------------------------------------------------------


async def test_close_says_goodbye_and_tells_everybody_who_waits() -> None:
    async def script(wire: Wire) -> None:
        await wire.welcome()
        await wire.hear(Send)
        with pytest.raises(ConnectionClosed) as caught:
            await wire.socket.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1000
        said_goodbye.set()

    said_goodbye = asyncio.Event()
    async with ScriptedServer(script) as server:
        async with client(server) as member:
            sending = asyncio.create_task(member.send("x"))
            waiting = asyncio.create_task(member.wait_for(lambda frame: False, DEADLINE))
            await until(lambda: member._membership.under_way(next(iter(_acks(member)), "")))
        await asyncio.wait_for(said_goodbye.wait(), DEADLINE)
        for task in (sending, waiting):
            with pytest.raises(ClosedForGood, match="this client was closed"):
                await task
        await member.close()
        with pytest.raises(RuntimeError, match="was connected before"):
            await member.connect()


def _acks(member: ChatClient) -> dict[str, Any]:
    return member._membership.answers._acks


async def test_close_during_the_wait_between_two_attempts_is_at_once() -> None:
    async def first(wire: Wire) -> None:
        await wire.welcome()
        await wire.say(Reconnect(60_000))
        await wire.close(1012)

    async with ScriptedServer(first) as server:
        async with asyncio.timeout(DEADLINE):
            async with client(server) as member:
                await until(lambda: not member.connected)


async def test_a_cancelled_connect_leaves_nothing_behind() -> None:
    async with ScriptedServer(refuse(503)) as server:
        connecting = asyncio.create_task(client(server).connect())
        await until(lambda: len(server.requests) > 1)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        assert not _client_tasks()


async def test_a_client_leaves_no_task_and_no_waiter_behind() -> None:
    async def script(wire: Wire) -> None:
        await wire.welcome()
        await wire.serve_sends(0)

    async with ScriptedServer(script) as server:
        async with client(server) as member:
            await asyncio.gather(*(member.send("x") for _ in range(50)))
            assert _acks(member) == {}
            assert len(member._membership._outbox) == 0
        assert not _client_tasks()


@pytest.mark.parametrize("token_in", ["header", "subprotocol", "query"])
async def test_no_token_is_logged_even_when_everything_is(
    caplog: pytest.LogCaptureFixture, token_in: str
) -> None:
    caplog.set_level(logging.DEBUG)

    async def first(wire: Wire) -> None:
        await wire.welcome()
        wire.cut()

    logging.getLogger("websockets.server").setLevel(logging.WARNING)  # the test's own server
    steps = (first, refuse(503), stay)
    async with (
        ScriptedServer(*steps) as server,
        client(server, token="c4n4ry", token_in=token_in) as member,
    ):
        await until(lambda: member.connections == 2)
    assert "connecting again" in caplog.text
    assert "c4n4ry" not in caplog.text
