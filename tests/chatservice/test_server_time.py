"""What time does to a connection: keep-alive, expiry of its token, and a token renewed in-band."""

from __future__ import annotations

import struct
import time

import pytest

from tests.chatservice.wire import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    Ended,
    Wire,
    eventually,
    frame,
    metrics,
    text,
)
from tests.service_process import Overrides, ServiceProcess

HEARTBEAT = 0.5


@pytest.fixture(scope="module")
def module_overrides() -> Overrides:
    return {
        "auth": {"leeway": 0},
        "timing": {"heartbeat": HEARTBEAT, "presence_grace": 0.0, "close": 1.0},
    }


def closed(service: ServiceProcess, reason: str) -> float:
    return metrics(service)[f'chat_connections_closed_total{{reason="{reason}"}}']


# --- keep-alive ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "last",
    [b"", text({"type": "send", "id": "1", "text": "x"})[:-1], frame(TEXT, b"{", fin=False)],
    ids=["nothing", "half a frame", "half a message"],
)
def test_who_does_not_answer_pings_is_cut(module_service: ServiceProcess, last: bytes) -> None:
    before = closed(module_service, "heartbeat")
    with Wire.join(module_service) as silent:
        silent.write(last)
        started = time.monotonic()
        assert silent.frame()[0] == PING
        with pytest.raises(Ended, match=r"^0 "):
            silent.frame()
        assert time.monotonic() - started >= 1.9 * HEARTBEAT
    assert closed(module_service, "heartbeat") == before + 1


def test_who_only_answers_pings_stays(module_service: ServiceProcess) -> None:
    with Wire.join(module_service) as quiet:
        for _ in range(3):
            opcode, payload = quiet.frame()
            assert opcode == PING
            quiet.write(frame(PONG, payload))
        quiet.send("ping")
        assert quiet.next("pong")


def test_who_talks_without_answering_pings_stays(module_service: ServiceProcess) -> None:
    with Wire.join(module_service) as talkative:
        until = time.monotonic() + 3 * HEARTBEAT
        while time.monotonic() < until:
            talkative.send("ping")
            while talkative.frame()[0] == PING:
                pass
            time.sleep(HEARTBEAT / 5)


def test_a_ping_of_the_client_is_answered_with_its_payload(
    module_service: ServiceProcess,
) -> None:
    with Wire.join(module_service) as wire:
        wire.write(frame(PING, b"x" * 125))
        while (received := wire.frame())[0] != PONG:
            assert received[0] == PING
        assert received == (PONG, b"x" * 125)


def test_who_does_not_close_after_a_close_is_cut(module_service: ServiceProcess) -> None:
    with Wire.join(module_service, token=module_service.token("ann", "w", ttl=2)) as wire:
        while (received := wire.frame())[0] != CLOSE:
            wire.write(frame(PONG))
        assert struct.unpack("!H", received[1][:2]) == (4401,)
        started = time.monotonic()
        wire.write(text({"type": "ping"}))  # which is not the answer that it waits for
        assert wire.hung_up()
        assert time.monotonic() - started >= 0.7


# --- tokens -------------------------------------------------------------------------------
# `exp` is in whole seconds: a token for two seconds lasts for one at least, and one for one second
# may be over before it is shown.


def test_a_member_is_sent_away_when_its_token_expires(module_service: ServiceProcess) -> None:
    before = closed(module_service, "token_expired")
    with Wire.join(module_service, token=module_service.token("ann", "w", ttl=2)) as ann:
        expires = int(time.time()) + 2
        ended = ann.end()
        assert (ended.code, ended.reason) == (4401, "the token expired")
        assert time.time() >= expires - 1  # `exp` is in whole seconds
        assert ann.hung_up()
    assert closed(module_service, "token_expired") == before + 1


def test_a_renewed_token_keeps_the_connection(module_service: ServiceProcess) -> None:
    with Wire.join(module_service, token=module_service.token("ann", "w", ttl=2)) as ann:
        later = int(time.time() + 3)
        renewed = module_service.token("ann", "w", ttl=later - time.time() + 0.1)
        ann.send("auth", token=renewed)
        answer = ann.next("auth")
        assert list(answer) == ["type", "exp"]
        assert answer["exp"] >= later
        assert ann.end().code == 4401
        assert time.time() >= answer["exp"]


def test_a_token_that_is_not_taken_leaves_the_old_one_in_force(
    module_service: ServiceProcess,
) -> None:
    with Wire.join(module_service, token=module_service.token("ann", "w", ttl=2)) as ann:
        for user, ttl, why in (
            ("bob", 60.0, "the token is another user's"),
            ("ann", -60.0, "the token has expired"),
        ):
            ann.send("auth", token=module_service.token(user, "w", ttl=ttl))
            assert ann.next("error") == {"type": "error", "code": "auth_failed", "message": why}
        assert ann.end().code == 4401


def test_who_loses_the_workspace_is_sent_away_for_good(module_service: ServiceProcess) -> None:
    before = closed(module_service, "forbidden")
    with Wire.join(module_service) as ann:
        ann.send("auth", token=module_service.token("ann", "another"))
        ended = ann.end()
        assert (ended.code, ended.reason) == (4503, "no longer allowed here")
    eventually(lambda: closed(module_service, "forbidden") == before + 1)


def test_many_renewals_do_not_add_up_to_many_timers(module_service: ServiceProcess) -> None:
    """Each with an earlier end than the one before; the pings that follow are no more for it."""
    with Wire.join(module_service, token=module_service.token("ann", "w", ttl=9000)) as ann:
        for ttl in range(8000, 8030):
            ann.send("auth", token=module_service.token("ann", "w", ttl=8030 - ttl + 30))
            assert ann.next("auth")
        started = time.monotonic()
        for _ in range(3):
            while ann.frame()[0] != PING:
                pass
            ann.write(frame(PONG))
        assert time.monotonic() - started >= 2 * HEARTBEAT - 0.3
