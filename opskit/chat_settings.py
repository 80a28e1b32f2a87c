"""The `chat` section of an environment: the chat service's own settings, checked by itself.

`chatservice.config` says what the keys are. Here its complaints find their way back to the line
they are about, all of them at once, each with what was expected there.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec import inspect

from chatservice.config import Settings, SettingsError, settings_from
from opskit.yaml_lines import Key, dotted

OWN_KEYS: Final[Mapping[str, str]] = {
    "service.state_dir": "is <root>/state; it cannot be set",
    "service.run_dir": "is <root>/run; it cannot be set",
    "auth.secret_file": "is written by opskit; set secrets.jwt_secret of the environment instead",
    "auth.previous_secret_file": "is written by opskit; set secrets.jwt_previous_secret of the "
    "environment instead",
    "auth.jwks_file": "is written by opskit; set secrets.jwks of the environment instead",
    "store.dsn_file": "is written by opskit; set secrets.database_url of the environment instead",
}
"""Keys of the service that opskit alone decides, and what to do about each."""


@dataclass(frozen=True)
class Complaint:
    """One key of the service's settings that is wrong, and why."""

    path: tuple[Key, ...]
    why: str


def check(
    chat: Mapping[str, Any], own: Mapping[str, str]
) -> tuple[Settings | None, list[Complaint]]:
    """Check an environment's `chat` section.

    Args:
        chat: the section as it was read; a section without keys may be None.
        own: the values of `OWN_KEYS`, those that have one.

    Returns:
        The settings, or None and everything that is wrong.
    """
    complaints: list[Complaint] = []
    mapping: dict[str, Any] = {}
    for name, section in chat.items():
        # A copy: an alias may have two environments share a section.
        mapping[name] = dict(section) if isinstance(section, Mapping) else section
        if not isinstance(section, Mapping) and name in Settings.__struct_fields__:
            mapping[name] = {}
            if section is not None:
                why = f"expected a mapping of settings, got {got(section)}"
                complaints.append(Complaint((name,), why))
    for key, why in OWN_KEYS.items():
        name, field = key.split(".")
        section = mapping.setdefault(name, {})
        if section.pop(field, None) is not None:
            complaints.append(Complaint((name, field), why))
        if key in own:
            section[field] = own[key]
    kept: dict[tuple[Key, ...], list[int]] = {}
    while True:
        try:
            settings = settings_from(mapping, where="")
        except SettingsError as error:
            path = parse_path(error.key)
            complaints.append(Complaint(_original(path, kept), _explain(error, path, mapping)))
            if not _remove(mapping, path, kept):
                return None, complaints
        else:
            return (None if complaints else settings), complaints


def parse_path(key: str) -> tuple[Key, ...]:
    """Read a dotted key, `auth.origins[0]`."""
    return tuple(
        int(index) if index else name for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", key)
    )


def _original(path: tuple[Key, ...], kept: dict[tuple[Key, ...], list[int]]) -> tuple[Key, ...]:
    """Give the path as the file has it, before `_remove` took items out of a list."""
    if path and isinstance(path[-1], int) and path[:-1] in kept:
        return (*path[:-1], kept[path[:-1]][path[-1]])
    return path


def _remove(
    mapping: dict[str, Any], path: tuple[Key, ...], kept: dict[tuple[Key, ...], list[int]]
) -> bool:
    """Take out what was complained of, so that the next complaint shows; False if it cannot."""
    parent: Any = mapping
    for key in path[:-1]:
        try:
            parent = parent[key]
        except (KeyError, IndexError, TypeError):
            return False
    if isinstance(parent, dict) and path and path[-1] in parent:
        del parent[path[-1]]
        return True
    if isinstance(parent, list) and isinstance(path[-1], int) and path[-1] < len(parent):
        kept.setdefault(path[:-1], list(range(len(parent)))).pop(path[-1])
        parent[:] = [item for index, item in enumerate(parent) if index != path[-1]]
        return True
    return False


def _explain(error: SettingsError, path: tuple[Key, ...], mapping: Mapping[str, Any]) -> str:
    """Say what was expected and what is there, in the words of environments.yaml."""
    if error.why == "unknown key":
        return unknown_key(str(path[-1]), _fields_of(path[:-1]))
    if error.why.startswith(("expected ", "invalid ")):
        expected = _expected(path) or error.why.partition(",")[0].removeprefix("expected ")
        # msgspec's own words differ by type, and name no bounds.
        return f"expected {expected}, got {got(_value(mapping, path))}"
    return error.why


def unknown_key(key: str, known: list[str]) -> str:
    """Say that a key is unknown, and which one may have been meant."""
    meant = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {meant[0]}? " if meant else ""
    return f"unknown key; {hint}known here: {', '.join(known) or 'none'}"


def got(value: object) -> str:
    """Show a value that is wrong, short."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _value(mapping: Mapping[str, Any], path: tuple[Key, ...]) -> object:
    value: Any = mapping
    for key in path:
        value = value[key]
    return value


def _type_of(path: tuple[Key, ...]) -> inspect.Type | None:
    """Give what the service's settings expect at a key."""
    kind: inspect.Type = inspect.type_info(Settings)
    for key in path:
        if isinstance(kind, inspect.StructType):
            fields = {field.name: field.type for field in kind.fields}
            if key not in fields:
                return None
            kind = fields[str(key)]
        elif isinstance(kind, inspect.ListType):
            kind = kind.item_type
        else:
            return None
    return kind


def _fields_of(path: tuple[Key, ...]) -> list[str]:
    kind = _type_of(path)
    if not isinstance(kind, inspect.StructType):
        return []
    own = {dotted((*path, field.name)) for field in kind.fields} & set(OWN_KEYS)
    return [field.name for field in kind.fields if dotted((*path, field.name)) not in own]


def _expected(path: tuple[Key, ...]) -> str:
    """Describe what is expected at a key, as `int from 1 to 1000000`."""
    match _type_of(path):
        case inspect.IntType() | inspect.FloatType() as number:
            name = "int" if isinstance(number, inspect.IntType) else "number"
            if number.ge is not None and number.le is not None:
                return f"{name} from {number.ge} to {number.le}"
            bounds = (">=", number.ge), (">", number.gt), ("<=", number.le), ("<", number.lt)
            limits = [f"{sign} {bound}" for sign, bound in bounds if bound is not None]
            return " ".join([name, " and ".join(limits)]).strip()
        case inspect.StrType(min_length=length):
            return "text that is not empty" if length else "text"
        case inspect.BoolType():
            return "true or false"
        case inspect.LiteralType(values=values):
            return "one of " + ", ".join(map(str, values))
        case inspect.ListType():
            return "a list"
        case _:
            return ""


def complete(settings: Settings) -> dict[str, Any]:
    """Give settings as a mapping with every key, as the template wants it."""
    mapping: dict[str, Any] = msgspec.to_builtins(settings)
    return mapping
