"""The client against the service itself, in a process of its own, through restarts and crashes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from jwt.algorithms import ECAlgorithm

from chatservice.auth import sign
from chatservice.client import (
    Backoff,
    ChatClient,
    ClosedForGood,
    Refused,
    RequestRefused,
    SendRefused,
)
from chatservice.protocol import History, Message, Presence, PresenceChange, Typing, Welcome
from tests.conftest import ServiceFactory
from tests.service_process import ServiceProcess

DEADLINE = 60.0


def member(service: ServiceProcess, user: str, **settings: Any) -> ChatClient:
    given: dict[str, Any] = {
        "workspace": "w",
        "token": lambda: service.token(user, "w"),
        "backoff": Backoff(base=0.05, cap=0.5),
    }
    return ChatClient(service.url, **given | settings)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.01)


async def collect(client: ChatClient, into: list[Message]) -> None:
    """Keep what `events` gives, as an application would: a reset drops what was there."""
    async for frame in client.events():
        if isinstance(frame, Welcome) and not frame.resumed:
            into.clear()
        elif isinstance(frame, History):
            into.extend(frame.messages)
        elif isinstance(frame, Message):
            into.append(frame)


async def test_two_members_talk(service: ServiceProcess) -> None:
    async with member(service, "ada") as ada, member(service, "bob", token_in="subprotocol") as bob:
        await until(lambda: set(ada.online) == {"ada", "bob"} == set(bob.online))
        first = await ada.send("hello", "id-1")
        assert first.seq == 1
        assert await ada.send("hello", "id-1") == first
        heard = await bob.wait_for(lambda frame: isinstance(frame, Message), DEADLINE)
        assert heard == Message(1, "id-1", "ada", "ada", "hello", first.ts)
        assert (bob.seq, bob.unread, bob.cursor) == (1, 1, 0)
        await bob.read(1)
        await until(lambda: (bob.unread, bob.cursor) == (0, 1))
        await ada.typing()
        await bob.wait_for(lambda frame: frame == Typing("ada"), DEADLINE)
        assert await bob.ping() == 1
        assert (await bob.history()).messages == [heard]
        assert await bob.renew(service.token("bob", "w", ttl=900.0)) > 0
        with pytest.raises(RequestRefused, match="auth_failed"):
            await bob.renew(service.token("ada", "w"))
        with pytest.raises(SendRefused, match="too_long"):
            await ada.send("x" * 4001)
        await ada.close()
        gone = PresenceChange("ada", "ada", Presence.OFFLINE)
        await bob.wait_for(lambda frame: frame == gone, DEADLINE)
        assert set(bob.online) == {"bob"}
        assert (bob.connections, bob.repeats, bob.gaps) == (1, 0, 0)


async def test_who_may_not_is_told_why(service_factory: ServiceFactory) -> None:
    service = service_factory({"auth": {"origins": ["https://a.example"]}})
    cases: list[tuple[dict[str, Any], int, str]] = [
        ({"token": None}, 401, "a token is required"),
        ({"token": service.token("ada", "w", ttl=-60.0)}, 401, "the token has expired"),
        ({"token": sign("x" * 32, user="a", workspaces=["w"], ttl=9)}, 401, "signature is wrong"),
        ({"token": service.token("ada", "other")}, 403, "not for this workspace"),
        ({"origin": "https://b.example"}, 403, "origin is not allowed"),
        ({"workspace": "no/such id"}, 400, "the workspace id must have"),
    ]
    for settings, status, why in cases:
        with pytest.raises(Refused) as caught:
            await member(service, "ada", **settings).connect()
        assert caught.value.status == status
        assert why in caught.value.message
    async with member(service, "ada", origin="https://a.example", token_in="query") as ada:
        assert ada.connected


async def test_an_expired_token_is_replaced_by_a_fresh_one(service_factory: ServiceFactory) -> None:
    service = service_factory({"auth": {"leeway": 0.0}})
    async with member(service, "ada", token=lambda: service.token("ada", "w", ttl=2.0)) as ada:
        await until(lambda: ada.connections >= 2)
        assert "4401" in ada.last_failure
        assert (await ada.send("still here")).seq == 1
    async with member(service, "bob", token=service.token("bob", "w", ttl=2.0)) as bob:
        with pytest.raises(Refused) as caught:
            await bob.wait_for(lambda frame: False, DEADLINE)
        assert (caught.value.status, caught.value.message) == (401, "the token has expired")


async def test_a_renewed_token_keeps_the_connection(service_factory: ServiceFactory) -> None:
    service = service_factory({"auth": {"leeway": 0.0}})
    async with (
        member(service, "ada", token=service.token("ada", "w", ttl=2.0)) as ada,
        member(service, "bob", token=service.token("bob", "w", ttl=2.0)) as bob,
    ):
        await ada.renew(service.token("ada", "w", ttl=900.0))
        with pytest.raises(Refused):
            await bob.wait_for(lambda frame: False, DEADLINE)
        await ada.send("still here")
        assert ada.connections == 1


async def test_sending_faster_than_allowed_is_slowed_down_not_lost(
    service_factory: ServiceFactory,
) -> None:
    """A hundred at once, where five and then fifty a second are allowed: all come, once."""
    service = service_factory({"limits": {"rate": 50.0, "burst": 5}})
    got: list[Message] = []
    async with member(service, "ada") as ada, member(service, "bob") as bob:
        reading = asyncio.create_task(collect(bob, got))
        acks = await asyncio.gather(*(ada.send(f"{n}", timeout=DEADLINE) for n in range(100)))
        assert sorted(ack.seq for ack in acks) == list(range(1, 101))
        await until(lambda: bob.seq == 100)
        assert [message.seq for message in got] == list(range(1, 101))
        assert {message.id for message in got} == {ack.id for ack in acks}
        reading.cancel()


async def _talk_through(
    service: ServiceProcess, interruptions: list[Callable[[], object]]
) -> tuple[ChatClient, ChatClient]:
    """Send all the time while the service is interrupted; check that nothing is lost."""
    got: list[Message] = []
    over = False
    acks = []

    async def speak(ada: ChatClient) -> None:
        while not over:
            acks.extend(await asyncio.gather(*(ada.send("x", timeout=DEADLINE) for _ in range(4))))
            await asyncio.sleep(0.01)

    async with member(service, "ada") as ada, member(service, "bob") as bob:
        reading = asyncio.create_task(collect(bob, got))
        speaking = asyncio.create_task(speak(ada))
        for interrupt in interruptions:
            before = len(acks)
            await until(lambda before=before: len(acks) > before + 20)  # type: ignore[misc]
            await until(lambda: ada.connected and bob.connected)
            await asyncio.to_thread(interrupt)
        before = len(acks)
        await until(lambda: len(acks) > before + 20)
        over = True
        await asyncio.wait_for(speaking, DEADLINE)
        newest = max(ack.seq for ack in acks)
        await until(lambda: bool(got) and got[-1].seq >= newest and ada.seq >= newest)
        reading.cancel()
        assert [message.seq for message in got] == list(range(1, newest + 1))
        by_id = {message.id: message.seq for message in got}
        assert len(by_id) == len(got)
        assert {ack.id: ack.seq for ack in acks} == by_id
        assert (ada.repeats, ada.gaps, bob.repeats, bob.gaps) == (0, 0, 0, 0)
        return ada, bob


async def test_nothing_is_lost_or_repeated_through_restarts(
    service_factory: ServiceFactory,
) -> None:
    service = service_factory({"limits": {"rate": 1000.0, "burst": 1000}})
    ada, bob = await _talk_through(service, [service.restart, service.restart])
    assert (ada.connections, bob.connections) == (3, 3)


async def test_nothing_is_lost_or_repeated_through_crashes(
    service_factory: ServiceFactory,
) -> None:
    service = service_factory({"limits": {"rate": 1000.0, "burst": 1000}})

    def crash() -> None:
        service.kill()
        service.start()

    ada, bob = await _talk_through(service, [crash, crash, crash])
    assert (ada.connections, bob.connections) == (4, 4)


async def test_nothing_is_lost_or_repeated_through_a_take_over(
    service_factory: ServiceFactory,
) -> None:
    service = service_factory({"limits": {"rate": 1000.0, "burst": 1000}})
    ada, _ = await _talk_through(service, [service.take_over])
    assert ada.connections == 1, "its connection moved"


async def test_a_history_that_was_lost_is_a_reset_to_the_client(
    service: ServiceProcess,
) -> None:
    def lose() -> None:
        service.stop()
        for path in (service.root / "state").glob("chat.db*"):
            path.unlink()
        service.start()

    async with member(service, "ada") as ada:
        await ada.send("one")
        epoch = ada.epoch
        await asyncio.to_thread(lose)
        await until(lambda: ada.connections == 2 and ada.connected)
        assert ada.epoch != epoch
        assert not ada.welcome.resumed
        assert ada.seq == 0
        assert (await ada.send("again")).seq == 1


async def test_a_workspace_that_is_gone_from_the_token_ends_the_client_for_good(
    service: ServiceProcess,
) -> None:
    """An in-band renewal without the workspace: the server says 4503, and nobody comes back."""
    async with member(service, "ada", token=service.token("ada", "w")) as ada:
        with pytest.raises(ClosedForGood) as caught:
            await ada.renew(service.token("ada", "elsewhere"))
        assert caught.value.code == 4503
        with pytest.raises(ClosedForGood):
            await ada.send("x")


async def test_while_the_keys_cannot_be_loaded_a_client_goes_on_trying(
    service_factory: ServiceFactory,
) -> None:
    """Nobody can say whether the token is good: 503 with Retry-After, not a final 401."""
    service = service_factory({"auth": {"secret_file": "", "jwks_url": "http://127.0.0.1:9/"}})
    ada = member(service, "ada", reconnect=False)
    with pytest.raises(Refused) as caught:
        await ada.connect()
    assert (caught.value.status, caught.value.retry_after) == (503, 5.0)


async def test_tokens_of_a_key_set_are_taken(
    service_factory: ServiceFactory, tmp_path: Path
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    public = ECAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": "k1"}
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [public]}))
    service = service_factory({"auth": {"secret_file": "", "jwks_file": str(path)}})
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def token(kid: str) -> str:
        return sign(
            pem, user="ada", name="Ada", workspaces=["w"], ttl=60, algorithm="ES256",
            headers={"kid": kid},
        )  # fmt: skip

    async with member(service, "ada", token=token("k1")) as ada:
        assert ada.online == {"ada": "Ada"}
    for bad in (token("k2"), sign("x" * 32, user="ada", workspaces=["w"], ttl=60)):
        with pytest.raises(Refused, match="refused with 401"):
            await member(service, "ada", token=bad).connect()


@pytest.mark.parametrize("token_in", ["header", "subprotocol", "query"])
async def test_the_services_log_has_no_token_and_no_text(
    service_factory: ServiceFactory, token_in: str
) -> None:
    service = service_factory({"log": {"level": "debug"}, "auth": {"leeway": 0.0}})
    good, bad = service.token("ada", "w"), service.token("ada", "w")[:-4] + "AAAA"
    renewed = service.token("ada", "w", ttl=900.0)
    async with member(service, "ada", token=good, token_in=token_in) as ada:
        await ada.send("c4n4ry text")
        await ada.renew(renewed)
        await ada.close()
    with pytest.raises(Refused):
        await member(service, "ada", token=bad, token_in=token_in).connect()
    service.stop()
    assert service.log.count("\n") > 3
    for line in service.log.splitlines():
        assert isinstance(json.loads(line), dict)
    assert "c4n4ry" not in service.log
    for token in (good, bad, renewed):
        for part in token.split(".")[1:]:
            assert part[:16] not in service.log
