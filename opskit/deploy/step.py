"""What a step of a deployment is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import StrEnum
from typing import ClassVar

from opskit.deploy.act import Part


class Order(StrEnum):
    """How a step goes over the nodes of an environment."""

    TOGETHER = "together"
    """On all at once: nodes do not notice each other."""
    IN_TURN = "in turn"
    """On one after the other: what fails on one has not touched the next."""
    ONCE = "once"
    """For all of them, through the first."""


class Step(ABC):
    """One step: it says what it does, does it, and can undo it, on one node.

    `undo` is also called when `apply` failed half-way, and may be called after an opskit that
    died: it looks at what is there, and never assumes that all of `apply` was done.
    """

    name: str
    order: ClassVar[Order] = Order.TOGETHER

    @abstractmethod
    def describe(self, part: Part) -> str:
        """Say what the step does, for the plan; one line."""

    def skip(self, part: Part) -> str:
        """Give the reason why there is nothing to do; empty when there is."""
        return ""

    @abstractmethod
    def apply(self, part: Part) -> str:
        """Do it, and say what came of it, in a few words.

        Raises:
            Failure: it was not done, or only in part.
        """

    def undo(self, part: Part) -> str:
        """Put back what was there before, and say so; empty when there was nothing to put back.

        Raises:
            Failure: it was not put back; a person is needed.
        """
        return ""
