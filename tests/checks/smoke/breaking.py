"""How to break the running service on purpose: ways into its seams, for the faults.

This runs in the process of the service. What travels through a room can be rewritten action by
action, and any method can be given another one around it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from chatservice.actions import Action, ToAll, ToMember
from chatservice.connection import Connection
from chatservice.fanout import LiveRoom
from chatservice.protocol import ServerFrame

Actions = Iterable[Action[Connection]]


def around(owner: Any, name: str, new: Callable[..., Any]) -> None:
    """Replace `owner.name` by a function that is given the original first."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def replaced(*args: Any, **kwargs: Any) -> Any:
        return new(original, *args, **kwargs)

    setattr(owner, name, replaced)


def rewrite_actions(change: Callable[[LiveRoom, Action[Connection]], Actions]) -> None:
    """Have every room carry out what `change` makes of each of its actions."""

    def carry_out(original: Callable[..., None], live: LiveRoom, actions: Actions) -> None:
        original(live, [new for action in actions for new in change(live, action)])

    around(LiveRoom, "carry_out", carry_out)


def rewrite_frames(change: Callable[[ServerFrame], ServerFrame | None]) -> None:
    """Have every room send what `change` makes of each frame; None: nothing."""

    def rewrite(live: LiveRoom, action: Action[Connection]) -> Actions:
        if not isinstance(action, ToAll | ToMember):
            return [action]
        frame = change(action.frame)
        if frame is None:
            return []
        if isinstance(action, ToAll):
            return [ToAll(frame, action.but)]
        return [ToMember(action.key, frame)]

    rewrite_actions(rewrite)
