"""Who takes part in a load, and where they sit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Who takes part.

    Args:
        workspaces: how many rooms; users are spread over them evenly.
        users: on `ChatClient`, one device each.
        second_devices: how many of the users have two.
        raw: devices on the websockets library alone; every other one is a further device of a
            user, the rest are users of their own.
        walkers: how many of the users on `ChatClient`, and how many on the websockets library,
            come and go; they have no second device.
        quitters: how many more of each stay all the time, and leave when all else is over.
        rate: sends a second, all together.
        stay: seconds for which a walker stays, at least and at most.
        away: seconds for which a walker is gone, at least and at most.
        seed: decides who sends what and when; the same for the same run.
        rooms: what the names of the workspaces begin with, where the store has some already.
    """

    workspaces: int = 10
    users: int = 30
    second_devices: int = 5
    raw: int = 10
    walkers: int = 2
    quitters: int = 1
    rate: float = 200.0
    stay: tuple[float, float] = (0.5, 2.5)
    away: tuple[float, float] = (0.3, 3.0)
    seed: int = 1
    rooms: str = "w"


@dataclass(frozen=True)
class Seat:
    """A device that takes part, through any number of stays."""

    name: str
    user: str
    workspace: str
    raw: bool
    url: str


def person_name(user: str) -> str:
    """Give the name under which a user of the load appears."""
    return f"{user.title()} Ö."


def seats(urls: Sequence[str], plan: Plan) -> list[Seat]:
    """Lay out who takes part: the same for the same plan."""
    own = [(f"u{i}", i % plan.workspaces) for i in range(plan.users)]
    seated = [(f"{user}.phone", user, room, False) for user, room in own]
    seated += [(f"{user}.desk", user, room, False) for user, room in own[: plan.second_devices]]
    for i in range(plan.raw):
        room = i % plan.workspaces
        user = own[i][0] if i % 2 and i < len(own) else f"r{i}"
        seated.append((f"{user}.raw", user, room, True))
    return [
        Seat(name, user, f"{plan.rooms}{room}", raw, urls[i % len(urls)])
        for i, (name, user, room, raw) in enumerate(seated)
    ]


def walkers_and_quitters(
    everybody: Sequence[Seat], plan: Plan
) -> tuple[Sequence[Seat], Sequence[Seat]]:
    """Choose who comes and goes, and who goes at the end: their users are offline then."""
    devices = Counter(seat.user for seat in everybody)
    walkers: list[Seat] = []
    quitters: list[Seat] = []
    for raw in (False, True):
        alone = [seat for seat in everybody if seat.raw is raw and devices[seat.user] == 1]
        alone.reverse()
        walkers += alone[: plan.walkers]
        quitters += alone[plan.walkers : plan.walkers + plan.quitters]
    return walkers, quitters
