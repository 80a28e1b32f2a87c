"""A YAML file with the line of each of its keys.

What YAML leaves open is decided here: a duplicate key is an error, keys are text, anchors,
aliases and merge keys (`<<`) work, and an alias to what contains it is an error. Messages quote
no values, since a value may be a secret that somebody wrote where a reference belongs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from yaml.constructor import ConstructorError
from yaml.error import MarkedYAMLError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

from opskit.problems import ConfigError, Problem

Key = str | int

_GUESSED: Final = (
    "tag:yaml.org,2002:timestamp",
    "tag:yaml.org,2002:int",
    "tag:yaml.org,2002:float",
)
"""What YAML takes a plain word for by its looks."""


class Document:
    """A file's value, and where each part of it stands."""

    def __init__(self, name: str, value: Any, root: Node | None) -> None:
        self.name = name
        self.value = value
        self._root = root

    def line(self, path: Sequence[Key]) -> int:
        """Give the line (from 1) of a key, or of the nearest part above it that is there."""
        if self._root is None:
            return 1
        node, line = self._root, self._root.start_mark.line
        for key in path:
            for own_key, mark, child in _children(node):
                if own_key == key:
                    node, line = child, mark.start_mark.line
                    break
            else:
                break
        return int(line) + 1

    def where(self, path: Sequence[Key]) -> str:
        """Give `file:line` of a key."""
        return f"{self.name}:{self.line(path)}"

    def problem(self, path: Sequence[Key], why: str) -> Problem:
        """Say what is wrong with a key."""
        return Problem(self.where(path), dotted(path), why)


def dotted(path: Sequence[Key]) -> str:
    """Write a path as people do: `auth.origins[0]`."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}"
    return text.lstrip(".")


def load(path: Path) -> Document:
    """Read a YAML file.

    Raises:
        ConfigError: it cannot be read, is not YAML, or has duplicate keys.
    """
    name = shown(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        why = f"cannot be read: {error.strerror}"
        raise ConfigError([Problem(name, "", why)]) from None
    except UnicodeDecodeError as error:
        why = f"is not UTF-8 (byte {error.start})"
        raise ConfigError([Problem(name, "", why)]) from None
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return Document(name, None, None)
        problems = list(_check(root, name, [], set()))
        if problems:
            raise ConfigError(problems)
        return Document(name, loader.construct_document(root), root)
    except yaml.YAMLError as error:
        raise ConfigError([_syntax_problem(name, text, error)]) from None
    except RecursionError:
        raise ConfigError([Problem(name, "", "is nested too deeply")]) from None


def shown(path: Path) -> str:
    """Name a file as short as it can be said from here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _children(node: Node) -> Iterator[tuple[Key, Node, Node]]:
    """Give key, the node to point at, and the value's node; the last of equal keys first."""
    if isinstance(node, MappingNode):
        for key, child in reversed(node.value):
            if isinstance(key, ScalarNode):
                yield key.value, key, child
    elif isinstance(node, SequenceNode):
        for index, child in enumerate(node.value):
            yield index, child, child


def _check(node: Node, name: str, above: list[Node], checked: set[int]) -> Iterator[Problem]:
    """Find duplicate keys, keys that are not text, and loops."""
    if any(node is one for one in above):
        where = f"{name}:{node.start_mark.line + 1}"
        yield Problem(where, "", "what this anchor (&) names contains an alias (*) to itself")
    if id(node) in checked:
        return
    checked.add(id(node))
    above.append(node)
    if isinstance(node, MappingNode):
        seen: dict[str, int] = {}
        for key, child in node.value:
            line = key.start_mark.line + 1
            if key.tag == "tag:yaml.org,2002:merge":
                pass
            elif key.tag != "tag:yaml.org,2002:str":
                yield Problem(f"{name}:{line}", "", "a key is not text; put it in quotes")
            elif key.value in seen:
                why = f"the key {key.value!r} was there on line {seen[key.value]}; keep one of them"
                yield Problem(f"{name}:{line}", "", why)
            else:
                seen[key.value] = line
            yield from _check(child, name, above, checked)
    elif isinstance(node, SequenceNode):
        for child in node.value:
            yield from _check(child, name, above, checked)
    elif node.tag in _GUESSED:
        try:
            yaml.SafeLoader("").construct_object(node)
        except ValueError:
            # It has the form of a date or a number, and is none, as 2026-13-01.
            where = f"{name}:{node.start_mark.line + 1}"
            yield Problem(where, "", "looks like a date or a number; put it in quotes")
    above.pop()


def _syntax_problem(name: str, text: str, error: yaml.YAMLError) -> Problem:
    """Say where YAML ends, without the parser's excerpt of the file."""
    if isinstance(error, ReaderError):
        where = f"{name}:{text.count(chr(10), 0, error.position) + 1}"
        return Problem(where, "", "is not YAML: a control character, which YAML does not allow")
    if not isinstance(error, MarkedYAMLError):
        return Problem(name, "", "is not YAML")
    mark = error.problem_mark or error.context_mark
    where = f"{name}:{mark.line + 1}" if mark else name
    problem = error.problem or error.context or "syntax error"
    if problem.startswith("found undefined alias"):
        problem = "an alias (*) to an anchor (&) that is not there"
    elif "another document" in problem:
        problem = "a second document (---)"
    elif "duplicate anchor" in (error.context or ""):
        problem = "an anchor (&) whose name was there before"
    elif isinstance(error, ConstructorError) and "tag" in problem:
        problem = "a tag (!) that means nothing here"
    column = f", column {mark.column + 1}" if mark else ""
    return Problem(where, "", f"is not YAML: {problem}{column}; if it is text, put it in quotes")
