"""What nodes say to each other fits into notifications, whole and in order."""

from __future__ import annotations

import json

import asyncpg
from hypothesis import event, given
from hypothesis import strategies as st

from chatservice.cluster import Committed, Here, Moved, Typed, Word
from chatservice.postgres_bus import CHANNEL, MAX_PAYLOAD, _decoder, _payloads, merged
from tests.postgres_server import PostgresServer

NODE = "host.example-0a1b2c3d"
TEXTS = st.builds(
    str.__mul__, st.sampled_from(["x", "é", '"', "\N{LINE SEPARATOR}"]), st.integers(0, 700)
)
WORDS: st.SearchStrategy[list[Word]] = st.lists(
    st.one_of(
        st.builds(Committed, TEXTS, st.integers(0, 2**53)),
        st.builds(Typed, TEXTS, TEXTS),
        st.builds(Here, TEXTS, TEXTS, TEXTS, st.booleans()),
        st.builds(Moved, TEXTS, TEXTS, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)),
    ),
    max_size=120,
)


@given(words=WORDS)
def test_any_words_are_split_into_payloads_that_postgresql_takes(words: list[Word]) -> None:
    payloads = list(_payloads(NODE, words))
    heard = [_decoder.decode(payload) for payload in payloads]
    assert [word for envelope in heard for word in envelope.words] == words
    assert {envelope.node for envelope in heard} <= {NODE}
    assert all(len(payload.encode()) <= MAX_PAYLOAD for payload in payloads)
    assert all(envelope.words for envelope in heard)
    event("payloads", len(payloads))


def test_payloads_are_as_few_as_can_be() -> None:
    words = [Committed(f"workspace-{number:04}", 1) for number in range(1000)]
    sizes = [len(payload) for payload in _payloads(NODE, words)]
    one = len(json.dumps(["c", "workspace-0000", 1], separators=(",", ":"))) + 1
    assert len(sizes) == -(-1000 * one // (MAX_PAYLOAD - 60))
    assert all(size > MAX_PAYLOAD - 100 for size in sizes[:-1])


def test_nothing_to_say_is_no_payload() -> None:
    assert list(_payloads(NODE, [])) == []


async def test_the_longest_payload_is_one_that_postgresql_takes(
    postgres_server: PostgresServer,
) -> None:
    connection = await asyncpg.connect(postgres_server.database())
    words = [Typed("w" * 64, "é" * 64) for _ in range(200)]
    longest = max(_payloads(NODE, words), key=lambda payload: len(payload.encode()))
    assert len(longest.encode()) > MAX_PAYLOAD - 300
    await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, longest)
    await connection.close()


def test_of_several_wake_ups_of_a_workspace_the_last_is_told() -> None:
    typed, here = Typed("w", "ann"), Here("w", "bob", "Bob", True)
    gone = Here("w", "bob", "Bob", False)
    words: list[Word] = [Committed("w", 1), typed, Committed("v", 7), here, Committed("w", 3), gone]
    assert merged(words) == [Committed("w", 3), Committed("v", 7), typed, here, gone]
