"""A peer: rooms on the `websockets` library's own `broadcast()`. Fan-out only: nothing is stored.

Written as its documentation advises, and in its favour: uvloop, no compression, no keep-alive,
msgspec for JSON, payloads never decoded to text, no acknowledgement (a publisher sees its own
message), no history, no presence. It checks tokens, as every server on the open network must.

    python -m bench.peers.websockets_broadcast --secret-file FILE

prints `listening on PORT` when it does.
"""

from __future__ import annotations

import argparse
import re
import time
from http import HTTPStatus
from pathlib import Path
from typing import Final

import jwt
import msgspec
import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from bench.peers.listening import announce, listener

_PATH: Final = re.compile(r"/api/chat/workspace/([A-Za-z0-9._~-]{1,64})/connect")


class Send(msgspec.Struct, gc=False, tag_field="type", tag="send"):
    id: str
    text: str


class Message(msgspec.Struct, gc=False, tag_field="type", tag="message"):
    seq: int
    id: str
    user: str
    name: str
    text: str
    ts: int


class Room:
    def __init__(self) -> None:
        self.members: set[ServerConnection] = set()
        self.seq = 0


class Rooms:
    """All rooms, in memory."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._rooms: dict[str, Room] = {}
        self._decode = msgspec.json.Decoder(Send).decode
        self._encode = msgspec.json.Encoder().encode

    def admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Refuse who has no good token, or asks for something else than a room."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        path = _PATH.fullmatch(request.path)
        if path is None:
            return connection.respond(HTTPStatus.NOT_FOUND, "no such path\n")
        if scheme != "Bearer":
            return connection.respond(HTTPStatus.UNAUTHORIZED, "a token is required\n")
        try:
            claims = jwt.decode(token, self._secret, algorithms=["HS256"])
        except jwt.InvalidTokenError as error:
            return connection.respond(HTTPStatus.UNAUTHORIZED, f"{error}\n")
        connection.username = claims["sub"]
        if path[1] not in claims["workspaces"]:
            return connection.respond(HTTPStatus.FORBIDDEN, "not your workspace\n")
        return None

    async def serve_member(self, connection: ServerConnection) -> None:
        """One connection, from its first frame to its last."""
        assert connection.request is not None
        user = connection.username
        path = _PATH.fullmatch(connection.request.path)
        assert path is not None
        room = self._rooms.setdefault(path[1], Room())
        room.members.add(connection)
        try:
            await connection.send(b'{"type":"welcome","seq":%d}' % room.seq, text=True)
            while True:
                frame = self._decode(await connection.recv(decode=False))
                room.seq += 1
                now = time.time_ns() // 1_000_000
                message = Message(room.seq, frame.id, user, user, frame.text, now)
                broadcast(room.members, self._encode(message), text=True)
        except ConnectionClosed:
            pass
        finally:
            room.members.discard(connection)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--secret-file", type=Path, required=True)
    parser.add_argument("--keep-alive", action="store_true", help="as the library has it: 20 s")
    arguments = parser.parse_args()
    rooms = Rooms(arguments.secret_file.read_bytes().strip())
    interval = 20.0 if arguments.keep_alive else None
    sock = listener()
    async with serve(
        rooms.serve_member, sock=sock, process_request=rooms.admit,
        compression=None, ping_interval=interval, server_header=None,
    ) as server:  # fmt: skip
        announce(sock)
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
