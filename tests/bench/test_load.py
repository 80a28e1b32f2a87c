"""The swarm measures nothing that is wrong: a server that breaks a promise fails the run."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, broadcast, serve

from bench import load
from bench.dialects import Chat
from bench.load import Measured, Shape, Swarm
from bench.member import LoadError
from bench.peers import websockets_broadcast as peer
from chatservice.auth import sign

SECRET = "s" * 40
SHAPE = Shape(rooms=3, members=4, publishers=2)

Broadcast = Callable[..., None]


@asynccontextmanager
async def swarm(
    monkeypatch: pytest.MonkeyPatch, fan_out: Broadcast = broadcast, **options: Any
) -> AsyncIterator[Swarm]:
    """A swarm on a peer in this process, which fans out with the given function."""
    monkeypatch.setattr(peer, "broadcast", fan_out)
    rooms = peer.Rooms(SECRET.encode())
    async with serve(rooms.serve_member, "127.0.0.1", 0, process_request=rooms.admit) as server:
        port = server.sockets[0].getsockname()[1]

        def token(user: str, room: str) -> str:
            return sign(SECRET, user=user, workspaces=[room], ttl=60)

        made = Swarm(Chat(), SHAPE, [port], token, time.process_time, **options)
        await made.connect()
        try:
            yield made
        finally:
            await made.leave()


async def saturate(made: Swarm) -> Measured:
    return await made.saturate(2, warm_up=0.05, seconds=0.2)


@pytest.mark.parametrize("complete", [None, 5, 0])
async def test_a_closed_loop_keeps_going_whoever_reads_everything(
    monkeypatch: pytest.MonkeyPatch, complete: int | None
) -> None:
    async with swarm(monkeypatch, complete=complete) as made:
        first, second = await saturate(made), await saturate(made)
    for measured in (first, second):
        # many more than the 3 x 2 x 2 messages that it begins with, for each of 4 members
        assert measured.deliveries > 10 * 48
        assert measured.seconds >= 0.2
        assert bool(measured.latencies) == (complete != 0)
        assert list(measured.latencies) == sorted(measured.latencies)


async def test_an_open_loop_keeps_to_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    async with swarm(monkeypatch, complete=None) as made:
        measured = await made.at_rate(500, warm_up=0.05, seconds=0.5)
        # each message of the window is timed once by each of the 4 members of its room
        assert len(measured.latencies) % 4 == 0
        assert 400 <= len(measured.latencies) <= 500 * measured.seconds * 4 + 4
        assert min(measured.latencies) > 0


def losing(connections: Iterable[ServerConnection], message: bytes, **options: Any) -> None:
    """Leave one member out of the 20th message of a room."""
    members = list(connections)
    broadcast(members[1:] if b'"seq":20,' in message else members, message, **options)


def repeating(connections: Iterable[ServerConnection], message: bytes, **options: Any) -> None:
    """Deliver the 20th message of a room to one member twice."""
    members = list(connections)
    broadcast(members, message, **options)
    if b'"seq":20,' in message:
        broadcast(members[:1], message, **options)


@pytest.mark.parametrize("broken", [losing, repeating])
@pytest.mark.parametrize("complete", [None, 0])
async def test_a_lost_or_repeated_message_fails_the_run(
    monkeypatch: pytest.MonkeyPatch, broken: Broadcast, complete: int | None
) -> None:
    monkeypatch.setattr(load, "DRAIN_SECONDS", 0.5)
    expected = "came after" if complete is None else r"was delivered \d+ of the \d+ messages"
    async with swarm(monkeypatch, broken, complete=complete) as made:
        with pytest.raises(LoadError, match=expected):
            await saturate(made)


async def test_messages_out_of_order_fail_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[bytes] = []

    def swapping(connections: Iterable[ServerConnection], message: bytes, **options: Any) -> None:
        if b'"seq":7,' in message and not held:
            held.append(message)
            return
        broadcast(connections, message, **options)
        if b'"seq":8,' in message and held:
            broadcast(connections, held[0], **options)

    async with swarm(monkeypatch, swapping, complete=None) as made:
        with pytest.raises(LoadError, match="number 8 came after 6"):
            await saturate(made)


async def test_a_connection_that_the_server_closes_fails_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cutting(connections: Iterable[ServerConnection], message: bytes, **options: Any) -> None:
        if b'"seq":9,' in message:
            next(iter(connections)).transport.abort()
        broadcast(connections, message, **options)

    async with swarm(monkeypatch, cutting) as made:
        with pytest.raises(LoadError, match="the server closed the connection of member"):
            await saturate(made)


async def test_a_refused_member_is_named_with_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.load.upgrade_request", with_bad_token)
    with pytest.raises(LoadError, match=r"member \d+ was refused: HTTP/1\.1 401 Unauthorized"):
        async with swarm(monkeypatch):
            pass


def with_bad_token(dialect: Chat, *, host: str, room: str, user: str, token: str) -> bytes:
    from bench.dialects import upgrade_request

    return upgrade_request(dialect, host=host, room=room, user=user, token="bad")
