"""When a load has settled, so that what it saw can be judged."""

from __future__ import annotations

import asyncio

from tests.chaos.history import Record, Vantage
from tests.chaos.load import Load
from tests.chaos.plan import Plan, Seat


class Settled:
    """A device that is up to date with its own node, and with nobody else's."""

    connected, unanswered, read_settled, trouble = True, 0, True, ""

    def __init__(self, seat: Seat, seq: int, online: set[str]) -> None:
        self.record = Record(seat.name, seat.user, seat.user, seat.workspace, Vantage.RAW)
        self.records = [self.record]
        self.seq, self.online = seq, online

    def start(self) -> None:
        """Nothing: it is connected."""

    def send(self, id: str, text: str) -> None:
        """Nothing."""

    async def newest(self) -> int:
        """Give what its own node knows."""
        return self.seq

    async def read(self) -> None:
        """Nothing."""

    type = leave = end = read

    async def look_back(self, before: int) -> None:
        """Nothing."""


def load_of(*numbers: int) -> Load:
    """Give a load of one user at each of some nodes, which know the room up to these numbers."""
    urls = [f"http://127.0.0.1:{index + 1}" for index in range(len(numbers))]
    plan = Plan(workspaces=1, users=len(urls), second_devices=0, raw=0, walkers=0, quitters=0)
    load = Load(urls, lambda *_: "", plan)
    everybody = {seat.user for seat in load.seats}
    for seat, seq in zip(load.seats, numbers, strict=True):
        load.present[seat] = Settled(seat, seq, everybody)
    return load


async def test_a_load_has_not_settled_while_one_node_lags_behind_another() -> None:
    """Its device has all that its own node knows, and would be judged to lack the last."""
    unsettled = await load_of(7, 6, 7).quiesce(0.2)

    assert unsettled == "u1.phone has seen 6 of 7"


async def test_a_load_has_settled_when_all_nodes_know_the_same() -> None:
    """At once: there is nothing to wait for."""
    async with asyncio.timeout(10):
        assert await load_of(7, 7, 7).quiesce() == ""
