"""The lease that keeps two deployments of one environment apart.

A lease is renewed by a thread for as long as it is held and ends by itself 15 seconds (on slow
hosts up to 60) after its owner died; nobody but its owner ever releases it.
"""

from __future__ import annotations

import copy
import json
import secrets
import threading
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath

from opskit.commands import Command, lock
from opskit.failure import Failure, Unreachable
from opskit.transport import CommandFailed, Executor, Result

TTL = 15.0
"""Seconds that a lease outlives its owner's last renewal."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, since when, and for what.

    `owner` says which process on which machine that is, so that its death can be seen from there.
    """

    who: str
    since: str
    what: str
    owner: str

    @classmethod
    def parse(cls, line: str) -> Holder:
        """Read the line of a lease file; what cannot be read is unknown."""
        try:
            fields = json.loads(line)
            return cls(*(str(fields[key]) for key in ("who", "since", "what", "owner")))
        except (ValueError, KeyError, TypeError):
            return cls("unknown", "unknown", "unknown", "")


class LockHeld(Failure):
    """Another deployment is under way. `left`: seconds until its lease ends unless renewed."""

    def __init__(self, host: str, holder: Holder, left: float) -> None:
        super().__init__(
            f"{host}: {holder.who} holds the lock since {holder.since} for: {holder.what}",
            hint=f"wait for it; if it has died, its lease ends by itself in {left:.0f} s",
        )
        self.holder = holder
        self.left = left


class LeaseLost(Failure):
    """The lease ended and another took it, or somebody removed it."""

    def __init__(self, host: str, holder: Holder | None, *, why: str = "") -> None:
        who = f"{holder.who} took it for: {holder.what}" if holder else "nobody holds it now"
        super().__init__(
            f"{host}: the lock was lost in the middle of the deployment; {why or who}",
            hint="this process was not running for longer than its lease, or could not reach the "
            "host; look with: opskit status",
        )
        self.holder = holder


class Lease:
    """The right to change one environment on one host.

    Args:
        executor: where the lease file is.
        root: the environment's root there.
        holder: what others are told.
        ttl: seconds that the lease outlives the last renewal.
    """

    def __init__(
        self, executor: Executor, root: PurePosixPath, holder: Holder, *, ttl: float = TTL
    ) -> None:
        self.token = secrets.token_hex(8)
        self._executor = executor
        self._root = root
        self._holder = json.dumps(asdict(holder))
        self._ttl = ttl
        self._lost: LeaseLost | None = None
        self._failed: Failure | None = None
        self._renewed = 0.0
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Take the lease, and keep it from now on.

        Raises:
            LockHeld: another has it.
        """
        result = self._executor.run(
            lock.acquire(self._root, self.token, self._holder, ttl=self._ttl)
        )
        if result.status == lock.HELD:
            left, holder = _held(result)
            raise LockHeld(self._executor.host, holder or Holder.parse(""), left)
        self._must(result, lock.acquire(self._root, self.token, "", ttl=self._ttl))
        self._lost, self._renewed = None, time.monotonic()
        if self._thread is None:
            self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
            self._thread.start()

    def check(self) -> None:
        """Make sure that the lease is still ours.

        Raises:
            LeaseLost: it is not, or nobody knows, since it could not be renewed.
            Unreachable: nobody knows, since the host could not be reached.
        """
        if self._lost is None and time.monotonic() - self._renewed > self._ttl:
            self._renew()
            if self._lost is None and time.monotonic() - self._renewed > self._ttl:
                raise self._not_renewed()
        if self._lost is not None:
            raise self._lost

    def confirm(self) -> None:
        """Ask the host whether the lease is still ours, and renew it.

        Raises:
            LeaseLost: it is not, or nobody knows, since it could not be renewed.
            Unreachable: nobody knows, since the host could not be reached.
        """
        renewed = self._renewed
        self._renew()
        if self._lost is not None:
            raise self._lost
        if self._renewed == renewed:
            raise self._not_renewed()

    def lost_to(self, holder: Holder | None) -> LeaseLost:
        """Note that the host has refused a command for want of the lease."""
        self._lost = LeaseLost(self._executor.host, holder)
        return self._lost

    def release(self) -> None:
        """Give the lease up. Safe to call when it is lost, or was never taken."""
        self._done.set()
        if self._thread is not None:
            self._thread.join(timeout=self._ttl)
            self._executor.run(lock.release(self._root, self.token))
            self._thread = None

    def abandon(self) -> None:
        """Renew it no more, where the host cannot be reached: it ends there by itself."""
        self._done.set()

    def fence(self, command: Command) -> Command:
        """Give the command that runs `command` only while the lease is ours."""
        return lock.fenced(command, self._root, self.token, ttl=self._ttl)

    def _keep(self) -> None:
        while not self._done.wait(self._ttl / 3):
            self._renew()

    def _renew(self) -> None:
        try:
            result = self._executor.run(lock.renew(self._root, self.token, ttl=self._ttl))
        except Failure as failure:
            self._failed = failure
            return  # the host may be reachable again before the lease ends
        if result.status == 0:
            self._renewed = time.monotonic()
        elif result.status == lock.HELD:
            self.lost_to(_held(result)[1])
        else:
            command = lock.renew(self._root, self.token, ttl=self._ttl)
            self._failed = CommandFailed(self._executor.host, command, result)

    def _not_renewed(self) -> Failure:
        """Say why nobody knows whether the lease is ours."""
        if isinstance(self._failed, Unreachable):
            return copy.copy(self._failed)
        why = f" ({self._failed})" if self._failed else ""
        return LeaseLost(self._executor.host, None, why=f"it could not be renewed{why}")

    def _must(self, result: Result, command: Command) -> None:
        if result.status == lock.BUSY:
            result = Result(result.status, "", "another command holds flock on the root directory")
        if result.status != 0:
            raise CommandFailed(self._executor.host, command, result)


class FencedExecutor(Executor):
    """Runs what changes a host only while the lease is ours; reads as the other one does."""

    def __init__(self, executor: Executor, lease: Lease) -> None:
        self._executor = executor
        self._lease = lease
        self.host = executor.host

    def run(self, command: Command) -> Result:
        """Run a command; see `Executor.run`.

        Raises:
            LeaseLost: the command changes the host and the lease is no longer ours.
        """
        if not command.changes:
            return self._executor.run(command)
        self._lease.check()
        result = self._executor.run(self._lease.fence(command))
        if result.status == lock.HELD:
            raise self._lease.lost_to(_held(result)[1])
        return result

    def stream(self, command: Command) -> Generator[str]:
        """Give a command's lines; see `Executor.stream`."""
        return self._executor.stream(command)


def _held(result: Result) -> tuple[float, Holder | None]:
    """Read what a lock script printed of the lease in its way; None where there is none."""
    left, _, line = result.stdout.partition("\n")
    return max(0.0, int(left or 0) / 100), Holder.parse(line) if line.strip() else None
