"""Takes the lock of the environment."""

from __future__ import annotations

import time

from opskit.deploy.act import Act
from opskit.deploy.step import Step
from opskit.lock import Lease, LockHeld
from opskit.person import died


class Lock(Step):
    """From here on nobody else changes the environment."""

    name = "lock"

    def describe(self, act: Act) -> str:
        """Say what the step does."""
        return "take the lock, so that nobody else deploys here meanwhile"

    def apply(self, act: Act) -> str:
        """Take the lease, and look again: now nobody changes anything but us.

        A lease whose owner is known to have died is waited for: it ends within 15 seconds.
        """
        lease = Lease(act.target.executor, act.target.root, act.holder(), ttl=act.timing.lease)
        told = False
        while True:
            try:
                lease.acquire()
                break
            except LockHeld as held:
                if not died(held.holder.owner):
                    raise
                if not told:
                    act.note(
                        f"{held.holder.who} held the lock for: {held.holder.what}, and has died; "
                        f"its lease ends in {held.left:.0f} s"
                    )
                told = True
                time.sleep(min(held.left, 0.5) + 0.02)
        act.hold(lease)
        act.look()
        return ""

    def undo(self, act: Act) -> str:
        """Give the lease up."""
        if act.lease is not None:
            act.lease.release()
        return ""
