"""What an operator reads of an error of PostgreSQL."""

from __future__ import annotations

import asyncpg
import pytest

from chatservice.store.postgres_errors import describe, store_error


def test_a_reason_of_several_lines_is_said_in_one() -> None:
    """Whoever shows the last line of what a program said shows all of it, the hint too."""
    error = asyncpg.ClientConfigurationError(
        'root certificate file "root.crt" does not exist', hint="Provide the file."
    )
    assert "\n" in str(error)
    assert str(store_error(error, "db:5432/chat")) == (
        "PostgreSQL at db:5432/chat: the address in the database_url secret cannot be used "
        '(root certificate file "root.crt" does not exist HINT: Provide the file.)'
    )


def test_a_server_without_tls_is_told_from_one_that_is_away() -> None:
    """It runs and can be reached: what was asked of it is the matter."""
    error = ConnectionError('PostgreSQL server at "db:5432" rejected SSL upgrade')
    assert str(store_error(error, "db:5432/chat")) == (
        "PostgreSQL at db:5432/chat: it offers no TLS: turn that on there, or look at sslmode in "
        'the database_url secret (PostgreSQL server at "db:5432" rejected SSL upgrade)'
    )


@pytest.mark.parametrize(
    ("dsn", "named"),
    [
        ("postgresql://chat:secret@db/chat", "db:5432/chat"),
        ("postgresql://chat:secret@db:6543/chat?sslmode=require", "db:6543/chat"),
        ("postgresql://chat:secret@[::1]:6543/chat", "[::1]:6543/chat"),
        ("postgresql://chat:secret@one:1,two,[::1]/chat", "one:1,two:5432,[::1]:5432/chat"),
        ("postgresql:///chat", "a local socket:5432/chat"),
        ("postgresql://chat:se/cret@db/chat", "an address that is not well written"),
        ("postgresql://chat:se?cret@db/chat", "an address that is not well written"),
        ("postgresql://chat:se#cret@db/chat", "an address that is not well written"),
    ],
)
def test_a_database_is_named_without_its_password(dsn: str, named: str) -> None:
    """Each of its servers is; an address whose password spills over is not quoted at all."""
    assert describe(dsn) == named
