"""The shape of environments.yaml, and pydantic's findings in the words of the file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from opskit import host_names
from opskit.chat_settings import got, unknown_key
from opskit.commands import ORDINARY
from opskit.host_names import HIGHEST_PORT
from opskit.monitoring_file import Monitoring
from opskit.patience import MOST, Patience
from opskit.problems import Problem
from opskit.yaml_lines import Document, Key

SECRETS = ("jwt_secret", "jwt_previous_secret", "jwks", "signing_key", "database_url")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class Releases(_Section):
    """What is kept on a host."""

    keep: Annotated[int, Field(ge=1, le=100)] = 5


class Smoke(_Section):
    """The smoke test that gates a deployment."""

    users: Annotated[int, Field(ge=2, le=1000)] = 3
    delivery_ms: Annotated[int, Field(ge=1, le=60_000)] = 1000
    timeout: Annotated[float, Field(gt=0, le=600)] = 60.0


def _url(text: str) -> str:
    if not re.fullmatch(r"https?://[^/\s?#@]+/?", text):
        raise ValueError("expected http(s)://host[:port], without a path")
    try:
        port = urlsplit(text).port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError(f"expected http(s)://host[:port], the port from 1 to {HIGHEST_PORT}")
    return text.rstrip("/")


def _remote_root(text: str) -> str:
    if not re.fullmatch(r"(/[A-Za-z0-9._-]+)+", text) or "/.." in text:
        raise ValueError("expected an absolute path of letters, digits and . _ -")
    return text


def _python(text: str) -> str:
    if not (match := re.fullmatch(r"3\.(\d{1,2})", text)) or int(match[1]) < 11:
        raise ValueError('expected "3.11" or newer, in quotes and without a patch number')
    return text


Url = Annotated[str, AfterValidator(_url)]


class _Environment(_Section):
    url: Url | None = None
    chat: dict[str, Any] = {}
    secrets: dict[str, Any] = {}
    releases: Releases = Releases()
    smoke: Smoke = Smoke()
    monitoring: Monitoring = Monitoring()


class Local(_Environment):
    """An environment on this machine."""

    target: Literal["local"]
    root: Annotated[str, Field(min_length=1)]
    nodes: Annotated[int, Field(ge=1, le=16)] = 1


class Ssh(_Environment):
    """An environment on hosts over SSH."""

    target: Literal["ssh"]
    root: Annotated[str, AfterValidator(_remote_root)] = "/opt/chat"
    hosts: Annotated[
        list[Annotated[str, AfterValidator(host_names.checked)]],
        AfterValidator(host_names.all_different),
    ] = []
    user: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]*$")] | None = None
    identity_file: Annotated[str, Field(min_length=1)] | None = None
    known_hosts: Annotated[str, Field(min_length=1)] | None = None
    jump: Annotated[str, AfterValidator(host_names.checked)] | None = None
    connect_timeout: Annotated[float, Field(ge=1, le=MOST["connect_timeout"])] = Patience.connect
    command_timeout: Annotated[float, Field(ge=ORDINARY, le=MOST["command_timeout"])] = (
        Patience.command
    )
    python: Annotated[str, AfterValidator(_python)] = "3.11"
    platform: Literal["x86_64-manylinux_2_28", "aarch64-manylinux_2_28"] = "x86_64-manylinux_2_28"


MODELS: dict[str, type[Local] | type[Ssh]] = {"local": Local, "ssh": Ssh}


def read_environment(document: Document, name: str, raw: Any) -> Local | Ssh | list[Problem]:
    """Check one environment's shape; what `chat` and `secrets` hold is checked elsewhere."""
    path: tuple[Key, ...] = ("environments", name)
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,31}", name):
        why = "a name has a to z, 0 to 9 and -, starts with a letter, and is at most 32 long"
        return [document.problem(path, why)]
    if not isinstance(raw, dict):
        return [document.problem(path, f"expected the settings of an environment, got {got(raw)}")]
    target = raw.get("target")
    if not isinstance(target, str) or target not in MODELS:
        why = "is required: local (this machine) or ssh (hosts)"
        if "target" in raw:
            why = f"expected local (this machine) or ssh (hosts), got {got(target)}"
        return [document.problem((*path, "target"), why)]
    # A section whose keys are all commented out is null in YAML, and means the defaults.
    sections = ("chat", "secrets", "releases", "smoke", "monitoring")
    present = {k: v for k, v in raw.items() if not (k in sections and v is None)}
    if isinstance(watched := present.get("monitoring"), dict):
        present["monitoring"] = {k: v for k, v in watched.items() if v is not None}
    try:
        return MODELS[target].model_validate(present)
    except ValidationError as error:
        return list(_problems(document, path, MODELS[target], error))


def _problems(
    document: Document, path: tuple[Key, ...], model: type[BaseModel], error: ValidationError
) -> Iterator[Problem]:
    for detail in error.errors(include_url=False):
        location = tuple(detail["loc"])
        why = _why(detail, location, model)
        if location[0] == "secrets":
            why = "expected a mapping of names to references (what stands there is not shown)"
        yield document.problem((*path, *location), why)


def _why(detail: ErrorDetails, location: tuple[Key, ...], model: type[BaseModel]) -> str:
    """Say one of pydantic's findings in this file's words."""
    kind, value, bounds = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "missing":
        return "is required"
    if kind == "secret_reference":  # what stands there may be the secret
        return detail["msg"]
    if kind == "extra_forbidden":
        return unknown_key(str(location[-1]), _known(model, location[:-1]))
    if kind == "value_error":
        return f"{bounds['error']}, got {got(value)}"
    field = _field(model, location)
    limits = "".join(
        f" {sign} {limit:g}"
        for name, sign in (("ge", ">="), ("gt", ">"), ("le", "and <="), ("lt", "and <"))
        for limit in (getattr(part, name, None) for part in (field.metadata if field else ()))
        if limit is not None
    )
    nouns = {
        "int": "int" + limits,
        "float": "number" + limits,
        "greater": _noun(field) + limits,
        "less": _noun(field) + limits,
        "string": "text",
        "dict": "a mapping",
        "model": "a mapping",
        "list": "a list",
    }
    noun = nouns.get(kind.partition("_")[0])
    if kind == "string_type" and location[-1] == "python":
        noun = "text; put it in quotes, since YAML reads 3.10 as the number 3.1"
    if kind == "literal_error":
        noun = "one of " + str(bounds["expected"]).replace("'", "").replace(" or ", ", ")
    if kind == "string_pattern_mismatch":
        noun = "the name of a user"
    return f"expected {noun}, got {got(value)}" if noun else f"{detail['msg']}, got {got(value)}"


def _noun(field: Any) -> str:
    return "int" if field is not None and field.annotation is int else "number"


def _field(model: type[BaseModel], location: tuple[Key, ...]) -> Any:
    """Give the field at a location of the model, or None."""
    field = None
    kind: Any = model
    for key in location:
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return None
        field = kind.model_fields.get(str(key))
        kind = field.annotation if field else None
        if isinstance(kind, UnionType):  # a section that may be absent
            kind = next((one for one in get_args(kind) if isinstance(one, type)), None)
    return field


def _known(model: type[BaseModel], location: tuple[Key, ...]) -> list[str]:
    kind: Any = _field(model, location).annotation if location else model
    if isinstance(kind, UnionType):
        kind = next(one for one in get_args(kind) if issubclass(one, BaseModel))
    return list(kind.model_fields)
