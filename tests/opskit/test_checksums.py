"""Checksums tell what is missing, changed or extra in a tree."""

from __future__ import annotations

from pathlib import Path

from opskit.checksums import checksums, differences

# As `printf x | sha256sum` has it.
X = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"


def test_each_file_has_its_sha256_and_links_have_none(tmp_path: Path) -> None:
    (tmp_path / "b/c").mkdir(parents=True)
    (tmp_path / "b/c/file").write_text("x")
    (tmp_path / "a").write_text("x")
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "directory link").symlink_to("b")
    assert checksums(tmp_path) == {"a": X, "b/c/file": X}
    assert list(checksums(tmp_path)) == ["a", "b/c/file"]


def test_differences_name_every_file_and_how_it_differs(tmp_path: Path) -> None:
    for name in ("same", "changed", "extra", "beside"):
        (tmp_path / name).write_text("x")
    (tmp_path / "changed").write_text("y")
    (tmp_path / "link").symlink_to("same")
    (tmp_path / "extra link").symlink_to("nowhere")
    (tmp_path / "extra directory").symlink_to("/tmp")
    expected = {"same": X, "changed": X, "gone/file": X, "link": X}
    assert differences(tmp_path, expected, beside={"beside", "not there"}) == [
        "changed: was changed",
        "extra: should not be there",
        "extra directory: should not be there",
        "extra link: should not be there",
        "gone/file: is missing",
        "link: is not a file",
    ]
    assert differences(tmp_path / "none", {}, beside=set()) == []
