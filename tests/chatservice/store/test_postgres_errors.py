"""What an operator reads of an error of PostgreSQL."""

from __future__ import annotations

import asyncpg

from chatservice.store.postgres_errors import store_error


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
