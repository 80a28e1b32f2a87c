"""Asking Prometheus, over its HTTP API (https://prometheus.io/docs/prometheus/latest/querying/api/)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx

from opskit.failure import Failure
from opskit.observe.reach import client

_HTTP: Final = 30.0


class QueryError(Failure):
    """Prometheus did not answer a query; the message is its own."""


@dataclass(frozen=True)
class Series:
    """One series: its labels, and its points as (Unix time in seconds, value); none is NaN."""

    labels: Mapping[str, str]
    points: tuple[tuple[float, float], ...]

    @property
    def last(self) -> float:
        """The newest value."""
        return self.points[-1][1]


class Prometheus:
    """One Prometheus server.

    Args:
        url: where it answers.
        transport: what carries requests there; None where this machine reaches it itself.
    """

    def __init__(self, url: str, transport: httpx.BaseTransport | None = None) -> None:
        self.url = url
        self._client = client(transport, _HTTP, url)

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def now(self, query: str, at: float) -> list[Series]:
        """Ask for the values at a time.

        Raises:
            QueryError: it is no query, or nobody answers.
        """
        found = self._ask("/api/v1/query", {"query": query, "time": f"{at:.3f}"})
        if found["resultType"] == "scalar":
            found = {"result": [{"metric": {}, "value": found["result"]}]}
        return _series({**one, "values": [one["value"]]} for one in found["result"])

    def range(self, query: str, start: float, end: float, step: float) -> list[Series]:
        """Ask for the values over a time, every `step` seconds.

        Raises:
            QueryError: it is no query, or nobody answers.
        """
        asked = {"query": query, "start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:g}"}
        return _series(self._ask("/api/v1/query_range", asked)["result"])

    def _ask(self, path: str, asked: Mapping[str, str]) -> dict[str, Any]:
        try:
            answer = self._client.post(path, data=dict(asked))
            fields = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise QueryError(f"Prometheus does not answer at {self.url}: {error}") from None
        if fields.get("status") != "success":
            raise QueryError(str(fields.get("error", f"status {answer.status_code}")))
        found: dict[str, Any] = fields["data"]
        return found


def _series(found: Any) -> list[Series]:
    series = []
    for one in found:
        points = tuple((float(at), float(value)) for at, value in one["values"])
        kept = tuple(point for point in points if math.isfinite(point[1]))
        if kept:
            series.append(Series(one["metric"], kept))
    return series
