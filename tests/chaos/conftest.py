"""What the chaos tests share."""

from __future__ import annotations

import os
import random

import pytest


@pytest.fixture
def seed() -> int:
    """A seed that is new each time; CHAOS_SEED runs an old one again."""
    chosen = int(os.environ.get("CHAOS_SEED", random.randrange(2**32)))
    print(f"CHAOS_SEED={chosen}")
    return chosen
