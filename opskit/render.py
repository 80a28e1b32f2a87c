"""templates/ and an environment make the files of a release's configuration.

Pure: the same environment and root give the same text, byte for byte. No secret is ever in a
rendered file, so a diff of them can be shown.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Final

import jinja2

from opskit.environment import Environment
from opskit.failure import Failure

TEMPLATES: Final = Path(__file__).resolve().parent.parent / "templates"
SETTINGS: Final = "config/settings.toml"
FILES: Final[Mapping[str, str]] = {SETTINGS: "chatservice/settings.toml.j2"}
"""Path in a release -> template."""


def render(environment: Environment, root: Path | PurePosixPath | None = None) -> dict[str, str]:
    """Give the configuration of a release: path in the release -> content.

    Args:
        environment: what is configured.
        root: where the environment lies on its host, when that is not `environment.root`.

    Raises:
        Failure: the templates are not where opskit runs from.
    """
    values = environment.chat_settings(root)
    return {
        path: templates().get_template(template).render(environment=environment.name, **values)
        for path, template in FILES.items()
    }


@cache
def templates() -> jinja2.Environment:
    """Give what renders templates/: an undefined name is an error.

    Raises:
        Failure: the templates are not where opskit runs from.
    """
    if not TEMPLATES.is_dir():
        raise Failure(
            f"{TEMPLATES} is missing",
            hint="opskit runs from a checkout of its repository: run `make dev` there",
        )
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 - TOML, not HTML; every value goes through `toml`
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["toml"] = toml
    return templates


def toml(value: object) -> str:
    """Write a value as TOML (1.0).

    Raises:
        TypeError: settings hold no such value.
    """
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return repr(value)
        case str():
            # A JSON string is a TOML basic string, but for DEL, which TOML wants escaped, and
            # for characters beyond the BMP, which JSON would write as two surrogates.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list() | tuple():
            return f"[{', '.join(map(toml, value))}]"
        case _:
            raise TypeError(f"no setting is a {type(value).__name__}")


def diff(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """Give the unified diff from one configuration to another; empty where they are the same."""
    parts: list[str] = []
    for path in sorted(old.keys() | new.keys()):
        before, after = old.get(path), new.get(path)
        for line in difflib.unified_diff(
            (before or "").splitlines(keepends=True),
            (after or "").splitlines(keepends=True),
            "/dev/null" if before is None else f"live/{path}",
            "/dev/null" if after is None else f"new/{path}",
        ):
            parts.append(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n")
    return "".join(parts)


def read_config(release: Path) -> dict[str, str]:
    """Give the configuration that a release was built with, for `diff`; empty without one."""
    return {
        path.relative_to(release).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted((release / "config").rglob("*"))
        if path.is_file()
    }
