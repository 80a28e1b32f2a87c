"""The frames of chat.v1 as the contract words them, spelled out apart from the code behind them.

What is proved on a raw socket must not rest on the decoder that the service's encoder came with.
"""

from __future__ import annotations

import json
from typing import Final

FIELDS: Final = {
    "welcome": "user workspace epoch seq read unread online resumed heartbeat",
    "message": "seq id user name text ts",
    "ack": "id seq ts",
    "presence": "user name state",
    "read": "seq unread",
    "typing": "user",
    "history": "messages more",
    "pong": "seq",
    "reconnect": "in_ms",
    "error": "code message",
}
"""The fields of each frame, in the words of the contract; an error may have an `id` as well."""


def departure(payload: str | bytes) -> str | None:
    """Say how a frame departs from the contract; None where it does not."""
    if not isinstance(payload, str):
        return f"a binary frame of {len(payload)} bytes"
    try:
        frame = json.loads(payload)
    except ValueError as error:
        return f"no JSON: {error}"
    if not isinstance(frame, dict) or next(iter(frame), None) != "type":
        return f"`type` is not the first field: {payload[:200]}"
    fields = FIELDS.get(frame["type"])
    if fields is None:
        return f"an unknown type: {payload[:200]}"
    expected = fields.split()
    if frame["type"] == "error" and "id" in frame:
        expected.append("id")
    if list(frame)[1:] != expected:
        return f"other fields than {fields}: {payload[:200]}"
    return None
