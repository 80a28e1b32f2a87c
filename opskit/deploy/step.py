"""What a step of a deployment is."""

from __future__ import annotations

from abc import ABC, abstractmethod

from opskit.deploy.act import Act


class Step(ABC):
    """One step: it says what it does, does it, and can undo it.

    `undo` is also called when `apply` failed half-way, and may be called after an opskit that
    died: it looks at what is there, and never assumes that all of `apply` was done.
    """

    name: str

    @abstractmethod
    def describe(self, act: Act) -> str:
        """Say what the step does, for the plan; one line."""

    def skip(self, act: Act) -> str:
        """Give the reason why there is nothing to do; empty when there is."""
        return ""

    @abstractmethod
    def apply(self, act: Act) -> str:
        """Do it, and say what came of it, in a few words.

        Raises:
            Failure: it was not done, or only in part.
        """

    def undo(self, act: Act) -> str:
        """Put back what was there before, and say so; empty when there was nothing to put back.

        Raises:
            Failure: it was not put back; a person is needed.
        """
        return ""
