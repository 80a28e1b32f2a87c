"""What nodes that serve the same workspaces tell each other, and how a node hears it.

Messages and cursors are in the store; what is told is a wake-up with a number. Presence and typing
are told themselves. Words may be lost: with a connection (then the bus asks its listener to
`resync` from the store), or with a node that dies between a commit and its word (so the numbers are
also read every so often, with `newest`). Words of one node arrive in the order in which it told
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from typing import Protocol

import msgspec

from chatservice.store import Cursor


class _Word(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    workspace: str


class Committed(_Word, frozen=True, tag="c"):
    """Messages of this workspace are stored up to this number."""

    seq: int


class Moved(_Word, frozen=True, tag="m"):
    """A user has read; the unread count is as of number `upto`."""

    user: str
    read: int
    unread: int
    upto: int

    @property
    def cursor(self) -> Cursor:
        """What is told."""
        return Cursor(self.read, self.unread)


class Typed(_Word, frozen=True, tag="t"):
    """A user types."""

    user: str


class Here(_Word, frozen=True, tag="h"):
    """The node has devices of this user now, or (`present` false) none any more."""

    user: str
    name: str
    present: bool


Word = Committed | Moved | Typed | Here


class Listener(Protocol):
    """What a node does with what it hears. Called on its event loop; must not raise."""

    def heard(self, node: str, words: Sequence[Word]) -> None:
        """Another node said this."""

    def node_gone(self, node: str) -> None:
        """Another node ended, or its lease ran out."""

    def anew(self, node: str) -> None:
        """Another node may not have been heard; it has told all anew, and `presence_of` it."""

    def resync(self) -> None:
        """Words may have been lost, in both directions: read the store, and tell all anew."""


class Bus(Protocol):
    """The way to the other nodes. `node` is who this one is to them."""

    node: str

    async def start(self, listener: Listener) -> None:
        """Begin to listen and to hold the node's lease.

        Returns when the others can be told, or after a few seconds; then it goes on trying.
        """

    async def close(self) -> None:
        """Say goodbye: the others give the node's users their grace period."""

    def tell(self, word: Word) -> None:
        """Tell all other nodes, soon."""

    async def told(self) -> None:
        """Wait until everything told so far has reached the other nodes."""

    @property
    def others(self) -> Set[str]:
        """The other nodes that live, as far as is known; `node_gone` is told of each that goes."""

    def suspect(self, nodes: Iterable[str]) -> None:
        """Rooms have users of these nodes: `node_gone` is told of those that do not live, too."""

    async def newest(self, workspaces: Sequence[str]) -> dict[str, tuple[str, int]]:
        """Give `(epoch, seq)` of each of these workspaces, as stored.

        Raises:
            StoreError: it cannot be read.
        """

    async def present(self, workspace: str) -> list[tuple[str, str, str]]:
        """Give `(node, user, name)` of everybody whom other living nodes have in a workspace.

        Raises:
            StoreError: it cannot be read.
        """

    async def presence_of(self, node: str) -> set[tuple[str, str]]:
        """Give every `(workspace, user)` that another node has.

        Raises:
            StoreError: it cannot be read.
        """


class Alone:
    """The bus of a store that only one node can use."""

    node = ""

    async def start(self, listener: Listener) -> None:
        """There is nobody to listen to."""

    async def close(self) -> None:
        """There is nobody to say goodbye to."""

    def tell(self, word: Word) -> None:
        """There is nobody to tell."""

    async def told(self) -> None:
        """There is nothing to wait for."""

    @property
    def others(self) -> Set[str]:
        """There are none."""
        return frozenset()

    def suspect(self, nodes: Iterable[str]) -> None:
        """There are none."""

    async def newest(self, workspaces: Sequence[str]) -> dict[str, tuple[str, int]]:
        """Nobody else writes."""
        return {}

    async def present(self, workspace: str) -> list[tuple[str, str, str]]:
        """There is nobody else."""
        return []

    async def presence_of(self, node: str) -> set[tuple[str, str]]:
        """There is nobody else."""
        return set()
