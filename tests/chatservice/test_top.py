"""The workspaces that make most of the work, counted in bounded memory."""

from __future__ import annotations

import json
import random
from collections import Counter

from chatservice.top import PERIOD, Sketch, Top
from tests.chatservice.wire import Wire
from tests.service_process import ServiceProcess


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_few_keys_are_counted_exactly() -> None:
    sketch = Sketch(capacity=4)
    for key in "aababcbd":
        sketch.add(key, 10)
    assert {key: sketch.get(key) for key in "abcde"} == {"a": 30, "b": 30, "c": 10, "d": 10, "e": 0}
    assert sketch.floor == 0


def test_the_heavy_are_found_among_any_number_and_no_count_is_too_low() -> None:
    """Memory is bounded, and the error by what it says of itself."""
    chance = random.Random(7)
    true: Counter[str] = Counter()
    sketch = Sketch(capacity=50)
    for _ in range(50_000):
        heavy = chance.random() < 0.3
        key = f"heavy-{chance.randrange(5)}" if heavy else f"light-{chance.randrange(20_000)}"
        true[key] += 1
        sketch.add(key, 1)
        assert len(list(sketch.keys())) <= 101
    heaviest = sorted(sketch.keys(), key=sketch.get, reverse=True)[:5]
    assert set(heaviest) == {f"heavy-{number}" for number in range(5)}
    for key in sketch.keys():  # noqa: SIM118
        assert true[key] <= sketch.get(key) <= true[key] + sketch.floor, key


def test_what_was_long_ago_does_not_count() -> None:
    clock = Clock()
    top = Top(clock)
    top.count("old", 5, 500)
    clock.now += PERIOD + 1
    top.count("new", 1, 100)
    assert [rank.workspace for rank in top.ranking("messages", 10).workspaces] == ["old", "new"]
    clock.now += PERIOD + 1
    ranking = top.ranking("messages", 10)
    assert [rank.workspace for rank in ranking.workspaces] == ["new"]
    assert ranking.seconds == PERIOD + 1
    clock.now += 3 * PERIOD
    assert top.ranking("messages", 10).workspaces == []


def test_each_measure_ranks_by_itself() -> None:
    top = Top(Clock())
    top.measure_connections(lambda: {"crowd": 9, "loud": 2})
    top.count("chatty", 3, 30)
    top.count("loud", 1, 9000)
    first = {by: top.ranking(by, 1).workspaces[0] for by in ("messages", "bytes", "connections")}
    assert {by: rank.workspace for by, rank in first.items()} == {
        "messages": "chatty", "bytes": "loud", "connections": "crowd",
    }  # fmt: skip
    assert (first["bytes"].bytes, first["bytes"].connections) == (9000, 2)


def test_the_admin_port_ranks_workspaces(module_service: ServiceProcess) -> None:
    with (
        Wire.join(module_service, "loud", "ann") as ann,
        Wire.join(module_service, "loud", "bob") as bob,
        Wire.join(module_service, "quiet", "eve") as eve,
    ):
        for number in range(3):
            ann.send("send", id=str(number), text="x" * 100)
            ann.until("ack")
            bob.until("message")
        eve.send("send", id="0", text="hello")
        eve.until("ack")
        status, body = module_service.get("/top?by=bytes&limit=5", admin=True)
        assert status == 200
        loud, quiet = json.loads(body)["workspaces"]
        assert (loud["workspace"], loud["messages"], loud["connections"]) == ("loud", 3, 2)
        assert (quiet["workspace"], quiet["messages"], quiet["connections"]) == ("quiet", 1, 1)
        assert 3 * 2 * 100 < loud["bytes"] < 3 * 2 * 400  # the frames, to both of them
        connections = json.loads(module_service.get("/top?by=connections&limit=1", admin=True)[1])
        assert [one["workspace"] for one in connections["workspaces"]] == ["loud"]
    for query in ("by=users", "limit=0", "limit=101", "limit=x", "limit=1e3"):
        assert module_service.get(f"/top?{query}", admin=True)[0] == 400, query
    assert module_service.get("/top")[0] == 404  # not on the public port
