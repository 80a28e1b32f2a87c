"""A test that needs a small disk says so where it cannot have one; in CI it fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.small_disks import mounted

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: mounting takes root")


@pytest.mark.parametrize(
    ("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)]
)
def test_what_cannot_be_mounted_is_skipped_loudly_and_fails_in_ci(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    """Without mkfs.ext4, and where mkfs or mount refuse."""
    monkeypatch.setenv("CI", ci)
    with (
        pytest.raises(outcome, match=r"mkfs\.ext4 is refused here"),
        mounted(tmp_path / "a", 0, "ext4"),
    ):
        pass
    monkeypatch.setattr("shutil.which", lambda *words, **options: None)
    with (
        pytest.raises(outcome, match=r"there is no mkfs\.ext4"),
        mounted(tmp_path / "b", 1, "ext4"),
    ):
        pass
