"""An asyncio client of chat.v1 that reconnects, resumes and resends.

    async with ChatClient("ws://127.0.0.1:8765", workspace="w", token=token) as client:
        ack = await client.send("hello")
        async for frame in client.events():
            ...

Promises: each message of the workspace is given once, in order, over any number of reconnects;
`send` returns only when the message is on disk, and stores it once however often it has to be
sent; memory is bounded; a final refusal or close is raised to everybody who waits.

`state` decides and does no I/O; `handshake` opens a connection, `link` is one, `membership` keeps
one; `answers` and `feed` are for those who wait; `chat` is the client. Imports nothing of
chatservice but `protocol` and `logs`.
"""

from chatservice.client.chat import ChatClient
from chatservice.client.errors import (
    ClosedForGood,
    NotConnected,
    Refused,
    RequestRefused,
    SendRefused,
)
from chatservice.client.feed import LaggedError
from chatservice.client.state import Backoff

__all__ = [
    "Backoff",
    "ChatClient",
    "ClosedForGood",
    "LaggedError",
    "NotConnected",
    "Refused",
    "RequestRefused",
    "SendRefused",
]
