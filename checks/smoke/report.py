"""What a run of the smoke test found: for people, for scripts, and for CI servers."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

Verdict = Literal["passed", "failed", "skipped"]

_MARKS: Final = {"passed": "✓", "failed": "✗", "skipped": "-"}
_COLOURS: Final = {"passed": "32", "failed": "31", "skipped": "33"}
_XML_DECLARATION: Final = '<?xml version="1.0" encoding="UTF-8"?>'
_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, not even escaped (https://www.w3.org/TR/xml/#charsets)."""


@dataclass(frozen=True)
class CheckResult:
    """The verdict of one check.

    Attributes:
        name: the check's stable slug.
        title: what is promised, as a plain sentence.
        verdict: passed, failed or skipped.
        seconds: how long it took.
        detail: what was measured; or what was expected and seen, and what to look at.
        measured: numbers by `name_unit`.
    """

    name: str
    title: str
    verdict: Verdict
    seconds: float
    detail: str
    measured: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """The results of one run, in the order in which the checks are listed.

    Attributes:
        url: what was tested.
        workspace: the name that all workspaces of the run begin with.
        users: how many simulated users talked to each other.
        results: one for each check.
        seconds: how long the run took, the cleaning included.
        warnings: what went wrong beside the service, such as a workspace that was left behind.
    """

    url: str
    workspace: str
    users: int
    results: tuple[CheckResult, ...]
    seconds: float
    warnings: tuple[str, ...] = ()

    @property
    def passed(self) -> int:
        """How many checks passed."""
        return len(self._with("passed"))

    @property
    def failed(self) -> int:
        """How many checks failed."""
        return len(self._with("failed"))

    @property
    def skipped(self) -> int:
        """How many checks were skipped."""
        return len(self._with("skipped"))

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        """The results that failed."""
        return self._with("failed")

    @property
    def ok(self) -> bool:
        """Whether the service may serve: nothing failed, and something passed."""
        return self.failed == 0 and self.passed > 0

    def _with(self, verdict: Verdict) -> tuple[CheckResult, ...]:
        return tuple(result for result in self.results if result.verdict == verdict)

    def to_dict(self) -> dict[str, Any]:
        """Give plain values under stable keys."""
        return {
            "ok": self.ok,
            "url": self.url,
            "workspace": self.workspace,
            "users": self.users,
            "passed": self.passed,
            "failed": self.failed,
            "skipped": self.skipped,
            "seconds": round(self.seconds, 3),
            "warnings": list(self.warnings),
            "results": [asdict(result) for result in self.results],
        }

    def to_json(self) -> str:
        """Give `to_dict` as JSON text."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=2)

    def to_junit(self) -> str:
        """Give JUnit XML, in the form that Jenkins, GitLab and GitHub's reporters read."""
        counts = {
            "tests": str(len(self.results)),
            "failures": str(self.failed),
            "errors": "0",
            "skipped": str(self.skipped),
            "time": f"{self.seconds:.3f}",
        }
        root = ElementTree.Element("testsuites", {"name": "smoke"} | counts)
        suite = ElementTree.SubElement(root, "testsuite", {"name": "smoke"} | counts)
        properties = ElementTree.SubElement(suite, "properties")
        for name in ("url", "workspace", "users"):
            value = _xml_text(str(getattr(self, name)))
            ElementTree.SubElement(properties, "property", name=name, value=value)
        for result in self.results:
            case = ElementTree.SubElement(
                suite,
                "testcase",
                classname="smoke",
                name=result.name,
                time=f"{result.seconds:.3f}",
            )
            detail = _xml_text(result.detail)
            if result.verdict == "failed":
                message = _xml_text(f"{result.title}: {detail.splitlines()[0] if detail else ''}")
                ElementTree.SubElement(case, "failure", message=message).text = detail
            elif result.verdict == "skipped":
                ElementTree.SubElement(case, "skipped", message=detail)
            else:
                ElementTree.SubElement(case, "system-out").text = detail
        if self.warnings:
            ElementTree.SubElement(suite, "system-err").text = _xml_text("\n".join(self.warnings))
        ElementTree.indent(root)
        return f"{_XML_DECLARATION}\n{ElementTree.tostring(root, encoding='unicode')}\n"

    def table(self, *, colour: bool = False) -> str:
        """Give a table for people: a mark, a title and a time for each check, then a summary."""
        width = max((len(result.title) for result in self.results), default=0)
        lines: list[str] = []
        for result in self.results:
            lines.append(result_line(result, width=width, colour=colour))
            if result.verdict == "failed":
                lines += [f"    {line}" for line in f"{result.name}: {result.detail}".splitlines()]
            elif result.measured:
                lines.append(f"    {result.detail}")
        lines += [f"! {warning}" for warning in self.warnings]
        verdict = _paint("passed", "32", colour) if self.ok else _paint("FAILED", "31", colour)
        lines.append(
            f"{verdict}: {self.passed} passed, {self.failed} failed, {self.skipped} skipped in "
            f"{duration(self.seconds)} ({self.users} users, {self.url}, workspace {self.workspace})"
        )
        return "\n".join(lines)


def result_line(result: CheckResult, *, width: int = 0, colour: bool = False) -> str:
    """Write one result as a line: a mark, the title padded to `width`, and the time or why not."""
    mark = _paint(_MARKS[result.verdict], _COLOURS[result.verdict], colour)
    if result.verdict == "skipped":
        return f"{mark} {result.title:<{width}}  skipped: {result.detail}"
    return f"{mark} {result.title:<{width}}  {duration(result.seconds):>7}"


def duration(seconds: float) -> str:
    """Write a duration for people: milliseconds below one second."""
    return f"{seconds * 1000:.0f} ms" if seconds < 0.9995 else f"{seconds:.2f} s"


def _paint(text: str, colour_code: str, colour: bool) -> str:
    return f"\x1b[{colour_code}m{text}\x1b[0m" if colour else text


def _xml_text(text: str) -> str:
    """Replace what XML cannot hold."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
