"""What a check has found, and how it is told."""

from dataclasses import asdict, dataclass, field
from typing import Literal

Verdict = Literal["ok", "suspicious", "wrong", "skipped"]


class DoesNotApplyError(Exception):
    """Raised by a check that has nothing to look at; its text says why."""


@dataclass(frozen=True)
class Finding:
    """The verdict of one check.

    figure: what was measured and, where there is one, the value that was expected; or why the check was skipped.
    advice: one sentence on the likely cause and what to look at, of what is suspicious or wrong.
    """

    verdict: Verdict
    figure: str
    advice: str = ""

    def line(self, name: str) -> str:
        return f"{self.verdict:<10}  {name:<17} {self.figure}" + (f"\n{'':12}{self.advice}" if self.advice else "")


def ok(figure: str) -> Finding:
    return Finding("ok", figure)


def wrong(figure: str, advice: str) -> Finding:
    return Finding("wrong", figure, advice)


def judged(figure: str, advice: str, *, wrong: object = False, suspicious: object = False) -> Finding:
    """The finding of a check that has one advice for both verdicts; `wrong` counts before `suspicious`."""
    verdict = "wrong" if wrong else "suspicious" if suspicious else "ok"
    return Finding(verdict, figure, "" if verdict == "ok" else advice)


@dataclass
class Report:
    """The findings by the name of the check, in the order in which they were made."""

    findings: dict[str, Finding] = field(default_factory=dict)

    @property
    def is_wrong(self) -> bool:
        return bool(self.names("wrong"))

    def names(self, *verdicts: Verdict) -> list[str]:
        """The checks with one of these verdicts."""
        return [name for name, finding in self.findings.items() if finding.verdict in verdicts]

    def as_json(self) -> list[dict[str, str]]:
        return [{"check": name, **asdict(finding)} for name, finding in self.findings.items()]

    def __str__(self) -> str:
        return "\n".join(finding.line(name) for name, finding in self.findings.items())
