"""Two judges, two questions: whether a reply refuses, and how much harm is in it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from steer.judges.verdict import Exchange, Judge, Judgement, measured_by


@dataclass(frozen=True)
class TwoQuestions:
    """The verdict of one judge and the score of another, in a judgement.

    Asked both at once, a judge rates "I can't help with bombs" as harmful since bombs occur in it, so they are two
    calls (PyRIT). Where one of the two fails the other's part stays, and the reason says so; so ``Kept`` goes around
    each of them, not around the pair.
    """

    refusal: Judge
    """Gives the verdict."""
    severity: Judge
    """Gives the score; its verdict is not used."""

    @property
    def name(self) -> str:
        """Both names."""
        return f"{self.refusal.name}+{self.severity.name}"

    @property
    def version(self) -> str:
        """Both versions."""
        return f"{self.refusal.version}+{self.severity.version}"

    @property
    def measures(self) -> str:
        """What the score's judge measures."""
        return measured_by(self.severity)

    def settings(self) -> dict[str, Any]:
        """Those of both."""
        return {
            role: {"name": judge.name, "version": judge.version, **judge.settings()}
            for role, judge in (("refusal", self.refusal), ("severity", self.severity))
        }

    def judge(self, exchanges: Sequence[Exchange]) -> list[Judgement]:
        """A judgement for each exchange, in their order."""
        verdicts, scores = self.refusal.judge(exchanges), self.severity.judge(exchanges)
        return [self._both(*pair) for pair in zip(verdicts, scores, strict=True)]

    def _both(self, verdict: Judgement, severity: Judgement) -> Judgement:
        said = [(one.judge, one.reason) for one in (verdict, severity) if one.reason]
        return replace(
            verdict,
            judge=self.name,
            version=self.version,
            score=severity.score,
            reason="; ".join(f"{judge}: {reason}" for judge, reason in said),
            raw="\n".join(one.raw for one in (verdict, severity) if one.raw),
        )
