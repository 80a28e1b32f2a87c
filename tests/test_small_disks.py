"""A test that needs a small disk says so where it cannot have one; in CI it fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.small_disks import mounted

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: mounting takes root")
SKIPPED, FAILED = pytest.skip.Exception, pytest.fail.Exception


@pytest.mark.parametrize(("ci", "outcome"), [("", SKIPPED), ("true", FAILED)])
def test_what_cannot_be_mounted_is_skipped_loudly_and_fails_in_ci(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    """Where mkfs refuses, and where there is none. A skip must not skip this test, too."""
    monkeypatch.setenv("CI", ci)
    refused, missing = mounted(tmp_path / "a", 0, "ext4"), mounted(tmp_path / "b", 1, "ext4")
    with pytest.raises((SKIPPED, FAILED), match=r"mkfs\.ext4 is refused here") as first, refused:
        pass
    monkeypatch.setattr("shutil.which", lambda *words, **options: None)
    with pytest.raises((SKIPPED, FAILED), match=r"there is no mkfs\.ext4") as second, missing:
        pass
    assert (first.type, second.type) == (outcome, outcome)
