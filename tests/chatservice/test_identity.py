"""Of a token's claims only well-formed ones are used."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatservice.identity import AuthError, Identity, identity_from
from chatservice.protocol import Person, encode

GOOD: dict[str, Any] = {"sub": "ada", "workspaces": ["w"], "exp": 2_000_000_000}


def refusal(**changes: Any) -> str:
    changed = GOOD | changes
    with pytest.raises(AuthError) as caught:
        identity_from({name: value for name, value in changed.items() if value is not ...})
    assert caught.value.status == 401
    return str(caught.value)


def test_the_name_is_the_user_where_there_is_none() -> None:
    for name in (..., None, "", "  "):
        given = GOOD if name is ... else GOOD | {"name": name}
        assert identity_from(given) == Identity(
            user="ada", name="ada", workspaces=frozenset({"w"}), exp=2_000_000_000
        )
    assert identity_from(GOOD | {"name": " Ada L. "}).name == "Ada L."


def test_users_and_names_may_be_in_any_script_up_to_200_characters() -> None:
    identity = identity_from(GOOD | {"sub": "ä" * 200, "name": "💬" * 200})
    assert (len(identity.user), len(identity.name)) == (200, 200)
    assert refusal(sub="ä" * 201) == "the token's sub is longer than 200 characters"
    assert refusal(name="💬" * 201) == "the token's name is longer than 200 characters"


@pytest.mark.parametrize("bad", ["a\nb", "a\0", "\x1b[2J", "\x7f", "\x85", "\ud800"])
def test_what_is_no_text_is_refused(bad: str) -> None:
    assert refusal(sub=bad) == "the token's sub has characters that are no text"
    assert refusal(name=bad) == "the token's name has characters that are no text"


@pytest.mark.parametrize("bad", [7, True, ["x"], {"a": 1}])
def test_a_name_must_be_a_text(bad: Any) -> None:
    assert refusal(name=bad) == "the token's name must be a text"


def test_an_empty_user_is_refused() -> None:
    assert refusal(sub="") == "the token's sub is empty"


@pytest.mark.parametrize("bad", [..., None, "w", {"w": 1}, ["w", 7], [None], 7])
def test_workspaces_must_be_a_list_of_texts(bad: Any) -> None:
    assert refusal(workspaces=bad) == "the token's workspaces must be a list of texts"


def test_no_workspaces_are_none() -> None:
    assert identity_from(GOOD | {"workspaces": []}).workspaces == frozenset()


@pytest.mark.parametrize(
    "bad",
    [
        "2000000000",
        True,
        None,
        [1],
        0,
        -1,
        253_402_300_800,
        1_900_000_000_000,
        float("inf"),
        float("nan"),
    ],
)
def test_an_absurd_expiry_is_refused(bad: Any) -> None:
    """Milliseconds above all, which would never expire."""
    assert refusal(exp=bad) == "the token's exp must be a number of seconds since 1970"


def test_a_fraction_of_a_second_is_cut_off() -> None:
    assert identity_from(GOOD | {"exp": 2_000_000_000.9}).exp == 2_000_000_000


@given(st.text(), st.text())
def test_whatever_is_taken_fits_a_frame(user: str, name: str) -> None:
    try:
        identity = identity_from(GOOD | {"sub": user, "name": name})
    except AuthError:
        return
    frame = encode(Person(identity.user, identity.name))
    assert msgspec.json.decode(frame, type=Person).user == user
