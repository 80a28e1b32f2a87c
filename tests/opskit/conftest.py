"""Whole environments for the tests of opskit."""

from __future__ import annotations

import itertools
import shutil
import sys
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
    place = tmp_path_factory.mktemp("cache") / "opskit" / "layers"
    lock_file = REPOSITORY / "chatservice" / "requirements.txt"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    key = layer_key(lock_file.read_bytes(), python, this_platform())
    place.mkdir(parents=True)
    build_layer(lock_file, key, place, python=python)
    return place


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source of the chat service, as it was when the tests began."""
    place = tmp_path_factory.mktemp("source") / "chatservice"
    shutil.copytree(REPOSITORY / "chatservice", place, ignore=shutil.ignore_patterns("__pycache__"))
    return place


@pytest.fixture(scope="module")
def shared_site(
    tmp_path_factory: pytest.TempPathFactory, layers: Path, pristine: Path
) -> Iterator[Site]:
    """One environment for a whole file of tests, in which v1 serves."""
    site = Site(tmp_path_factory.mktemp("s") / "s", layers, pristine=pristine)
    try:
        site.deploy()
        yield site
    finally:
        site.close()
        print(site.log_tail())


@pytest.fixture
def v1(shared_site: Site) -> Site:
    """The shared environment, its source as at first; v1 serves, whatever was tried before."""
    shared_site.restore()
    assert shared_site.serving == "v1", shared_site.log_tail()
    return shared_site


@pytest.fixture
def site_factory(tmp_path: Path, layers: Path, pristine: Path) -> Iterator[SiteFactory]:
    """Make environments of their own; whatever runs in them is ended after the test."""
    sites: list[Site] = []
    numbers = itertools.count()

    def make(*, name: str = "", **options: Any) -> Site:
        name = name or f"s{next(numbers)}"
        site = Site(tmp_path / name, layers, pristine=pristine, **options)
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
