"""What members are sent, exactly and in order: the wire contract, over real sockets."""

from __future__ import annotations

import json
import secrets
import time

import pytest

from tests.chatservice.wire import CLOSE, Ended, Frame, Wire, frame, text
from tests.service_process import Overrides, ServiceProcess

KEEP = 30
NEWEST = 5
PAGE = 10
GRACE = 1.0


@pytest.fixture(scope="module")
def module_overrides() -> Overrides:
    return {
        "history": {"keep": KEEP, "newest": NEWEST, "page": PAGE},
        "limits": {"text": 20, "rate": 1000, "burst": 1000},
        "timing": {"presence_grace": GRACE, "heartbeat": 7.5},
    }


@pytest.fixture
def workspace() -> str:
    return f"w-{secrets.token_hex(4)}"


def say(wire: Wire, *texts: str) -> list[Frame]:
    """Send texts, one after the other; give the messages as the sender saw them."""
    messages = []
    for each in texts:
        wire.send("send", id=secrets.token_hex(4), text=each)
        messages.append(wire.until("message", text=each))
        wire.until("ack")
    return messages


def seqs(frames: list[Frame]) -> list[int]:
    return [frame["seq"] for frame in frames]


# --- the first frames ---------------------------------------------------------------------


def test_a_fresh_member_gets_a_welcome_and_the_newest_messages(
    module_service: ServiceProcess, workspace: str
) -> None:
    with Wire.join(module_service, workspace) as ann:
        assert list(ann.welcome.items()) == [
            ("type", "welcome"),
            ("user", "ann"),
            ("workspace", workspace),
            ("epoch", ann.welcome["epoch"]),
            ("seq", 0),
            ("read", 0),
            ("unread", 0),
            ("online", [{"user": "ann", "name": "ann"}]),
            ("resumed", False),
            ("heartbeat", 7.5),
        ]
        assert ann.past == [{"type": "history", "messages": [], "more": False}]
        sent = say(ann, *"abcdefg")
        token = module_service.token("bob", workspace, name="Bob B.")
        with Wire.join(module_service, workspace, token=token) as bob:
            assert (bob.welcome["seq"], bob.welcome["unread"]) == (7, 7)
            assert bob.welcome["online"] == [
                {"user": "ann", "name": "ann"},
                {"user": "bob", "name": "Bob B."},
            ]
            assert bob.past == [{"type": "history", "messages": sent[-NEWEST:], "more": True}]
            assert ann.next() == {
                "type": "presence",
                "user": "bob",
                "name": "Bob B.",
                "state": "online",
            }


def test_a_returning_member_gets_what_it_missed_and_nothing_else(
    module_service: ServiceProcess, workspace: str
) -> None:
    with Wire.join(module_service, workspace) as ann:
        sent = say(ann, *(str(number) for number in range(20)))
        epoch = ann.welcome["epoch"]
        for after in (0, 1, 13, 19, 20):
            with Wire.join(module_service, workspace, "bob", after=after, epoch=epoch) as bob:
                assert bob.welcome["resumed"] is True
                assert bob.past == sent[after:]
                bob.send("ping")
                assert bob.next() == {"type": "pong", "seq": 20}


@pytest.mark.parametrize(
    ("after", "epoch"), [(36, None), (5, "another"), (5, ""), (4, None), (10**15 - 1, None)]
)
def test_a_member_that_cannot_resume_starts_afresh(
    module_service: ServiceProcess, after: int, epoch: str | None
) -> None:
    """All or nothing: of the missed messages some are gone, or they are of another history."""
    workspace = f"w-{secrets.token_hex(4)}"
    with Wire.join(module_service, workspace) as ann:
        sent = say(ann, *(str(number) for number in range(KEEP + 5)))
        known = ann.welcome["epoch"] if epoch is None else epoch
        with Wire.join(module_service, workspace, "bob", after=after, epoch=known) as bob:
            assert bob.welcome["resumed"] is False
            assert bob.past == [{"type": "history", "messages": sent[-NEWEST:], "more": True}]
    with Wire.join(module_service, workspace, "bob", after=5) as bob:  # without an epoch
        assert bob.welcome["resumed"] is False


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


def test_workspaces_know_nothing_of_each_other(
    module_service: ServiceProcess, workspace: str
) -> None:
    with (
        Wire.join(module_service, workspace, "ann") as ann,
        Wire.join(module_service, workspace + "-2", "bob") as bob,
    ):
        assert bob.welcome["online"] == [{"user": "bob", "name": "bob"}]
        assert bob.welcome["epoch"] != ann.welcome["epoch"]
        say(ann, "secret")
        ann.send("typing")
        bob.send("ping")
        assert bob.next() == {"type": "pong", "seq": 0}


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


def test_unread_counts_what_others_wrote_while_the_user_was_away_even_over_a_restart(
    module_service: ServiceProcess, workspace: str
) -> None:
    with Wire.join(module_service, workspace, "ann") as ann:
        with Wire.join(module_service, workspace, "bob") as bob:
            say(ann, "1", "2")
            bob.until("message", seq=2)
            bob.send("read", seq=1)
            assert bob.next("read")["unread"] == 1
        say(ann, "3", "4")
    module_service.restart()
    with Wire.join(module_service, workspace, "bob") as bob:
        assert (bob.welcome["seq"], bob.welcome["read"], bob.welcome["unread"]) == (4, 1, 3)
        say(bob, "5")
        with Wire.join(module_service, workspace, "bob") as too:
            assert (too.welcome["read"], too.welcome["unread"]) == (1, 3)
    with Wire.join(module_service, workspace, "ann") as ann:
        assert (ann.welcome["read"], ann.welcome["unread"]) == (0, 1)


# --- presence and typing ------------------------------------------------------------------


def test_devices_of_a_user_are_one_and_leave_after_the_grace_period(
    module_service: ServiceProcess, workspace: str
) -> None:
    with Wire.join(module_service, workspace, "ann") as ann:
        with Wire.join(module_service, workspace, "bob"):
            assert ann.next("presence")["state"] == "online"
            with Wire.join(module_service, workspace, "bob") as bob:
                assert bob.welcome["online"] == [
                    {"user": "ann", "name": "ann"},
                    {"user": "bob", "name": "bob"},
                ]
            ann.send("ping")
            assert ann.next("pong")  # the second device came and went unnoticed
        left = time.monotonic()
        with Wire.join(module_service, workspace, "bob"):  # back within the grace period
            pass
        assert ann.next() == {"type": "presence", "user": "bob", "name": "bob", "state": "offline"}
        assert time.monotonic() - left >= GRACE
        with Wire.join(module_service, workspace, "bob"):
            assert ann.next("presence")["state"] == "online"


def test_a_user_who_comes_back_under_another_name_is_shown_with_it(
    module_service: ServiceProcess, workspace: str
) -> None:
    with (
        Wire.join(module_service, workspace, "ann") as ann,
        Wire.join(module_service, workspace, "bob"),
    ):
        assert ann.next("presence")["name"] == "bob"
        token = module_service.token("bob", workspace, name="Robert")
        with Wire.join(module_service, workspace, token=token) as bob:
            assert ann.next("presence") == {
                "type": "presence",
                "user": "bob",
                "name": "Robert",
                "state": "online",
            }
            assert say(bob, "hello")[0]["name"] == "Robert"


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


# --- the end ------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4000, 4999])
def test_a_close_frame_is_answered_with_the_same(
    module_service: ServiceProcess, workspace: str, code: int
) -> None:
    with Wire.join(module_service, workspace) as ann:
        ann.write(frame(CLOSE, code.to_bytes(2, "big") + b"bye"))
        with pytest.raises(Ended) as ended:
            ann.next()
        assert (ended.value.code, ended.value.reason) == (code, "bye")
        assert ann.hung_up()
