"""What the check of coming back takes for a whole history."""

from __future__ import annotations

import pytest

from chatservice.protocol import Message
from checks.smoke.resume import goes_on


def messages(*numbers: int) -> list[Message]:
    return [Message(seq, f"id-{seq}", "ada", "Ada", "text", 0) for seq in numbers]


@pytest.mark.parametrize(
    ("page", "later", "whole"),
    [
        ((1, 2, 3), (), True),
        ((1, 2, 3), (4,), True),
        ((1, 2, 3), (4, 5), True),
        ((), (1,), True),
        ((), (), True),
        ((1, 2, 3), (3,), False),
        ((1, 2, 3), (5,), False),
        ((1, 2, 3), (2, 3), False),
        ((1, 2, 3), (4, 4), False),
        ((), (2,), False),
    ],
)
def test_messages_go_on_where_the_page_ended(
    page: tuple[int, ...], later: tuple[int, ...], whole: bool
) -> None:
    """What another node acknowledged a moment ago may come after; nothing twice, and no gap."""
    assert goes_on(messages(*page), messages(*later)) is whole
