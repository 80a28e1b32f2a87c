"""A copy of the chat service's source, for tests to change and break."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.service_process import REPOSITORY


class SourceTree:
    """What is deployed from `directory`; `pristine` is what it begins with."""

    directory: Path
    pristine: Path = REPOSITORY / "chatservice"

    def restore(self) -> None:
        """Make the source what it was at first."""
        source, skip = self.directory / "chatservice", shutil.ignore_patterns("__pycache__")
        shutil.rmtree(source, ignore_errors=True)
        shutil.copytree(self.pristine, source, ignore=skip)

    def edit(self, path: str, old: str, new: str) -> None:
        """Change the source of the chat service; fails when what is to be changed is not there."""
        file = self.directory / "chatservice" / path
        text = file.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{path} holds {old!r} {text.count(old)} times"
        file.write_text(text.replace(old, new), encoding="utf-8")

    def change(self, word: str) -> None:
        """Make the next release differ from the one before."""
        with (self.directory / "chatservice" / "__init__.py").open("a", encoding="utf-8") as file:
            file.write(f"# {word}\n")
