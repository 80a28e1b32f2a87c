"""Where an environment's Prometheus and Alertmanager are, and how opskit talks with them.

They listen on loopback alone: of this machine, or of the host that `monitoring.host` names. There
each request is a command over SSH, so that nothing more than SSH has to be let in.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from opskit.commands import monitoring as commands
from opskit.environment import Environment
from opskit.failure import Failure
from opskit.observe.places import executor_of
from opskit.transport import CommandFailed, Executor


class NobodyListens(httpx.ConnectError):
    """The host was reached, and nobody listens on that port of it."""


class Loopback(httpx.BaseTransport):
    """HTTP to a host's loopback, one command a request."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Ask.

        Raises:
            NobodyListens: nobody answers there.
            httpx.ConnectError: the host cannot be reached.
        """
        url, body = request.url, request.read().decode()
        kind = request.headers.get("Content-Type", "") if body else ""
        path = url.raw_path.decode("ascii")
        command = commands.ask(request.method, url.port or 80, path, kind, body)
        try:
            fields = json.loads(self._executor.check(command))
        except CommandFailed as error:
            raise NobodyListens(str(error), request=request) from None
        except (Failure, ValueError) as error:
            raise httpx.ConnectError(str(error), request=request) from None
        headers = {"Content-Type": fields["type"]}
        return httpx.Response(
            fields["status"], headers=headers, content=fields["body"].encode(), request=request
        )


@contextmanager
def reached(environment: Environment) -> Iterator[httpx.BaseTransport | None]:
    """Give what carries requests to 127.0.0.1 to where the environment is watched from.

    None where that is this machine.
    """
    if not environment.monitoring.host:
        yield None
        return
    executor = executor_of(environment)
    try:
        yield Loopback(executor)
    finally:
        executor.close()


def client(transport: httpx.BaseTransport | None, seconds: float, url: str = "") -> httpx.Client:
    """Give an HTTP client that goes through a transport, or straight to this machine."""
    return httpx.Client(base_url=url, timeout=seconds, trust_env=False, transport=transport)
