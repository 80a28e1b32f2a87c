"""What slow hosts are given, and that all that waits for them keeps step."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from opskit.commands import ORDINARY, Command, lock
from opskit.deploy.act import Timing
from opskit.environments import load_environments
from opskit.patience import MOST, Patience, if_slow

UNIT = Path(__file__).parents[2] / "templates/systemd/chatservice.service.j2"
ORDINARY_ONE = Command(("true",), "do it", "one")


@pytest.fixture
def timings(tmp_path: Path) -> dict[float, Timing]:
    """How long things may take, by the time that a command may take."""
    file = tmp_path / "environments.yaml"
    file.write_text(
        "environments: {dev: {target: local, root: dev, secrets: {jwt_secret: generate}}}"
    )
    dev = load_environments(file).get("dev")
    return {
        seconds: Timing.on(replace(dev, patience=Patience(command=seconds)))
        for seconds in (ORDINARY, 45.0, 90.0, 120.0, MOST["command_timeout"])
    }


def test_every_command_may_take_what_a_slow_host_needs() -> None:
    patience = Patience(command=120.0)
    assert patience.with_(ORDINARY_ONE).timeout == 120.0
    assert patience.with_(replace(ORDINARY_ONE, timeout=900.0)).timeout == 900.0
    assert patience.with_(replace(ORDINARY_ONE, timeout=15.0, quick=True)).timeout == 15.0
    assert Patience().with_(ORDINARY_ONE) == ORDINARY_ONE


@pytest.mark.parametrize(("connect", "silence"), [(1.0, 15.0), (15.0, 15.0), (60.0, 60.0)])
def test_a_host_that_may_answer_late_is_not_given_up_before(connect: float, silence: float) -> None:
    assert Patience(connect=connect).silence == silence


def test_what_is_waited_for_grows_with_the_time_of_a_command(timings: dict[float, Timing]) -> None:
    assert {seconds: (one.start, one.lease) for seconds, one in timings.items()} == {
        30.0: (30.0, 15.0),
        45.0: (45.0, 22.5),
        90.0: (90.0, 45.0),
        120.0: (100.0, 60.0),
        3600.0: (100.0, 60.0),
    }
    assert timings[ORDINARY] == Timing()


def test_a_start_is_over_before_its_unit_gives_it_up(timings: dict[float, Timing]) -> None:
    match = re.search(r"^TimeoutStartSec=(\d+)$", UNIT.read_text(), re.MULTILINE)
    assert match
    assert max(one.start for one in timings.values()) < int(match[1])


def test_a_renewal_is_over_before_the_lease_that_it_extends(timings: dict[float, Timing]) -> None:
    """It begins when a third of that is over, on however slow a host."""
    for seconds, timing in timings.items():
        renewal = lock.renew(PurePosixPath("/root"), "token", ttl=timing.lease)
        took = Patience(command=seconds).with_(renewal).timeout
        assert took == pytest.approx(timing.lease * 2 / 3)


def test_a_message_names_the_setting_unless_no_more_can_be_had() -> None:
    assert if_slow("connect_timeout", 12.5) == (
        "; if it is only slow, set `connect_timeout` above 12.5 in environments.yaml"
    )
    assert if_slow("connect_timeout", 300.0) == ""
    assert if_slow("command_timeout", 3600.0) == ""
