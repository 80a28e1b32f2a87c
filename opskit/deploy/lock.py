"""Takes the lock of the environment."""

from __future__ import annotations

import time

from opskit.deploy.act import Part
from opskit.deploy.step import Order, Step
from opskit.lock import Lease, LockHeld
from opskit.person import died


class Lock(Step):
    """From here on nobody else changes the environment."""

    name = "lock"
    order = Order.IN_TURN  # so that of any number who try at once, one gets all

    def describe(self, part: Part) -> str:
        """Say what the step does."""
        return "take the lock, so that nobody else deploys here meanwhile"

    def apply(self, part: Part) -> str:
        """Take the lease, and look again: now nobody changes anything but us.

        A lease whose owner is known to have died is waited for: it ends by itself.
        """
        lease = Lease(
            part.target.executor, part.target.root, part.act.holder(), ttl=part.act.timing.lease
        )
        told = False
        while True:
            try:
                lease.acquire()
                break
            except LockHeld as held:
                if not died(held.holder.owner):
                    raise
                if not told:
                    part.note(
                        f"{held.holder.who} held the lock for: {held.holder.what}, and has died; "
                        f"its lease ends in {held.left:.0f} s"
                    )
                told = True
                time.sleep(min(held.left, 0.5) + 0.02)
        part.hold(lease)
        part.look()
        return ""

    def undo(self, part: Part) -> str:
        """Give the lease up."""
        if part.lease is not None:
            part.lease.release()
        return ""
