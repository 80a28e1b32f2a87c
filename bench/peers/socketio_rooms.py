"""A peer: rooms of python-socketio, served by uvicorn. Fan-out only: nothing is stored.

Written as its documentation advises, and in its favour: websocket transport from the start (no
polling), uvloop, uvicorn's Sans-I/O WebSockets, no compression, no keep-alive, events handled in
place and not in a task each, no acknowledgement, no history, no presence. It checks tokens.

    python -m bench.peers.socketio_rooms --secret-file FILE

prints `listening on PORT` when it does.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import jwt
import socketio
import uvicorn

from bench.peers.listening import announce, listener

NEVER = 86_400
"""Seconds."""


def application(secret: bytes, *, keep_alive: bool) -> Any:
    """Make the ASGI application."""
    server = socketio.AsyncServer(
        async_mode="asgi",
        transports=["websocket"],
        async_handlers=False,
        ping_interval=25 if keep_alive else NEVER,
    )
    members: dict[str, tuple[str, str]] = {}
    numbers: dict[str, int] = {}

    async def connect(sid: str, environ: dict[str, Any], _: Any) -> bool:
        scheme, _, token = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme != "Bearer":
            return False
        try:
            user = jwt.decode(token, secret, algorithms=["HS256"])["sub"]
        except jwt.InvalidTokenError:
            return False
        room = parse_qs(environ["QUERY_STRING"])["room"][0]
        members[sid] = (user, room)
        await server.enter_room(sid, room)
        return True

    async def disconnect(sid: str, *_: Any) -> None:
        members.pop(sid, None)

    async def send(sid: str, frame: dict[str, Any]) -> None:
        user, room = members[sid]
        number = numbers[room] = numbers.get(room, 0) + 1
        message = {
            "seq": number,
            "id": frame["id"],
            "user": user,
            "name": user,
            "text": frame["text"],
            "ts": time.time_ns() // 1_000_000,
        }
        await server.emit("message", message, room=room)

    server.on("connect", connect)
    server.on("disconnect", disconnect)
    server.on("send", send)
    return socketio.ASGIApp(server)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--secret-file", type=Path, required=True)
    parser.add_argument("--keep-alive", action="store_true", help="as the library has it: 25 s")
    arguments = parser.parse_args()
    config = uvicorn.Config(
        application(arguments.secret_file.read_bytes().strip(), keep_alive=arguments.keep_alive),
        loop="uvloop",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        ws_ping_interval=None,
        log_level="warning",
        access_log=False,
        lifespan="off",
    )
    sock = listener()
    announce(sock)
    uvicorn.Server(config).run(sockets=[sock])


if __name__ == "__main__":
    main()
