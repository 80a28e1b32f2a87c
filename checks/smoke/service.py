"""Does the service answer at all, and what does it say of itself?"""

from __future__ import annotations

import time
from typing import Final

import msgspec

from checks.smoke.check import CheckFailed, Found, Group, check
from checks.smoke.stage import Stage
from checks.smoke.target import http_url


class Version(msgspec.Struct, frozen=True):
    """What `GET /version` answers, as far as it matters here."""

    release: str
    commit: str
    pid: int


_VERSION: Final = msgspec.json.Decoder(Version)


@check(
    "answers",
    "The service answers HTTP requests",
    look_at="whether the process runs, the address and port, and what stands in front of it",
)
async def answers(stage: Stage) -> Found:
    """Every node answers something to `GET /healthz`, whatever it is."""
    slowest = 0.0
    for node in stage.run.nodes:
        begun = time.perf_counter()
        await stage.run.request("GET", http_url(node, "/healthz"))
        slowest = max(slowest, time.perf_counter() - begun)
    return Found(
        f"answered within {slowest * 1000:.0f} ms", {"slowest_ms": round(slowest * 1000, 1)}
    )


@check(
    "health",
    "It says that it is healthy",
    needs=("answers",),
    look_at="the last lines of the service's log",
)
async def health(stage: Stage) -> Found:
    """`/healthz` is 200: the process lives."""
    return await _is_200(stage, "/healthz")


@check(
    "ready",
    "It says that it is ready",
    needs=("answers",),
    look_at="the reason in that answer; usually the disk, the database file or its lock",
)
async def ready(stage: Stage) -> Found:
    """`/readyz` is 200: the store can be read and written."""
    return await _is_200(stage, "/readyz")


async def _is_200(stage: Stage, path: str) -> Found:
    for node in stage.run.nodes:
        url = http_url(node, path)
        answer = await stage.run.request("GET", url)
        if answer.status_code != 200:
            raise CheckFailed(
                f"GET {url} expected 200, but got {answer.status_code} {answer.text[:200].strip()}"
            )
    return Found(f"{path} is 200")


@check(
    "version",
    "It says which release it is",
    needs=("answers",),
    look_at="the manifest of the release, and what started the process",
)
async def version(stage: Stage) -> Found:
    """`/version` names release, commit and process; all nodes run the same release."""
    said: dict[str, Version] = {}
    for node in stage.run.nodes:
        url = http_url(node, "/version")
        answer = await stage.run.request("GET", url)
        try:
            said[node] = _VERSION.decode(answer.content)
        except msgspec.DecodeError as error:
            raise CheckFailed(
                f"GET {url} expected release, commit and pid as JSON, but got "
                f"{answer.status_code} with {error}"
            ) from None
    if len({(one.release, one.commit) for one in said.values()}) > 1:
        each = ", ".join(f"{node}: {one.release} ({one.commit})" for node, one in said.items())
        raise CheckFailed(f"expected one release on all nodes, but they run {each}")
    one = next(iter(said.values()))
    return Found(f"release {one.release or 'unnamed'}, commit {one.commit or 'unknown'}")


SERVICE: Final = Group("service", Stage, (answers, health, ready, version), at_once=True)
