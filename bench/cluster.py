"""Chat nodes on one PostgreSQL, each a process of its own, on the cores of the servers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bench.machine import Cores, cpu_seconds
from bench.member import LoadError
from bench.servers import LIFTED, NEVER, TOKEN_SECONDS
from chatservice.auth import sign
from tests.postgres_server import PostgresServer, postgres_programs
from tests.service_process import ServiceProcess


@contextlib.contextmanager
def postgres(directory: Path, cores: Cores) -> Iterator[PostgresServer]:
    """Run a PostgreSQL with its files under `directory`; every commit is synced to disk.

    Raises:
        LoadError: PostgreSQL is not installed.
    """
    if postgres_programs() is None:
        raise LoadError("PostgreSQL is not installed: apt-get install postgresql")
    directory.mkdir()
    directory.chmod(0o755)  # it runs as a user of its own
    server = PostgresServer(directory / "server")
    server.create()
    with cores.of_server():
        server.start()
    try:
        yield server
    finally:
        server.stop()


class Cluster(NamedTuple):
    """Nodes that serve the same workspaces; with SQLite there is one, and no PostgreSQL."""

    nodes: list[ServiceProcess]
    database: PostgresServer | None

    @property
    def ports(self) -> list[int]:
        """Where the nodes listen."""
        return [node.port for node in self.nodes]

    def token(self, user: str, room: str) -> str:
        """Sign a token, good at every node."""
        return sign(self.nodes[0].secret, user=user, workspaces=[room], ttl=TOKEN_SECONDS)

    def node_cpu(self) -> float:
        """Give the CPU seconds of all nodes so far."""
        return sum(cpu_seconds(node.pid) for node in self.nodes)

    def database_cpu(self) -> float:
        """Give the CPU seconds of PostgreSQL, with all its processes, so far."""
        if self.database is None or self.database.process is None:
            return 0.0
        return cpu_seconds(self.database.process.pid)

    def cpu(self) -> float:
        """Give the CPU seconds of nodes and database together."""
        return self.node_cpu() + self.database_cpu()

    def log(self) -> str:
        """Give the end of every node's log."""
        return "\n".join(node.log_tail(20) for node in self.nodes)


@contextlib.contextmanager
def cluster(
    directory: Path, cores: Cores, count: int, database: PostgresServer | None, dsn: str = ""
) -> Iterator[Cluster]:
    """Run so many nodes on a database of that server, or one on SQLite where there is none.

    Raises:
        LoadError: something failed while this ran; the message ends with the nodes' logs.
    """
    nodes: list[ServiceProcess] = []
    try:
        for index in range(count):
            node = service(directory / str(index), dsn, secret=nodes[0].secret if nodes else "")
            nodes.append(node)
            with cores.of_server():
                node.start()
        whole = Cluster(nodes, database)
        try:
            yield whole
        except LoadError as error:
            raise LoadError(f"{error}\n{whole.log()}") from None
    finally:
        for node in nodes:
            node.close()


def service(directory: Path, dsn: str, *, secret: str = "") -> ServiceProcess:
    """Make a node, not started yet: on PostgreSQL where there is a DSN, on SQLite otherwise."""
    node = ServiceProcess(directory, overrides=LIFTED)
    node.configure({"timing": {"heartbeat": NEVER}})
    if dsn:
        node.write_secret("dsn", dsn)
        node.configure({"store": {"kind": "postgres", "dsn_file": str(directory / "dsn")}})
    if secret:
        node.secret = secret
        node.write_secret("secret", secret)
    return node
