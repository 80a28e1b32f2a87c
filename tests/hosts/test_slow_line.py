"""A slow line to a host is not taken for a dead one, however long an upload takes."""

from __future__ import annotations

import os

import pytest

from opskit import ssh_watch
from opskit.commands import Command
from opskit.patience import Patience
from opskit.ssh import SshExecutor
from opskit.ssh_connection import Address, Login
from tests.hosts.machine import Host
from tests.hosts.network import run


def test_an_upload_over_a_slow_line(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's answer waits behind what is being sent for longer than a dead host is waited for.

    What comes from it meanwhile, if only that there is room for more, says that it lives.
    """
    monkeypatch.setattr(ssh_watch, "INTERVAL", 0.1)
    monkeypatch.setattr(Patience, "silence", 1.5)
    login = Login(
        "root", identity_file=host.key, known_hosts=host.known_hosts, agent=False,
        config=None,
    )  # fmt: skip
    link = f"vb-{host.name}"
    executor = SshExecutor(Address(host.address), login)
    executor.connect()
    # All that SSH lets wait unread, 2 MiB, takes 4 s at this rate.
    slow = ("tbf", "rate", "4mbit", "burst", "32kb", "latency", "20s")
    run("tc", "qdisc", "add", "dev", link, "root", *slow)
    try:
        content = os.urandom(3 << 20)
        count = Command(("wc", "-c"), "count", "count", stdin=content, timeout=60.0)
        assert executor.check(count).strip() == str(len(content))
    finally:
        run("tc", "qdisc", "del", "dev", link, "root")
        executor.close()
