"""The watch over one connection to a host: one over which nothing comes any more is ended."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any, Final

INTERVAL: Final = 5.0
"""Seconds between the questions whether the host still answers."""


class Watch:
    """Asks again and again whether the host still answers; when it does not, ends the connection.

    A host that vanished, or whose sshd was stopped, says nothing: without this a stream would
    wait for ever. Whatever comes from it says that it lives: over a slow line the answer itself
    waits behind all that is being sent.

    Args:
        transport: the connection, of paramiko.
        patience: seconds for which nothing need come while an answer is waited for.

        on_silence: is given the connection before it is ended because nothing came.
    """

    def __init__(
        self, transport: Any, patience: float, on_silence: Callable[[Any], object]
    ) -> None:
        self._patience = patience
        self._on_silence = on_silence
        self._transport = transport
        self._heard = time.monotonic()
        self._read = transport.packetizer.read_message
        transport.packetizer.read_message = self._noted
        threading.Thread(target=self._ask, daemon=True).start()

    def _noted(self) -> Any:
        message = self._read()
        self._heard = time.monotonic()
        return message

    def _ask(self) -> None:
        idle = threading.Event()
        while self._transport.is_active():
            idle.wait(INTERVAL)
            answered = threading.Event()
            threading.Thread(target=self._give_up, args=(answered,), daemon=True).start()
            with contextlib.suppress(Exception):
                self._transport.global_request("keepalive@openssh.com", wait=True)
            answered.set()

    def _give_up(self, answered: threading.Event) -> None:
        """End the connection if nothing comes for too long while an answer is waited for."""
        asked = time.monotonic()
        while (left := max(asked, self._heard) + self._patience - time.monotonic()) > 0:
            if answered.wait(left):
                return
        if self._transport.is_active():
            self._on_silence(self._transport)
            self._transport.close()
