"""A host that takes connections and says nothing, or ends them, is told of in words."""

from __future__ import annotations

import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from opskit.patience import Patience
from opskit.ssh_connection import Address, Connection, Login
from opskit.ssh_trouble import CannotConnect


def test_all_who_wait_for_a_silent_host_share_one_attempt(tmp_path: Path) -> None:
    """One after the other they would wait several times as long; who comes later tries anew."""
    config = tmp_path / "config"
    config.touch()
    login = Login("root", known_hosts=tmp_path / "known_hosts", config=config, agent=False)
    taken: list[socket.socket] = []
    barrier = threading.Barrier(5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        connection = Connection(Address("127.0.0.1", port=port), login, Patience(connect=3.0))

        def take() -> None:
            while True:
                try:
                    taken.append(server.accept()[0])
                except OSError:
                    return

        def connect() -> str:
            with pytest.raises(CannotConnect) as caught:
                connection.transport()
            return str(caught.value)

        def connect_at_once(_: int) -> str:
            barrier.wait()
            return connect()

        taking = threading.Thread(target=take, daemon=True)
        taking.start()
        with ThreadPoolExecutor(5) as pool:
            said = set(pool.map(connect_at_once, range(5)))
        assert said == {
            f"127.0.0.1:{port}: 127.0.0.1 port {port} takes the connection, and says nothing in 3 s"
        }
        assert len(taken) == 1
        connect()
        assert len(taken) == 2
        server.shutdown(socket.SHUT_RDWR)
        taking.join()
    for one in taken:
        one.close()


@pytest.mark.parametrize("abruptly", [False, True])
def test_a_host_that_ends_the_connection_at_once_is_not_said_to_be_silent(
    tmp_path: Path, abruptly: bool
) -> None:
    config = tmp_path / "config"
    config.touch()
    login = Login("root", known_hosts=tmp_path / "known_hosts", config=config, agent=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def turn_away() -> None:
            taken, _ = server.accept()
            if abruptly:
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            taken.close()

        turning = threading.Thread(target=turn_away)
        turning.start()
        with pytest.raises(CannotConnect) as caught:
            Connection(Address("127.0.0.1", port=port), login, Patience()).transport()
        turning.join()
    where = f"127.0.0.1:{port}: 127.0.0.1 port {port}"
    assert str(caught.value) == f"{where} closes the connection before anybody can log in"
    assert "MaxStartups" in caught.value.hint
