"""What members ask for and are answered, exactly and in order: the contract, on real sockets."""

from __future__ import annotations

import json
import secrets
import time

import pytest

from tests.chatservice.wire import Wire, say, text
from tests.service_process import Overrides, ServiceProcess

KEEP = 30
PAGE = 10


@pytest.fixture(scope="module")
def module_overrides() -> Overrides:
    return {
        "history": {"keep": KEEP, "newest": 5, "page": PAGE},
        "limits": {"text": 20, "rate": 1000, "burst": 1000},
    }


@pytest.fixture
def workspace() -> str:
    return f"w-{secrets.token_hex(4)}"


# --- messages -----------------------------------------------------------------------------


def test_a_message_goes_to_all_and_its_ack_to_the_sender(
    module_service: ServiceProcess, workspace: str
) -> None:
    with (
        Wire.join(module_service, workspace, "ann") as ann,
        Wire.join(module_service, workspace, "ann") as ann_too,
        Wire.join(module_service, workspace, "bob") as bob,
    ):
        before = int(time.time() * 1000)
        ann.send("send", id="m1", text="grüße \N{PARTY POPPER}")
        message = bob.next("message")
        assert list(message.items()) == [
            ("type", "message"),
            ("seq", 1),
            ("id", "m1"),
            ("user", "ann"),
            ("name", "ann"),
            ("text", "grüße \N{PARTY POPPER}"),
            ("ts", message["ts"]),
        ]
        assert before <= message["ts"] <= int(time.time() * 1000)
        assert ann.until("presence", user="bob")
        assert ann.next() == message
        assert list(ann.next().items()) == [
            ("type", "ack"),
            ("id", "m1"),
            ("seq", 1),
            ("ts", message["ts"]),
        ]
        assert ann_too.until("message") == message
        for wire in (ann_too, bob):  # no ack: the next thing is the answer to this
            wire.send("ping")
            assert wire.next() == {"type": "pong", "seq": 1}


def test_a_message_sent_again_is_stored_once_and_answered_with_its_number(
    module_service: ServiceProcess, workspace: str
) -> None:
    with (
        Wire.join(module_service, workspace, "ann") as ann,
        Wire.join(module_service, workspace, "bob") as bob,
    ):
        ann.send("send", id="same", text="first")
        first = ann.until("ack")
        say(ann, "between")
        ann.send("send", id="same", text="another text")
        assert ann.next() == first
        bob.send("send", id="same", text="of somebody else")
        assert bob.until("ack")["seq"] == 3
        assert ann.next()["text"] == "of somebody else"
    with Wire.join(module_service, workspace, "ann") as ann:
        ann.send("send", id="same", text="first")
        assert ann.next() == first


def test_ids_of_one_batch_that_are_the_same_are_one_message(
    module_service: ServiceProcess, workspace: str
) -> None:
    with Wire.join(module_service, workspace) as ann:
        frame = json.dumps({"type": "send", "id": "same", "text": "x"})
        ann.write(text(frame) * 3)
        assert ann.next("message")["seq"] == 1
        assert [ann.next("ack")["seq"] for _ in range(3)] == [1, 1, 1]


def test_the_longest_text_is_counted_in_characters(
    module_service: ServiceProcess, workspace: str
) -> None:
    with Wire.join(module_service, workspace) as ann:
        for character in ("x", "ü", "\N{PARTY POPPER}"):
            say(ann, character * 20)
            ann.send("send", id="long", text=character * 21)
            assert ann.next() == {
                "type": "error",
                "code": "too_long",
                "message": "the text has 21 characters; the limit is 20",
                "id": "long",
            }


# --- history ------------------------------------------------------------------------------


def test_history_is_paged_backwards(module_service: ServiceProcess, workspace: str) -> None:
    with Wire.join(module_service, workspace) as ann:
        sent = say(ann, *(str(number) for number in range(KEEP + 5)))
        for before, limit, first, last, more in (
            (36, 3, 33, 35, True),
            (36, 1000, 26, 35, True),  # no more than a page
            (10**30, 10**30, 26, 35, True),
            (10, 10, 6, 9, False),  # the oldest that is kept
            (6, 10, 6, 5, False),
            (1, 10, 1, 0, False),
        ):
            ann.send("history", before=before, limit=limit)
            page = ann.next()
            assert list(page) == ["type", "messages", "more"]
            assert page["messages"] == sent[first - 1 : last], (before, limit)
            assert page["more"] is more, (before, limit)
        ann.send("history", before=36)
        assert len(ann.next("history")["messages"]) == PAGE


# --- cursors ------------------------------------------------------------------------------


def test_a_cursor_moves_on_all_devices_of_its_user_and_on_no_others(
    module_service: ServiceProcess, workspace: str
) -> None:
    with (
        Wire.join(module_service, workspace, "ann") as ann,
        Wire.join(module_service, workspace, "bob") as phone,
        Wire.join(module_service, workspace, "bob") as laptop,
    ):
        say(ann, *"abcde")
        phone.until("message", seq=5)
        laptop.until("message", seq=5)
        for seq, expected in ((3, (3, 2)), (5, (5, 0)), (2, (5, 0))):
            phone.send("read", seq=seq)
            for device in (phone, laptop):
                moved = {"type": "read", "seq": expected[0], "unread": expected[1]}
                assert list(device.next().items()) == list(moved.items())
        phone.send("read", seq=6)
        assert phone.next("error") == {
            "type": "error",
            "code": "bad_frame",
            "message": "read: `seq` must be 0 to 5, the newest number",
        }
        ann.send("ping")
        assert ann.until("pong") == {"type": "pong", "seq": 5}


# --- typing -------------------------------------------------------------------------------


def test_typing_is_shown_to_everybody_else_and_stored_nowhere(
    module_service: ServiceProcess, workspace: str
) -> None:
    with (
        Wire.join(module_service, workspace, "ann") as ann,
        Wire.join(module_service, workspace, "bob") as phone,
        Wire.join(module_service, workspace, "bob") as laptop,
    ):
        assert ann.next("presence")
        for _ in range(5):
            phone.send("typing")
        phone.send("ping")
        assert phone.next() == {"type": "pong", "seq": 0}
        assert ann.next() == {"type": "typing", "user": "bob"}
        for wire in (ann, laptop):  # once a second, and not to the user's own devices
            wire.send("ping")
            assert wire.next() == {"type": "pong", "seq": 0}
