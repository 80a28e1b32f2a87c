"""A silence while something is deployed: of alerts about connections, and of no others.

It ends by itself, so that an opskit that dies leaves nothing silent behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx

from opskit.failure import Failure
from opskit.observe.reach import NobodyListens, client

MOST_SECONDS: Final = 900.0
"""No deployment takes longer; one that does is worth an alert."""
_HTTP: Final = 5.0


class NotWatched(Failure):
    """No Alertmanager runs, so that nobody would be told of anything."""


def silence(
    alertmanager_url: str,
    seconds: float,
    *,
    environment: str,
    who: str,
    why: str,
    category: str = "connections",
    transport: httpx.BaseTransport | None = None,
) -> str:
    """Keep alerts of one category about one environment silent for a while; gives the silence's id.

    Args:
        alertmanager_url: where Alertmanager answers, `http://127.0.0.1:9093`.
        seconds: after which it ends by itself; at most `MOST_SECONDS`.
        environment: whose alerts.
        who: by whom.
        why: for those who wonder.
        category: the label `category` of the alerts.
        transport: what carries requests there; None where this machine reaches it itself.

    Raises:
        NotWatched: no Alertmanager runs there.
        Failure: it did not take the silence. A deployment goes on without one.
    """
    now = datetime.now(UTC)
    matchers = {"environment": environment, "category": category}
    body = {
        "matchers": [
            {"name": name, "value": value, "isRegex": False, "isEqual": True}
            for name, value in matchers.items()
        ],
        "startsAt": now.isoformat(),
        "endsAt": (now + timedelta(seconds=min(seconds, MOST_SECONDS))).isoformat(),
        "createdBy": who,
        "comment": why,
    }
    answer = _ask("POST", f"{alertmanager_url}/api/v2/silences", body, transport)
    return str(answer.json()["silenceID"])


def end_silence(alertmanager_url: str, silence_id: str) -> None:
    """End a silence before its time.

    Raises:
        Failure: Alertmanager did not do it; it ends by itself.
    """
    _ask("DELETE", f"{alertmanager_url}/api/v2/silence/{silence_id}")


def _ask(
    method: str,
    url: str,
    body: Mapping[str, Any] | None = None,
    transport: httpx.BaseTransport | None = None,
) -> httpx.Response:
    try:
        with client(transport, _HTTP) as asks:
            return asks.request(method, url, json=body).raise_for_status()
    except NobodyListens as error:
        raise NotWatched(f"no Alertmanager runs: {error}") from None
    except httpx.HTTPError as error:
        raise Failure(f"Alertmanager does not take a silence: {error}") from None
