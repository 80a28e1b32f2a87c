"""A YAML file's values come with their lines, and what YAML leaves open is decided."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from opskit.problems import ConfigError
from opskit.yaml_lines import Document, load


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "some.yaml"


def read(file: Path, text: str) -> Document:
    file.write_text(text, encoding="utf-8")
    return load(file)


def complaint(file: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(file, text)
    return str(caught.value)


def test_every_key_has_the_line_that_it_stands_on(file: Path) -> None:
    document = read(file, "a:\n  b: 1\n\n  c: [2,\n      3]\nd: {e: 4}\n")
    assert document.value == {"a": {"b": 1, "c": [2, 3]}, "d": {"e": 4}}
    paths: list[tuple[str | int, ...]] = [
        ("a",),
        ("a", "b"),
        ("a", "c"),
        ("a", "c", 1),
        ("d", "e"),
    ]
    assert [document.line(path) for path in paths] == [1, 2, 4, 5, 6]


def test_a_missing_key_has_the_line_of_what_it_is_missing_from(file: Path) -> None:
    document = read(file, "x: 1\na:\n  b: 1\n")
    assert document.where(("a", "nowhere", "at all")) == "some.yaml:2"
    assert document.where(("nowhere",)) == "some.yaml:1"


def test_an_empty_file_is_nothing_on_line_1(file: Path) -> None:
    document = read(file, "# only a comment\n")
    assert document.value is None
    assert document.where(("a",)) == "some.yaml:1"


def test_aliases_and_merged_keys_lead_to_where_they_were_written(file: Path) -> None:
    document = read(file, "base: &b\n  x: 1\n  y: 2\nnew:\n  <<: *b\n  y: 3\nsame: *b\n")
    assert document.value["new"] == {"x": 1, "y": 3}
    assert document.line(("new", "x")) == 2
    assert document.line(("new", "y")) == 6
    assert document.line(("same", "y")) == 3


def test_a_file_is_named_in_full_when_it_is_not_below_this_directory(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file.parent / "sub").mkdir()
    monkeypatch.chdir(file.parent / "sub")
    assert read(file, "a: 1").name == str(file)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3\n", "some.yaml:3: the key 'a' was there on line 1; keep one of them"),
        ("a:\n  1: x\n", "some.yaml:2: a key is not text; put it in quotes"),
        ("a:\n  yes: x\n", "some.yaml:2: a key is not text; put it in quotes"),
        ("a: &x\n  b: *x\n", "some.yaml:1: what this anchor (&) names contains an alias (*) to"),
        ("a: &x\n  <<: *x\n", "some.yaml:1: what this anchor (&) names contains an alias (*) to"),
        ("a: 1\nb: 2026-13-45\n", "some.yaml:2: looks like a date or a number; put it in quotes"),
        ("a: 1\nb: [1, 2\n", "some.yaml:3: is not YAML: expected ',' or ']'"),
        ("a: 1\n\tb: 2\n", "some.yaml:2: is not YAML: found character '\\t' that cannot start"),
        ("a: 1\nb: c: d\n", "some.yaml:2: is not YAML: mapping values are not allowed here"),
        ("a: 1\nb: \x07\n", "some.yaml:2: is not YAML: a control character"),
        ("a: 1\n---\nb: 2\n", "some.yaml:2: is not YAML: a second document (---)"),
        ("[" * 5000, "some.yaml: is nested too deeply"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(file: Path, text: str, expected: str) -> None:
    assert complaint(file, text).startswith(expected)


def test_all_duplicates_are_named_at_once(file: Path) -> None:
    assert complaint(file, "a: 1\na: 2\nb: {c: 1, c: 2}\n").splitlines() == [
        "some.yaml:2: the key 'a' was there on line 1; keep one of them",
        "some.yaml:3: the key 'c' was there on line 3; keep one of them",
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("*hunter2", "an alias (*) to an anchor (&) that is not there, column 9"),
        ("!hunter2 x", "a tag (!) that means nothing here, column 9"),
        ("&hunter2 a\nb: &hunter2 b", "an anchor (&) whose name was there before, column 4"),
        ('"hunter2', "found unexpected end of stream, column 1"),
        ("@hunter2", "found character '@' that cannot start any token, column 9"),
    ],
)
def test_an_error_quotes_no_value(file: Path, value: str, expected: str) -> None:
    """A password may begin with a character that means something in YAML."""
    found = complaint(file, f"secret: {value}\n")
    assert re.sub(r"^some.yaml:\d: is not YAML: ", "", found) == (
        f"{expected}; if it is text, put it in quotes"
    )


def test_a_file_that_is_not_utf_8_or_not_there_is_named(file: Path) -> None:
    file.write_bytes(b"a: \xff\n")
    with pytest.raises(ConfigError, match=r"^some\.yaml: is not UTF-8 \(byte 3\)$"):
        load(file)
    file.unlink()
    with pytest.raises(ConfigError, match=r"^some\.yaml: cannot be read: No such file"):
        load(file)
