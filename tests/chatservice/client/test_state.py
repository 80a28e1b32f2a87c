"""What a client decides, without a socket: order, repeats, gaps, resending, waiting."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatservice.client.state import (
    FIRST_WINDOW,
    Backoff,
    Outbox,
    OutOfStepError,
    Session,
    may_reconnect,
)
from chatservice.protocol import (
    Ack,
    CloseCode,
    History,
    Message,
    Person,
    Pong,
    Presence,
    PresenceChange,
    ReadCursor,
    Send,
    Typing,
    Welcome,
)


def message(seq: int, user: str = "bob", id: str = "") -> Message:
    return Message(seq, id or f"m{seq}", user, user.title(), f"text {seq}", seq * 1000)


def welcome(seq: int, *, resumed: bool = False, epoch: str = "e1", unread: int = 0) -> Welcome:
    online = [Person("ada", "Ada")]
    return Welcome("ada", "w", epoch, seq, 0, unread, online, resumed, 25.0)


def started(seq: int, *newest: Message) -> Session:
    """Give a session that was welcomed afresh at this number."""
    session = Session()
    assert session.receive(welcome(seq))
    assert session.receive(History(list(newest), False))
    return session


# --- waiting ------------------------------------------------------------------------------


def test_backoff_doubles_up_to_its_cap_and_jitters_from_zero() -> None:
    backoff = Backoff(base=0.5, cap=3.0)
    assert [backoff.delay(n, lambda: 1.0) for n in range(1, 6)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert [backoff.delay(n, lambda: 0.5) for n in range(1, 4)] == [0.25, 0.5, 1.0]
    assert backoff.delay(3, lambda: 0.0) == 0.0
    assert backoff.delay(10_000, lambda: 1.0) == 3.0


@pytest.mark.parametrize(
    ("code", "may"),
    [(1000, True), (1001, True), (1006, True), (1011, True), (1012, True), (3999, True),
     (4000, True), (4401, True), (4499, True), (4500, False), (4503, False), (4999, False)],
)  # fmt: skip
def test_only_4500_to_4999_are_final(code: int, may: bool) -> None:
    assert may_reconnect(code) is may


def test_the_client_and_the_contract_agree_on_every_close_code() -> None:
    for code in set(CloseCode) - {CloseCode.NORMAL}:
        assert may_reconnect(code) == code.reconnect


# --- the place in the workspace -------------------------------------------------------------


def test_a_fresh_session_asks_for_nothing_and_continues_from_the_newest() -> None:
    session = Session()
    assert session.resume == {}
    assert (session.seq, session.read, session.unread, session.online) == (0, 0, 0, {})
    assert not session.caught_up
    assert not session.awaits_newest
    session.receive(welcome(7))
    assert not session.caught_up
    assert session.awaits_newest
    session.receive(History([message(6), message(7)], True))
    assert session.caught_up
    assert (session.seq, session.resume) == (7, {"after": "7", "epoch": "e1"})
    assert session.receive(message(8))


def test_a_message_that_the_first_history_had_does_not_come_again() -> None:
    session = started(7, message(7), message(8))
    assert not session.receive(message(8))
    assert session.receive(message(9))


def test_a_resumed_session_is_caught_up_at_the_number_of_the_welcome() -> None:
    session = started(3)
    session.receive(welcome(5, resumed=True))
    assert not session.caught_up
    assert session.receive(message(4))
    assert not session.caught_up
    assert session.receive(message(5))
    assert session.caught_up
    session.receive(welcome(5, resumed=True))
    assert session.caught_up


def test_a_message_that_comes_again_is_dropped_and_counted() -> None:
    session = started(3)
    assert [session.receive(message(n)) for n in (4, 4, 3, 5, 4, 5)] == [
        True, False, False, True, False, False,
    ]  # fmt: skip
    assert (session.seq, session.repeats, session.gaps) == (5, 4, 0)


def test_a_missing_message_is_noticed_and_asked_for() -> None:
    session = started(3)
    session.receive(message(4))
    with pytest.raises(OutOfStepError, match="message 6 came after 4") as caught:
        session.receive(message(6))
    assert not caught.value.forget
    assert session.gaps == 1
    assert session.resume == {"after": "4", "epoch": "e1"}


def test_a_lost_tail_shows_at_the_second_pong() -> None:
    """The first pong may have overtaken the message; by the second it must have come."""
    session = started(3)
    assert session.receive(Pong(4))
    session.receive(message(4))
    assert session.receive(Pong(5))
    with pytest.raises(OutOfStepError, match="the newest message is 5, but only 4 came"):
        session.receive(Pong(5))
    assert session.gaps == 1


def test_a_pong_from_before_a_reconnect_does_not_count() -> None:
    session = started(3)
    session.receive(Pong(4))
    session.receive(welcome(5, resumed=True))
    for n in (4, 5):
        session.receive(message(n))
    assert session.receive(Pong(6))


def test_a_pong_from_before_a_reset_does_not_count() -> None:
    session = started(3)
    session.receive(Pong(9))
    session.receive(welcome(2, epoch="e2"))
    session.receive(History([], False))
    assert session.receive(Pong(2))
    assert session.gaps == 0


def test_a_fresh_welcome_starts_again_whatever_was_seen() -> None:
    session = started(9)
    session.receive(welcome(2, epoch="e2"))
    session.receive(History([message(1), message(2)], False))
    assert (session.seq, session.epoch) == (2, "e2")
    assert session.receive(message(3))
    assert session.repeats == 0


@pytest.mark.parametrize("wrong", [welcome(9, resumed=True, epoch="e2"), welcome(8, resumed=True)])
def test_a_resume_that_does_not_fit_makes_the_client_forget(wrong: Welcome) -> None:
    session = started(9)
    with pytest.raises(OutOfStepError) as caught:
        session.receive(wrong)
    assert caught.value.forget
    assert session.resume == {}


def test_only_the_history_of_a_fresh_welcome_moves_the_place() -> None:
    session = started(9)
    assert not session.awaits_newest
    session.receive(History([message(3)], True))
    assert session.seq == 9
    session.receive(welcome(9, resumed=True))
    assert not session.awaits_newest


def test_unread_counts_the_others_messages_once() -> None:
    session = started(3)
    session.receive(message(4))
    session.receive(message(5, user="ada"))
    session.receive(message(6))
    assert session.unread == 2
    session.receive(ReadCursor(6, 0))
    assert (session.read, session.unread) == (6, 0)
    session.receive(welcome(8, resumed=True, unread=2))  # the server has counted 7 and 8
    session.receive(message(7))
    session.receive(message(8))
    assert session.unread == 2
    session.receive(message(9))
    assert session.unread == 3


def test_who_is_online_is_kept_up_to_date() -> None:
    session = started(0)
    assert session.online == {"ada": "Ada"}
    session.receive(PresenceChange("bob", "Bob", Presence.ONLINE))
    session.receive(PresenceChange("ada", "Ada L.", Presence.ONLINE))
    assert session.online == {"ada": "Ada L.", "bob": "Bob"}
    session.receive(PresenceChange("bob", "Bob", Presence.OFFLINE))
    session.receive(PresenceChange("cy", "Cy", Presence.OFFLINE))
    assert session.online == {"ada": "Ada L."}
    session.receive(PresenceChange("bob", "Bob", Presence.ONLINE))
    session.receive(welcome(0, resumed=True))
    assert session.online == {"ada": "Ada"}


def test_other_frames_pass() -> None:
    assert started(0).receive(Typing("bob"))


@dataclass
class _Server:
    """A workspace on a wire that loses, repeats and cuts."""

    kept_from: int = 1
    epoch: int = 1
    log: list[int] = field(default_factory=list)

    def connect(self, session: Session, got: list[int]) -> None:
        resume = session.resume
        after = int(resume.get("after", -1))
        fits = resume.get("epoch") == f"e{self.epoch}" and self.kept_from - 1 <= after
        newest = len(self.log)
        session.receive(welcome(newest, resumed=fits, epoch=f"e{self.epoch}"))
        if fits:
            for seq in range(after + 1, newest + 1):
                if session.receive(message(seq)):
                    got.append(seq)
        else:
            page = [message(n) for n in range(max(self.kept_from, newest - 2), newest + 1)]
            session.receive(History(page, False))
            got[:] = range(1, newest + 1)  # the reader drops what it had; the page is the newest


@given(
    st.lists(
        st.sampled_from(["send", "send", "send", "lose", "repeat", "drop", "trim", "reset"]),
        max_size=60,
    )
)
def test_whatever_the_wire_does_each_message_comes_once_in_order(steps: list[str]) -> None:
    """Lost, repeated, cut off, trimmed away or reset: the reader's list stays dense."""
    server, session, got = _Server(), Session(), list[int]()
    server.connect(session, got)
    lost = False
    for step in steps:
        try:
            if step in ("send", "lose"):
                server.log.append(1)
                if step == "send":
                    if session.receive(message(len(server.log))):
                        assert not lost, "a message came across a gap"
                        got.append(len(server.log))
                else:
                    lost = True
            elif step == "repeat" and session.seq:
                assert not session.receive(message(session.seq))
            elif step == "drop":
                server.connect(session, got)
                lost = False
            elif step == "trim":
                server.kept_from = max(1, len(server.log) - 3)
            elif step == "reset":
                server.epoch += 1
                server.log.clear()
                server.kept_from = 1
                server.connect(session, got)
                lost = False
        except OutOfStepError:
            assert lost or not got
            server.connect(session, got)
            lost = False
        assert got == list(range(1, session.seq + 1))
    server.connect(session, got)
    assert got == list(range(1, len(server.log) + 1))


# --- sends without an answer ----------------------------------------------------------------


def outbox(*ids: str, window: int = FIRST_WINDOW) -> Outbox:
    made = Outbox(window=window)
    for id in ids:
        made.add(Send(id, f"text {id}"))
    return made


def taken(box: Outbox) -> list[str]:
    ids = []
    while (frame := box.take()) is not None:
        ids.append(frame.id)
    return ids


def test_sends_go_out_in_their_order_once() -> None:
    box = outbox("a", "b", "c")
    assert box.take() == Send("a", "text a")
    assert taken(box) == ["b", "c"]
    assert taken(box) == []
    assert len(box) == 3


def test_what_was_under_way_goes_out_again_in_its_order() -> None:
    box = outbox("a", "b", "c", "d", window=3)
    assert taken(box) == ["a", "b", "c"]
    assert box.acknowledged("b")
    assert box.disconnected() == []
    assert taken(box) == ["a", "c", "d"]


def test_an_echo_that_was_resumed_is_as_good_as_an_ack() -> None:
    box = outbox("a", "b")
    assert taken(box) == ["a", "b"]
    assert box.disconnected() == []
    assert box.echoed(message(7, "ada", "a")) == Ack("a", 7, 7000)
    assert box.remove("a")
    assert taken(box) == ["b"]


def test_an_echo_counts_only_when_the_ack_is_lost() -> None:
    box = outbox("a", "b")
    taken(box)
    assert box.echoed(message(7, "ada", "a")) is None
    assert box.disconnected() == [Ack("a", 7, 7000)]
    assert taken(box) == ["b"]
    assert "a" not in box


def test_an_echo_of_something_else_is_nothing() -> None:
    assert outbox("a").echoed(message(7, "ada", "z")) is None


def test_the_window_bounds_what_is_under_way_and_opens_with_each_ack() -> None:
    box = outbox(*"abcdefgh", window=2)
    assert taken(box) == ["a", "b"]
    box.acknowledged("a")
    assert taken(box) == ["c", "d"]
    box.acknowledged("c")
    assert taken(box) == ["e", "f"]


def test_the_window_never_grows_past_the_widest() -> None:
    box = Outbox(window=1, widest=2)
    for n in range(20):
        box.add(Send(str(n), "x"))
    for n in range(5):
        taken(box)
        box.acknowledged(str(n))
    assert len(taken(box)) <= 2
    assert box._window == 2


def test_a_new_connection_begins_with_the_first_window() -> None:
    box = Outbox()
    for n in range(1000):
        box.add(Send(str(n), "x"))
    for n in range(100):
        taken(box)
        box.acknowledged(str(n))
    assert len(taken(box)) == 2  # one for the ack, and one that it widened the window by
    box.disconnected()
    assert len(taken(box)) == FIRST_WINDOW


def test_a_refusal_closes_the_window_to_one_and_sends_again() -> None:
    box = outbox("a", "b", "c", "d", window=3)
    assert taken(box) == ["a", "b", "c"]
    assert box.refused("b")
    assert taken(box) == []
    box.acknowledged("a")
    box.acknowledged("c")
    assert taken(box) == ["b", "d"]


def test_a_refusal_of_what_nobody_waits_for_is_told() -> None:
    assert not outbox("a").refused("z")


def test_who_gives_up_is_not_sent_and_frees_its_place() -> None:
    box = outbox("a", "b", "c", window=1)
    assert box.remove("b")
    assert not box.remove("b")
    assert taken(box) == ["a"]
    assert box.remove("a")
    assert taken(box) == ["c"]
    box.disconnected()
    assert taken(box) == ["c"]


def test_an_id_may_be_used_again_after_its_answer() -> None:
    box = outbox("a")
    taken(box)
    box.disconnected()
    box.remove("a")
    box.add(Send("a", "second"))
    assert box.take() == Send("a", "second")
    assert box.take() is None


@given(st.lists(st.sampled_from(["add", "take", "ack", "refuse", "cut", "give up"]), max_size=80))
def test_nothing_is_lost_repeated_or_overtaken(steps: list[str]) -> None:
    """Of the sends without an answer, each is under way once or waits, the oldest first."""
    box, pending, under_way, count = Outbox(window=3, widest=5), list[str](), list[str](), 0
    for step in steps:
        if step == "add":
            id = str(1000 - count)  # so that the order of the ids is not that of the sends
            pending.append(id)
            box.add(Send(id, "x"))
            count += 1
        elif step == "take":
            waiting = [id for id in pending if id not in under_way]
            frame = box.take()
            if frame is not None:
                assert frame.id == waiting[0]
                under_way.append(frame.id)
            else:
                assert not waiting or len(under_way) >= box._window
        elif under_way and step in ("ack", "refuse", "give up"):
            id = under_way.pop(0)
            if step == "refuse":
                assert box.refused(id)
            else:
                assert box.acknowledged(id) if step == "ack" else box.remove(id)
                pending.remove(id)
        elif step == "cut":
            box.disconnected()
            under_way.clear()
        assert len(box) == len(pending)
        assert len(under_way) <= 5
    box.disconnected()
    left = []
    while (frame := box.take()) is not None:
        left.append(frame.id)
        box.acknowledged(frame.id)
    assert left == pending
