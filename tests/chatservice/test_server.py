"""What members are sent first, of each other and last: the wire contract, over real sockets."""

from __future__ import annotations

import secrets
import time

import pytest

from tests.chatservice.wire import CLOSE, Ended, Wire, frame, say
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


# --- what others do -----------------------------------------------------------------------


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
