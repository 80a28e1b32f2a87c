"""Who is online in one workspace: a pure state machine, part of a room.

A user is online while one of their devices is welcomed, here or on another node, and for the
grace period after the last one here left. Times are in seconds of the caller's clock.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import Generic

from chatservice.actions import Announce, Key, ToAll
from chatservice.handover_format import User
from chatservice.protocol import Person, Presence, PresenceChange


class _User(Generic[Key]):
    """One person who counts as online: with devices here, on other nodes, or a grace period.

    `announced`: the other nodes were told of devices here.
    """

    __slots__ = ("announced", "devices", "name", "nodes", "typed_at")

    def __init__(self, name: str) -> None:
        self.name = name
        self.announced = False
        self.devices: set[Key] = set()
        self.nodes: set[str] = set()
        self.typed_at = float("-inf")


class Attendance(Generic[Key]):
    """Everybody who is online. `grace` is the grace period in seconds."""

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._online: dict[str, _User[Key]] = {}
        self._leaving: dict[str, float] = {}

    # --- what can be asked ---------------------------------------------------------------

    @property
    def deadline(self) -> float | None:
        """When `tick` is to be called next."""
        return next(iter(self._leaving.values()), None)

    def online(self) -> list[Person]:
        """Everybody, in the order of their arrival."""
        return [Person(user, state.name) for user, state in self._online.items()]

    def __contains__(self, user: str) -> bool:
        return user in self._online

    def name(self, user: str) -> str | None:
        """What a user who is online is called."""
        online = self._online.get(user)
        return online.name if online else None

    def devices(self, user: str) -> Sequence[Key]:
        """The welcomed connections of one user, on this node."""
        online = self._online.get(user)
        return tuple(online.devices) if online else ()

    def announcements(self) -> list[Announce]:
        """Everything that the other nodes should know of this one's users."""
        return [
            Announce(name, user.name, present=True)
            for name, user in self._online.items()
            if user.announced
        ]

    def remote_users(self) -> set[tuple[str, str]]:
        """Every `(node, user)` of another node that has devices of the user."""
        return {(node, name) for name, user in self._online.items() for node in user.nodes}

    # --- this node -----------------------------------------------------------------------

    def arrive(self, device: Key, name: str, called: str) -> Iterable[ToAll | Announce]:
        """A device of a user is welcomed; the others hear when the user is new, or renamed."""
        self._leaving.pop(name, None)
        changed = yield from self._call(name, called)
        user = self._online[name]
        user.devices.add(device)
        if changed or not user.announced:
            user.announced = True
            yield Announce(name, called, present=True)

    def depart(self, device: Key, name: str, now: float) -> list[ToAll | Announce]:
        """A device is gone; after the last one the grace period runs."""
        user = self._online[name]
        user.devices.discard(device)
        if user.devices:
            return []
        self._leaving[name] = now + self._grace
        return self.tick(now)

    def tick(self, now: float) -> list[ToAll | Announce]:
        """Time has passed: whoever did not come back within the grace period is gone."""
        actions: list[ToAll | Announce] = []
        while self._leaving:
            name, deadline = next(iter(self._leaving.items()))
            if deadline > now:
                break
            del self._leaving[name]
            user = self._online[name]
            if user.announced:
                user.announced = False
                actions.append(Announce(name, user.name, present=False))
            actions.extend(self._offline_unless_elsewhere(name))
        return actions

    def may_show_typing(self, name: str, now: float, interval: float) -> bool:
        """Whether the user's last shown typing was `interval` seconds ago; notes this one."""
        user = self._online[name]
        if now - user.typed_at < interval:
            return False
        user.typed_at = now
        return True

    # --- other nodes ---------------------------------------------------------------------

    def remote(self, node: str, name: str, called: str, *, present: bool) -> list[ToAll]:
        """Another node has devices of a user, or has none any more."""
        if present:
            actions = list(self._call(name, called))
            self._online[name].nodes.add(node)
            return actions
        if name not in self._online:
            return []
        self._online[name].nodes.discard(node)
        return list(self._offline_unless_elsewhere(name))

    def node_gone(self, node: str, now: float) -> list[ToAll | Announce]:
        """A node died: its users have the grace period to come back to another one."""
        for name, user in self._online.items():
            if node in user.nodes:
                user.nodes.discard(node)
                if not user.devices and not user.nodes and name not in self._leaving:
                    self._leaving[name] = now + self._grace
        return self.tick(now)

    # --- moving to another process -------------------------------------------------------

    def captured(self, now: float) -> list[User]:
        """Everybody, in the order of their arrival."""
        return [
            User(
                name,
                user.name,
                user.announced,
                sorted(user.nodes),
                self._leaving[name] - now if name in self._leaving else None,
            )
            for name, user in self._online.items()
        ]

    def restore(self, users: Iterable[User], now: float) -> None:
        """Go on with those of another process; their devices follow with `adopt`."""
        for each in users:
            user = self._online[each.user] = _User(each.name)
            user.announced = each.announced
            user.nodes.update(each.nodes)
        away = [(each.left, each.user) for each in users if each.left is not None]
        self._leaving = {name: now + left for left, name in sorted(away)}

    def expect(self, users: Iterable[User], now: float, within: float) -> None:
        """Count those as online who were with a process before, until they had the time to return.

        Args:
            users: as they were when it ended.
            now: seconds of the caller's clock.
            within: seconds after which everybody should be back, the grace period not included.
        """
        time = within + self._grace
        returning = [
            User(each.user, each.name, left=time if each.left is None else each.left)
            for each in users
        ]
        self.restore(returning, now)

    def adopt(self, device: Key, name: str) -> None:
        """A device of a user came along."""
        self._online[name].devices.add(device)
        self._leaving.pop(name, None)

    # --- inside --------------------------------------------------------------------------

    def _call(self, name: str, called: str) -> Generator[ToAll, None, bool]:
        """Have a user online under this name; gives whether that is new to the members."""
        user = self._online.get(name)
        if user is None:
            self._online[name] = _User(called)
        elif user.name == called:
            return False
        else:
            user.name = called
        yield ToAll(PresenceChange(name, called, Presence.ONLINE))
        return True

    def _offline_unless_elsewhere(self, name: str) -> Iterable[ToAll]:
        user = self._online[name]
        if not user.devices and not user.nodes and name not in self._leaving:
            del self._online[name]
            yield ToAll(PresenceChange(name, user.name, Presence.OFFLINE))
