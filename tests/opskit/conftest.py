"""Whole environments for the tests of opskit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from opskit.layer import build_layer, layer_key, this_platform
from tests.opskit.site import Site
from tests.service_process import REPOSITORY

SiteFactory = Callable[..., Site]


@pytest.fixture(scope="session")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layer of the chat service, built once for all tests."""
    import sys

    place = tmp_path_factory.mktemp("cache") / "opskit" / "layers"
    lock_file = REPOSITORY / "chatservice" / "requirements.txt"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    key = layer_key(lock_file.read_bytes(), python, this_platform())
    place.mkdir(parents=True)
    build_layer(lock_file, key, place, python=python)
    return place


@pytest.fixture
def site_factory(tmp_path: Path, layers: Path) -> Iterator[SiteFactory]:
    """Make environments of their own; whatever runs in them is ended after the test."""
    sites: list[Site] = []
    numbers = itertools.count()

    def make(**options: Any) -> Site:
        site = Site(tmp_path / f"s{next(numbers)}", layers, **options)
        sites.append(site)
        return site

    yield make
    for site in sites:
        site.close()
        print(site.log_tail())


@pytest.fixture
def site(site_factory: SiteFactory) -> Site:
    """One environment in which nothing is deployed yet."""
    return site_factory()
