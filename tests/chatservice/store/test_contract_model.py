"""Any sequence of calls gives what a trivial store in memory gives (Hypothesis)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from chatservice.protocol import Message
from chatservice.store import (
    Append,
    Appended,
    Cursor,
    Entry,
    MemberState,
    MoveCursor,
    Page,
    Store,
    WorkspaceState,
)
from tests.chatservice.store.conftest import Storage

WORKSPACES = st.sampled_from(["w", "v"])
USERS = st.sampled_from(["ann", "bob", "é"])
IDS = st.sampled_from([f"id-{index}" for index in range(12)])
NUMBERS = st.integers(-2, 120)

COMMIT = st.tuples(
    st.just("commit"),
    st.integers(0, 80).flatmap(
        lambda size: st.lists(st.tuples(WORKSPACES, USERS, IDS), min_size=size, max_size=size)
    ),
    st.lists(st.tuples(WORKSPACES, USERS, NUMBERS), max_size=6),
    st.booleans(),
)
ENTER = st.tuples(
    st.just("enter"),
    WORKSPACES,
    USERS,
    st.sampled_from(["A", "B"]),
    NUMBERS,
    st.none() | NUMBERS,
    st.integers(0, 12),
)
HISTORY = st.tuples(st.just("history"), WORKSPACES, NUMBERS, st.integers(0, 50))
SINCE = st.tuples(st.just("since"), WORKSPACES, NUMBERS, NUMBERS)
FORGET = st.tuples(st.just("forget"), WORKSPACES)
RESTART = st.tuples(st.just("restart"))

# `one_of` would choose COMMIT no more often for being named more often.
STEP = st.sampled_from([COMMIT] * 4 + [ENTER] * 2 + [HISTORY, SINCE, FORGET, RESTART]).flatmap(
    lambda step: step
)
STEPS = st.lists(STEP, min_size=8, max_size=20)


@dataclass
class Workspace:
    """What the model knows of a workspace: everything that was ever written."""

    epoch: str
    messages: list[Message] = field(default_factory=list)
    members: dict[str, tuple[str, int]] = field(default_factory=dict)


class Model:
    """The store's promises, in the plainest way there is."""

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.workspaces: dict[str, Workspace] = {}

    def kept(self, name: str) -> list[Message]:
        return self.workspaces[name].messages[-self.keep :]

    def floor(self, name: str) -> int:
        return max(0, len(self.workspaces[name].messages) - self.keep)

    def cursor(self, name: str, user: str, upto: int) -> Cursor:
        _, read = self.workspaces[name].members.get(user, ("", 0))
        after = [m for m in self.kept(name) if read < m.seq <= upto and m.user != user]
        return Cursor(min(read, upto), len(after))

    def append(self, append: Append) -> Appended:
        for message in self.kept(append.workspace):
            if (message.user, message.id) == (append.user, append.id):
                return Appended(message.seq, message.ts, repeated=True)
        all_messages = self.workspaces[append.workspace].messages
        seq = len(all_messages) + 1
        all_messages.append(
            Message(seq, append.id, append.user, append.name, append.text, append.ts)
        )
        return Appended(seq, append.ts, repeated=False)

    def move(self, move: MoveCursor) -> None:
        workspace = self.workspaces[move.workspace]
        name, read = workspace.members.get(move.user, (move.user, 0))
        seq = min(move.seq, len(workspace.messages))
        workspace.members[move.user] = name, max(read, seq)


class Comparison:
    """Does the same to a store and to the model."""

    def __init__(self, storage: Storage, keep: int) -> None:
        self.storage = storage
        self.model = Model(keep)
        self.epochs: set[str] = set()
        self.ts = 1_700_000_000_000
        self.store: Store

    async def run(self, steps: list[tuple[Any, ...]]) -> None:
        self.store = self.storage(keep=self.model.keep)
        await self.store.start()
        try:
            for workspace in ("w", "v"):
                await self.open(workspace)
            for name, *arguments in steps:
                await getattr(self, name)(*arguments)
                await self.same_everywhere()
        finally:
            await self.store.close()

    async def same_everywhere(self) -> None:
        for name, workspace in self.model.workspaces.items():
            seq = len(workspace.messages)
            state = WorkspaceState(workspace.epoch, seq, self.model.floor(name))
            assert await self.store.open(name) == state
            assert await self.store.since(name, 0, seq) == self.model.kept(name)
            assert await self.store.members(name) == [
                MemberState(user, called, self.model.cursor(name, user, seq))
                for user, (called, _) in sorted(workspace.members.items())
            ]

    async def restart(self) -> None:
        await self.store.close()
        self.store = self.storage(keep=self.model.keep)
        await self.store.start()

    async def open(self, workspace: str) -> None:
        state = await self.store.open(workspace)
        assert (state.seq, state.floor) == (0, 0)
        assert state.epoch not in self.epochs
        self.epochs.add(state.epoch)
        self.model.workspaces[workspace] = Workspace(state.epoch)

    async def forget(self, workspace: str) -> None:
        assert await self.store.forget(workspace) is True
        await self.open(workspace)

    async def commit(
        self,
        appends: list[tuple[str, str, str]],
        moves: list[tuple[str, str, int]],
        fresh: bool,
    ) -> None:
        """Messages and cursors; `fresh`: with ids that were never used before."""
        batch: list[Append] = []
        for workspace, user, id in appends:
            self.ts += 7
            unique = f"-{self.ts}" if fresh else ""
            batch.append(Append(workspace, user, user.title(), id + unique, "text", self.ts))
        reads = [MoveCursor(*move) for move in moves]
        committed = await self.store.commit(batch, reads)
        assert committed.appended == [self.model.append(append) for append in batch]
        for move in reads:
            self.model.move(move)
        assert committed.cursors == [
            self.model.cursor(move.workspace, move.user, 10**9) for move in reads
        ]
        event("repeated", any(appended.repeated for appended in committed.appended))

    async def enter(
        self, workspace: str, user: str, name: str, upto: int, after: int | None, newest: int
    ) -> None:
        upto = min(max(0, upto), len(self.model.workspaces[workspace].messages))
        entry = await self.store.enter(workspace, user, name, upto=upto, after=after, newest=newest)
        cursor = self.model.cursor(workspace, user, upto)
        members = self.model.workspaces[workspace].members
        members[user] = name, members.get(user, ("", 0))[1]
        kept = [message for message in self.model.kept(workspace) if message.seq <= upto]
        if after is not None and min(self.model.floor(workspace), upto) <= after <= upto:
            missed = [message for message in kept if message.seq > after]
            assert entry == Entry(cursor, missed, resumed=True, more=False)
            event("resumed")
        else:
            given = kept[-newest:] if newest else []
            assert entry == Entry(cursor, given, resumed=False, more=len(given) < len(kept))

    async def history(self, workspace: str, before: int, limit: int) -> None:
        older = [message for message in self.model.kept(workspace) if message.seq < before]
        page = older[-limit:] if limit else []
        expected = Page(page, more=len(page) < len(older))
        assert await self.store.history(workspace, before, limit) == expected

    async def since(self, workspace: str, after: int, upto: int) -> None:
        expected = [m for m in self.model.kept(workspace) if after < m.seq <= upto]
        assert await self.store.since(workspace, after, upto) == expected


@pytest.mark.parametrize("new_storage", ["sqlite", "postgres"], indirect=True)
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(keep=st.sampled_from([1, 2, 5, 9, 40]), steps=STEPS)
def test_any_sequence_of_calls_gives_what_the_model_gives(
    new_storage: Callable[[], Storage], keep: int, steps: list[tuple[Any, ...]]
) -> None:
    asyncio.run(Comparison(new_storage(), keep).run(steps))
