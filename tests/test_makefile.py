"""`make` does again what has to be done again, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
VERSION = sys.version.split()[0]

MAKE_VENV = "opskit/make-venv python3 .venv"
OPSKIT = (
    "pip install --quiet --quiet --disable-pip-version-check --no-input --require-hashes -r opskit"
)
TESTS = (
    "pip install --quiet --quiet --disable-pip-version-check --no-input --require-hashes -r tests"
)
DEPLOY = ".venv/bin/opskit deploy dev"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Give a checkout in which everything is installed."""
    checkout = tmp_path / "checkout"
    for name in ("opskit", "tests", ".venv/bin"):
        (checkout / name).mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", checkout)
    sources = ("pyproject.toml", "opskit/requirements.txt", "tests/requirements.txt")
    (checkout / ".venv/bin/python").symlink_to(sys.executable)
    (checkout / ".venv/.made").write_text(f"{checkout} Python {VERSION}\n")
    stamps = (".venv/.made", ".venv/.installed", ".venv/.installed-test")
    for age, name in enumerate((*sources, *stamps)):
        (checkout / name).touch()
        os.utime(checkout / name, (1_000_000_000 + age, 1_000_000_000 + age))
    return checkout


def asked(checkout: Path, *targets: str) -> str:
    """Give the commands that make would run."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", "-n", *targets],
        cwd=checkout, capture_output=True, text=True, check=True,
        env={**environ, "PYTHON": "python3"},
    )  # fmt: skip
    return done.stdout


def test_where_all_is_installed_dev_only_deploys_and_test_only_tests(checkout: Path) -> None:
    assert asked(checkout, "dev") == f"{DEPLOY}\n"
    assert asked(checkout, "test") == "tests/install\ntests/run\n"


def test_a_fresh_checkout_gets_everything_in_order(checkout: Path) -> None:
    shutil.rmtree(checkout / ".venv")
    shown = asked(checkout, "dev")
    places = [shown.index(part) for part in (MAKE_VENV, OPSKIT, "--editable .", DEPLOY)]
    assert places == sorted(places)
    assert TESTS not in shown
    assert TESTS in asked(checkout, "test")


def test_a_half_made_environment_is_made_again(checkout: Path) -> None:
    for name in (".made", ".installed", ".installed-test"):
        (checkout / ".venv" / name).unlink()
    assert MAKE_VENV in asked(checkout, "dev")


def test_a_checkout_that_was_moved_gets_a_new_environment(checkout: Path) -> None:
    moved = checkout.rename(checkout.with_name("moved"))
    shown = asked(moved, "dev")
    assert shown.index(MAKE_VENV) < shown.index(OPSKIT)


@pytest.mark.parametrize("python", [sys.executable + "-gone", "other"])
def test_a_python_that_was_upgraded_or_removed_gets_a_new_environment(
    checkout: Path, python: str
) -> None:
    link = checkout / ".venv/bin/python"
    link.unlink()
    if python == "other":
        link.write_text("#!/bin/sh\necho Python 3.99.0\n")
        link.chmod(0o755)
    else:
        link.symlink_to(python)
    assert MAKE_VENV in asked(checkout, "dev")


@pytest.mark.parametrize("changed", ["pyproject.toml", "opskit/requirements.txt"])
def test_what_opskit_needs_is_installed_again_when_it_changed(checkout: Path, changed: str) -> None:
    (checkout / changed).touch()
    shown = asked(checkout, "dev")
    assert OPSKIT in shown
    assert MAKE_VENV not in shown


def test_what_the_tests_need_is_installed_again_when_it_changed(checkout: Path) -> None:
    (checkout / "tests/requirements.txt").touch()
    assert asked(checkout, "dev") == f"{DEPLOY}\n"
    shown = asked(checkout, "test")
    assert TESTS in shown
    assert OPSKIT not in shown
