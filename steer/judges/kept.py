"""Judgements kept on disk by content, so that no reply is judged twice by the same judge."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from steer.errors import DataError
from steer.files import write_text
from steer.judges.verdict import Exchange, Judge, Judgement, measured_by

_CHUNK = 32  # exchanges after which the judgements of a judge that gives all at once are kept


@dataclass(frozen=True)
class Kept:
    """A judge whose judgements are files in ``folder``, named by the SHA-256 of its settings and the exchange.

    A file is written under another name and moved into place, so one that is there is whole: a kill loses what has not
    been judged and nothing else, and several processes may share a folder (both may judge the same reply; either file
    is as good). What a judge failed on is not kept, and is tried again the next time. Replies are not stored.
    """

    of: Judge
    folder: Path

    @property
    def name(self) -> str:
        """The judge's."""
        return self.of.name

    @property
    def version(self) -> str:
        """The judge's."""
        return self.of.version

    def settings(self) -> dict[str, Any]:
        """The judge's."""
        return self.of.settings()

    @property
    def measures(self) -> str:
        """The judge's."""
        return measured_by(self.of)

    def judge(self, exchanges: Sequence[Exchange]) -> list[Judgement]:
        """A judgement for each exchange, in their order; equal exchanges are judged once.

        Raises:
            OutputError: the folder cannot be written to.
        """
        told = json.dumps([self.name, self.version, self.settings()], sort_keys=True, ensure_ascii=True)
        keys = [_key(told, exchange) for exchange in exchanges]
        found = {key: kept for key in set(keys) if (kept := self._read(key)) is not None}
        missing = {key: exchange for key, exchange in zip(keys, exchanges, strict=True) if key not in found}
        waiting = list(missing)
        for place, judgement in self._judged(list(missing.values())):
            key = waiting[place]
            found[key] = judgement
            if not failed(judgement):
                write_text(self._path(key), json.dumps(asdict(judgement), ensure_ascii=True, allow_nan=False) + "\n")
        return [found[key] for key in keys]

    def _judged(self, exchanges: list[Exchange]) -> Iterator[tuple[int, Judgement]]:
        """Places and judgements as they are done, if the judge gives them so, or in chunks."""
        if hasattr(self.of, "each"):
            yield from self.of.each(exchanges)
            return
        for start in range(0, len(exchanges), _CHUNK):
            yield from enumerate(self.of.judge(exchanges[start : start + _CHUNK]), start)

    def _read(self, key: str) -> Judgement | None:
        """A kept judgement; None where there is none, or the file is none of ours."""
        try:
            return Judgement(**json.loads(self._path(key).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, DataError, RecursionError):
            return None

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def failed(judgement: Judgement) -> bool:
    """Whether a judge came to nothing: no verdict and no score."""
    return judgement.verdict == "unscored" and judgement.score is None


def _key(told: str, exchange: Exchange) -> str:
    """SHA-256 of a judge and an exchange."""
    content: list[object] = [told, [dict(message) for message in exchange.messages], exchange.reply]
    if exchange.behaviour is not None:
        content.append(asdict(exchange.behaviour))
    return hashlib.sha256(json.dumps(content, ensure_ascii=True).encode()).hexdigest()
