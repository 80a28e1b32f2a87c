"""Every alert, end to end: the fault is really injected, the alert arrives, and resolves.

Real services, one Prometheus, one Alertmanager and a webhook receiver, from the rendered
templates, on a clock that goes sixty times as fast. All faults happen at once, each to a service
of its own; each test then says what became of one.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from opskit.deployments import Action, Deployment, Outcome
from opskit.observe.probe import export
from opskit.observe.rules import alerts
from opskit.observe.silence import silence
from tests.chatservice.wire import Wire
from tests.opskit.observe.receiver import receiving
from tests.opskit.observe.traffic import looping
from tests.opskit.observe.watch import TOKEN, Watch
from tests.opskit.observe.world import (
    THRESHOLDS,
    Public,
    PublicSite,
    World,
    disk_library,
    small_disk,
)  # fmt: skip
from tests.service_process import ServiceProcess
from tests.tcp_proxy import TcpProxy

pytestmark = pytest.mark.slow

Scenario = Callable[[World], None]
STARTED = 'process_start_time_seconds{environment="killed"}'


# --- what happens -----------------------------------------------------------------------------


def a_process_is_killed(world: World) -> None:
    """ChatDown, and nothing that follows from it; then again and again: ChatRestartLoop."""
    service = world.services["killed"]
    since = time.monotonic()
    service.kill()
    world.firing("ChatDown", "killed", since)
    probed(world, "killed", 0)
    world.until(lambda: inhibited(world, "ChatSmokeFailing", "killed"), "inhibited")
    assert {one.name for one in world.receiver.told if one.environment == "killed"} == {"ChatDown"}
    probed(world, "killed", 1)
    world.until(lambda: not inhibited(world, "ChatSmokeFailing", "killed"), "passing again")
    service.start()
    world.resolved("ChatDown", "killed", since)
    for _ in range(6):
        if world.receiver.heard("ChatRestartLoop", "killed", "firing"):
            break
        [before] = world.watch.query(STARTED)
        service.kill()
        service.start()
        world.until(partial(started_since, world, before), "scraped again")
    world.firing("ChatRestartLoop", "killed", since)
    world.resolved("ChatRestartLoop", "killed", since)


def handlers_fail(world: World) -> None:
    """After a deployment; causes are told, and what follows from them is not."""
    before = 'environment:chat_request_errors:ratio_rate1h{environment="failing"} offset 30s'
    world.until(lambda: world.watch.query(before), "known how it was before the deployment", 90)
    deployed(world.directory / "failing.jsonl")
    with world.fault("failing", "handler-fails") as since:
        for name in ("ChatErrorRatio", "ChatRoomErrors", "ChatDeployRegression"):
            world.firing(name, "failing", since)
        world.until(lambda: inhibited(world, "ChatBudgetBurn", "failing"), "inhibited")
    for name in ("ChatErrorRatio", "ChatRoomErrors", "ChatDeployRegression"):
        world.resolved(name, "failing", since)


def handlers_fail_at_times(world: World) -> None:
    """Too seldom for the error ratio, too often for the budget."""
    with world.fault("burning", "handler-fails-at-times") as since:
        world.firing("ChatBudgetBurn", "burning", since)
        assert world.receiver.heard("ChatErrorRatio", "burning", "firing") == []
    world.resolved("ChatBudgetBurn", "burning", since)
    # What was lost in those three days remains so, for longer than a test can wait.
    world.receiver.wait("ChatBudgetBurnSlow", "burning", "firing", since=since, deadline=120)


def the_disk_fails(world: World) -> None:
    with world.fault("storage", "disk-fails") as since:
        world.firing("ChatStorageErrors", "storage", since)
    world.resolved("ChatStorageErrors", "storage", since)


def the_disk_is_slow(world: World) -> None:
    with world.fault("slow", "disk-slow") as since:
        world.firing("ChatLatency", "slow", since)
    world.resolved("ChatLatency", "slow", since)


def a_handler_blocks(world: World) -> None:
    with world.fault("blocked", "handler-blocks") as since:
        world.firing("ChatEventLoopLag", "blocked", since)
    world.resolved("ChatEventLoopLag", "blocked", since)


def the_network_is_cut(world: World, proxy: TcpProxy) -> None:
    since = time.monotonic()
    world.loop.run(proxy.cut())
    world.firing("ChatConnectionsDropped", "network", since)
    world.loop.run(proxy.mend())
    world.resolved("ChatConnectionsDropped", "network", since)

    # Again, under the silence of a deployment: of this alert and no other, and it ends by itself.
    since = time.monotonic()
    silence(world.site.alertmanager_url, 15, environment="network", who="test", why="a deployment")
    world.loop.run(proxy.cut())
    with world.fault("network", "handler-fails"):
        world.until(lambda: silenced(world, "ChatConnectionsDropped", "network"), "silenced")
        deaf = Wire.join(world.services["network"], "w", "not-through-the-proxy")
        with deaf:
            deaf.send("typing")
            world.firing("ChatRoomErrors", "network", since)
    assert world.receiver.heard("ChatConnectionsDropped", "network", "firing", since) == []
    world.loop.run(proxy.mend())
    world.until(lambda: not silenced(world, "ChatConnectionsDropped", "network"), "resolved")
    world.resolved("ChatRoomErrors", "network", since)
    world.until(lambda: not active_silences(world), "the silence over by itself")


def members_do_not_read(world: World) -> None:
    service = world.services["unread"]
    since = time.monotonic()
    with contextlib.ExitStack() as stack:
        for number in range(2):
            deaf = Wire.join(service, "w", f"deaf-{number}", receive_buffer=4096)
            stack.callback(deaf.socket.close)
        loud = stack.enter_context(Wire.join(service, "w", "loud"))
        for number in range(250):
            loud.send("send", id=str(number), text="x" * 60_000)
            loud.until("ack")
        world.firing("ChatSlowMembers", "unread", since)
    world.resolved("ChatSlowMembers", "unread", since)


def the_disk_fills(world: World, disk: Path | None) -> None:
    if disk is None:
        pytest.skip("a small disk can only be mounted by root")
    since = time.monotonic()
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(55_000_000))
    world.firing("ChatDiskFilling", "full", since)
    ballast.unlink()
    world.resolved("ChatDiskFilling", "full", since)


def the_outside_sees_trouble(world: World, public: Public) -> None:
    """An expired certificate; a smoke test that fails; then nobody tests any more."""
    assert public.probe() == 0
    since = time.monotonic()
    public.proxy.use(public.expired)
    assert public.probe() == 1
    world.firing("ChatCertificateExpiring", "public", since)
    world.firing("ChatSmokeFailing", "public", since)
    public.proxy.use(public.valid)
    assert public.probe() == 0
    world.resolved("ChatCertificateExpiring", "public", since)
    world.resolved("ChatSmokeFailing", "public", since)

    since = time.monotonic()
    public.site.stop()
    assert public.probe() == 1
    world.firing("ChatSmokeFailing", "public", since)
    public.site.deploy()
    assert public.probe() == 0
    world.resolved("ChatSmokeFailing", "public", since)

    since = time.monotonic()
    world.firing("ChatSmokeStale", "public", since)
    assert public.probe() == 0
    world.resolved("ChatSmokeStale", "public", since)


# --- the story --------------------------------------------------------------------------------


SCENARIOS: list[str] = [
    "a_process_is_killed", "handlers_fail", "handlers_fail_at_times", "the_disk_fails",
    "the_disk_is_slow", "a_handler_blocks", "the_network_is_cut", "members_do_not_read",
    "the_disk_fills", "the_outside_sees_trouble",
]  # fmt: skip


class Story:
    """What became of every scenario."""

    def __init__(self, world: World, outcomes: dict[str, Future[None]]) -> None:
        self.world = world
        self.outcomes = outcomes


@pytest.fixture(scope="module")
def story(
    tmp_path_factory: pytest.TempPathFactory, layers: Path, pristine: Path
) -> Iterator[Story]:
    """Have everything happen, once."""
    directory = tmp_path_factory.mktemp("story")
    with contextlib.ExitStack() as stack:
        receiver = stack.enter_context(receiving())
        loop = stack.enter_context(looping())
        disk = stack.enter_context(small_disk(directory / "disk"))
        main = ServiceProcess(directory / "main")
        stack.callback(main.close)
        watch = Watch(directory, receiver, main, alerts=THRESHOLDS)
        stack.callback(watch.close)
        world = World(directory, receiver, loop, watch, {"main": main})
        stack.callback(lambda: [print(one.log_tail(15)) for one in world.services.values()])
        library = disk_library(directory)
        for environment in ("killed", "failing", "burning", "blocked", "network"):
            world.add(environment)
        for environment in ("storage", "slow"):
            world.add(environment, library=library)
        loud = {"text": 60_000, "frame_bytes": 300_000, "unsent_bytes": 100_000}
        world.add("unread", limits={**loud, "rate": 1000.0, "burst": 1000})
        world.add("full", service={"state_dir": str(disk)} if disk else {})
        site = PublicSite(directory / "public", layers, pristine=pristine)
        stack.callback(site.close)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(ServiceProcess.start, world.services.values()))
        for service in world.services.values():
            stack.callback(service.close)
        world.watch.export("failing", directory / "nothing", directory / "failing.jsonl")
        world.watch.export("killed", directory / "probed-killed")
        public = Public(world, site, directory)
        proxy = TcpProxy(world.services["network"].port)
        loop.run(proxy.mend())
        for environment in ("main", "failing", "burning", "storage", "slow", "blocked"):
            world.talk(environment)
        world.talk("killed", members=6)
        world.talk("network", members=8, url=f"http://127.0.0.1:{proxy.port}")
        watch.start()
        settled = 'count(up{job="chat"} == 1) == 10'
        world.until(lambda: watch.query(settled), "all ten watched")
        steady = "count(environment:chat_requests:increase5m > 10) >= 8"
        world.until(lambda: watch.query(steady), "all but two of them talking")
        given: dict[str, Scenario] = {
            "the_network_is_cut": partial(the_network_is_cut, proxy=proxy),
            "the_disk_fills": partial(the_disk_fills, disk=disk),
            "the_outside_sees_trouble": partial(the_outside_sees_trouble, public=public),
        }
        with ThreadPoolExecutor(len(SCENARIOS)) as pool:
            outcomes = {
                name: pool.submit(given.get(name) or globals()[name], world) for name in SCENARIOS
            }
        yield Story(world, outcomes)


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_alert_arrives_and_resolves_after_the_repair(story: Story, name: str) -> None:
    story.outcomes[name].result()


def test_every_alert_has_been_seen_to_fire(story: Story) -> None:
    """No alert is shipped that was never tried."""
    for outcome in story.outcomes.values():
        outcome.exception()
    rules = (story.world.site.current / "prometheus/rules/alerts.yml").read_text(encoding="utf-8")
    told = {one.name for one in story.world.receiver.told if one.status == "firing"}
    told |= {"ChatDiskFilling"} if os.getuid() else set()  # its disk is mounted by root
    assert told == {rule["alert"] for rule in alerts(rules)}


def test_a_service_that_nothing_happens_to_is_not_told_of(story: Story) -> None:
    """Nobody ever probed it, and that is told: an alert that says so needs no first value."""
    told = {one.name for one in story.world.receiver.told if one.environment == "main"}
    assert told == {"Watchdog", "ChatSmokeStale"}


def test_the_watchdog_comes_again_and_again_by_its_own_way(story: Story) -> None:
    beats = story.world.receiver.heard("Watchdog", "main", "firing")
    assert {beat.path for beat in beats} == {"/deadman"}
    assert len(beats) >= 3
    assert max(b.at - a.at for a, b in pairwise(beats)) < 30


def test_whoever_is_told_knows_what_to_do_and_where_to_look(story: Story) -> None:
    told = [one for one in story.world.receiver.told if one.path == "/alerts"]
    assert {one.authorization for one in told} == {f"Bearer {TOKEN}"}
    for one in told:
        assert one.annotations["runbook_url"] == f"docs/runbooks/{one.name}.md"
        assert "/d/chat-" in one.annotations["dashboard_url"]
        assert one.environment in one.annotations["summary"]
        assert "<no value>" not in " ".join(one.annotations.values())


# --- parts ------------------------------------------------------------------------------------


def started_since(world: World, before: dict[str, Any]) -> bool:
    """Say whether Prometheus has seen another start than before."""
    return any(one["value"][1] != before["value"][1] for one in world.watch.query(STARTED))


def inhibited(world: World, name: str, environment: str) -> bool:
    """Say whether an alert fires and is not told because of another."""
    return _held_back(world, name, environment, "inhibitedBy")


def silenced(world: World, name: str, environment: str) -> bool:
    """Say whether an alert fires and is not told because of a silence."""
    return _held_back(world, name, environment, "silencedBy")


def _held_back(world: World, name: str, environment: str, why: str) -> bool:
    return any(
        one["labels"]["alertname"] == name
        and one["labels"].get("environment") == environment
        and one["status"][why]
        for one in world.watch.active()
    )


def active_silences(world: World) -> list[Any]:
    answer = httpx.get(f"{world.site.alertmanager_url}/api/v2/silences", trust_env=False)
    return [one for one in answer.json() if one["status"]["state"] == "active"]


def probed(world: World, environment: str, success: int) -> None:
    """Have a probe say whether the service works."""
    export(f"opskit_probe_success {success}\n", world.directory / f"probed-{environment}")


def deployed(record: Path) -> None:
    """Record a deployment, now."""
    one = Deployment(
        id="1", action=Action.DEPLOY, release=2, before=1, content="", commit="", dirty=False,
        who="test", started=datetime.now(UTC).isoformat(), duration_s=0.1, result=Outcome.GOOD,
    )  # fmt: skip
    record.write_text(json.dumps(one.to_json()) + "\n", encoding="utf-8")
