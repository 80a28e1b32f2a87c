"""Real hosts for tests: booted when first asked for, gone afterwards.

`host` is one that all tests share and leave as they found it; `new_hosts` boots fresh ones for
one test. Where hosts cannot be booted these tests say so and do not run; in CI that is a failure.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hosts.image import CannotBuild
from tests.hosts.lab import Lab, why_not
from tests.hosts.machine import Host

NewHosts = Callable[..., list[Host]]


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """A network, a key, and hosts on demand."""
    if reason := why_not():
        _cannot(reason)
    lab = Lab()
    try:
        lab.up()
    except CannotBuild as error:
        _cannot(f"there is no image of a host: {error}")
    yield lab
    lab.down()


def _cannot(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(f"no test hosts: {reason}")
    pytest.skip(f"NOT TESTED on real hosts: {reason}")


@pytest.fixture(scope="session")
def host(lab: Lab) -> Host:
    """A host that all tests share: what one changes there, it puts back."""
    return lab.boot()[0]


@pytest.fixture
def new_hosts(lab: Lab) -> Iterator[NewHosts]:
    """Boot fresh hosts for one test: `new_hosts(3)`, `new_hosts(layers=[...])`.

    pytest shows the end of each one's journal when the test fails.
    """
    booted: list[Host] = []

    def boot(count: int = 1, *, layers: tuple[Path, ...] = ()) -> list[Host]:
        made = lab.boot(count, layers=layers)
        booted.extend(made)
        return made

    yield boot
    for one in booted:
        if one in lab.hosts:
            print(f"--- journal of {one.name}\n{_last_words(one)}")
            lab.end(one)


def _last_words(host: Host) -> str:
    try:
        return host.journal(lines=60)
    except RuntimeError:
        return "(it is down)"
