"""The checker finds nothing wrong in a perfect run, and each fault in one that is broken."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from chatservice.protocol import Presence, PresenceChange, ReadCursor

# These enter what they break in the table.
from tests.chaos import breakage_delivery, breakage_presence, breakage_store  # noqa: F401
from tests.chaos.breakage import BREAKAGES, Case, NotHere
from tests.chaos.checker import Fault, Verdict, check
from tests.chaos.history import Received
from tests.chaos.world import GRACE, RULES, World

OFTEN = ("connect", "send", "send_again", "read")
FATES = ("acknowledged", "acknowledged", "lost", "ack lost")


def populated(rooms: int = 2) -> World:
    """Two rooms with five users; bob has two devices in one, and one in the other."""
    world = World(rooms)
    for user, room, raw in (
        ("ann", 0, True),
        ("bob", 0, False),
        ("bob", 0, True),
        ("cy", 0, True),
        ("dee", 1, False),
        ("eve", 1, True),
        ("bob", 1, True),
        ("fay", 0, True),
    ):
        world.add(user, room, raw=raw)
    return world


def busy() -> World:
    """A run in which everything happens that a breakage needs."""
    world = populated()
    for device in world.devices[:-1]:  # fay comes later, when there is history
        world.connect(device)
    for turn in range(3):
        for device in world.devices:
            world.send(device)
            world.wait(0.1)
        for device in world.devices:
            world.look_around(device)
            world.send(device, FATES[turn + 1])
            world.refuse(device)
            world.wait(0.1)
        for device in world.devices:
            world.connect(device)
            world.send_again(device)
        for device in world.devices[:5]:
            world.read(device)
    world.crash()
    for device in world.devices:
        world.connect(device)
    cy = world.devices[3]
    world.drop(cy)
    world.send(cy)
    world.leave(cy)
    world.wait(GRACE)
    world.drop(world.devices[0])
    world.connect(world.devices[0])
    for device in [*world.devices, *world.devices]:
        world.wait(0.1)
        world.look_around(device)
    world.wait(0.3)
    for device in world.devices:
        world.send(device)
    world.wait(3.0)
    for device in world.devices:
        world.look_around(device)
    for device in world.devices:
        world.send(device)
    world.finish()
    return world


def judged(case: Case) -> Verdict:
    return check(case.records, case.stored, RULES)


def case_of(world: World, seed: int = 1) -> Case:
    return Case(world, world.records, world.stored(), random.Random(seed))


def test_nothing_is_wrong_with_a_perfect_run() -> None:
    verdict = judged(case_of(busy()))
    assert verdict.clean, str(verdict)
    assert verdict.looked_at["messages stored"] > 20
    assert verdict.looked_at["connections"] > 14
    assert str(verdict).startswith("clean, over 10 devices")


def test_a_count_on_a_record_that_begins_from_a_number_covers_what_came_before_it() -> None:
    world = World(1)
    ann, bob = world.add("ann", 0, raw=True), world.add("bob", 0, raw=True)
    world.connect(ann)
    world.connect(bob)
    world.send(ann)
    world.read(bob)
    world.send(ann)
    bobs_next = world.add("bob", 0, raw=True, after=2)
    world.connect(bobs_next)
    # Another device's word of the cursor, before any message came on the new record.
    cursor = Received(world.now, ReadCursor(1, 1))
    bobs_next.record.events.append(cursor)
    world.finish()
    assert judged(case_of(world)).clean, str(judged(case_of(world)))
    bobs_next.record.events[bobs_next.record.events.index(cursor)] = Received(
        cursor.at, ReadCursor(1, 0)
    )
    assert judged(case_of(world)).faults == {Fault.UNREAD}


@pytest.mark.parametrize(
    ("late", "lag", "faults"),
    [(1.0, 2.0, set()), (1.0, 0.0, {Fault.ABSENT}), (2.5, 2.0, {Fault.ABSENT})],
)
def test_a_node_that_lags_may_say_late_who_went_and_came_back(
    late: float, lag: float, faults: set[Fault]
) -> None:
    """But not that somebody went who has been there for longer than any node lags."""
    world = World(1)
    ann, bob = world.add("ann", 0, raw=True), world.add("bob", 0, raw=True)
    world.connect(ann)
    world.connect(bob)
    world.drop(ann)
    world.wait(GRACE)
    world.connect(ann)
    back = world.now
    for _ in range(2):
        world.wait(1.5)
        world.look_around(ann)
    world.finish()
    changes = [
        frame for event in bob.record.received() if isinstance(frame := event.frame, PresenceChange)
    ]
    assert [change.state for change in changes] == [Presence.OFFLINE, Presence.ONLINE]
    told = [Received(back + late, change) for change in changes]
    others = [
        event
        for event in bob.record.events
        if not (isinstance(event, Received) and event.frame in changes)
    ]
    bob.record.events = sorted([*others, *told], key=lambda event: event.at)

    verdict = check(world.records, world.stored(), replace(RULES, lag=lag))

    assert verdict.faults == faults, str(verdict)


@pytest.mark.parametrize("name", BREAKAGES)
@pytest.mark.parametrize("seed", range(2))
def test_a_breakage_is_found_and_nothing_else(name: str, seed: int) -> None:
    breakage, faults, also = BREAKAGES[name]
    case = case_of(busy(), seed)
    breakage(case)
    verdict = judged(case)
    assert verdict.faults >= faults, str(verdict)
    assert verdict.faults <= faults | also, str(verdict)


def test_every_fault_has_a_breakage() -> None:
    assert set(Fault) == set().union(*(faults for _, faults, _ in BREAKAGES.values()))


events = st.lists(
    st.tuples(
        st.sampled_from(
            (*OFTEN, *OFTEN, "drop", "leave", "come_back", "wait", "crash", "refuse", "look_around")
        ),
        st.integers(0, 9),
        st.integers(0, 3),
    ),
    min_size=20,
    max_size=120,
)


def happen(happenings: list[tuple[str, int, int]]) -> World:
    """Have things happen to a new world, in which people come back where they were; finish."""
    world = populated()
    for what, number, choice in happenings:
        device = world.devices[number % len(world.devices)]
        if what == "wait":
            world.wait(choice * 0.7 * GRACE)
        elif what == "crash":
            world.crash()
        elif what == "send":
            world.send(device, FATES[choice])
        else:
            getattr(world, what)(device)
    world.finish()
    return world


@given(events)
@settings(deadline=None, max_examples=100)
def test_nothing_is_wrong_with_any_perfect_run(happenings: list[tuple[str, int, int]]) -> None:
    verdict = judged(case_of(happen(happenings)))
    assert verdict.clean, str(verdict)


@given(events, st.sampled_from(sorted(BREAKAGES)), st.integers(0, 2**32))
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.filter_too_much])
def test_a_breakage_of_any_run_is_found(
    happenings: list[tuple[str, int, int]], name: str, seed: int
) -> None:
    breakage, faults, _ = BREAKAGES[name]
    case = case_of(happen(happenings), seed)
    try:
        breakage(case)
    except NotHere:
        assume(False)
    verdict = judged(case)
    assert verdict.faults & faults, str(verdict)


def test_what_is_judged_must_be_stored_somewhere() -> None:
    with pytest.raises(ValueError, match="nothing says what is stored of w0, w1"):
        check(busy().records, [], RULES)


def test_a_verdict_names_what_it_found() -> None:
    case = case_of(busy())
    BREAKAGES["a_message_comes_twice"][0](case)
    lines = str(judged(case)).splitlines()
    assert lines[0].startswith("NOT clean, over 10 devices")
    assert lines[0].endswith("repeat 1x")
    assert len(lines) == 2
