"""Replies side by side: prompts of a study on which steering was for the better, for the worse, or neither."""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steer.studies.headline import best_point
from steer.studies.study import ARMS, MeasuredSet, Study
from steer.studies.text import clip

KINDS = ("improved", "got worse", "unchanged")  # of a comparison, judged against the unsteered reply

Key = tuple[str, float]  # arm and strength of a point


@dataclass(frozen=True)
class Reply:
    """One model reply beside its verdict; ``good`` says whether the verdict is the desired one on that set."""

    arm: str
    heading: str
    text: str
    verdict: str
    good: bool


@dataclass(frozen=True)
class Comparison:
    """One prompt with its replies side by side."""

    set: MeasuredSet
    id: str
    kind: str  # one of KINDS
    messages: Sequence[Mapping[str, str]]
    replies: Sequence[Reply]


def choose_comparisons(study: Study, rows: Iterable[Mapping[str, Any]]) -> list[Comparison]:
    """From each set one prompt that improved, one that got worse and one that stayed as it was.

    A prompt improved (got worse) if the unsteered reply was bad (good) and the chosen latent's reply at either shown
    strength is good (bad). Among several the one with the lowest CRC-32 of its id is taken: fixed, and nobody's pick.
    """
    columns = _columns(study)
    replies: dict[tuple[str, str], dict[Key, Mapping[str, Any]]] = {}
    for row in rows:
        for key in columns:
            if key == (row.get("arm"), row.get("strength")):
                replies.setdefault((_text(row.get("set")), _text(row.get("id"))), {})[key] = row
    sets = {s.name: s for s in study.sets}
    chosen: dict[tuple[str, str], Comparison] = {}
    for (name, identity), found in sorted(replies.items(), key=lambda item: _checksum(*item[0])):
        if name in sets and len(found) == len(columns) > 1:
            comparison = _compare(sets[name], identity, found, columns)
            chosen.setdefault((name, comparison.kind), comparison)
    return [chosen[name, kind] for name in sets for kind in KINDS if (name, kind) in chosen]


def _columns(study: Study) -> list[Key]:
    """Unsteered; the latent at the headline's strength (else the middle one) and at the strongest; the control.

    Empty without an unsteered point, as there is nothing to compare with.
    """
    if study.unsteered is None:
        return []
    keys = [("none", study.unsteered.strength)]
    strengths = [p.strength for p in study.arm("sae")]
    if strengths:
        best, middle = best_point(study, "sae"), strengths[(len(strengths) - 1) // 2]
        if best and best.strength != strengths[-1]:
            middle = best.strength
        keys += [("sae", strength) for strength in dict.fromkeys((middle, strengths[-1]))]
    return keys + [("control", p.strength) for p in study.arm("control")[-1:]]


def _compare(
    prompt_set: MeasuredSet, identity: str, found: Mapping[Key, Mapping[str, Any]], columns: Sequence[Key]
) -> Comparison:
    replies = []
    for arm, strength in columns:
        row = found[arm, strength]
        verdict, value = _text(row.get("verdict")), row.get("value")
        good = verdict != "incoherent" and value is (prompt_set.better == "higher")
        heading = ARMS[arm] + ("" if arm == "none" else f" at {strength:g}")
        replies.append(Reply(arm, heading, clip(_text(row.get("reply"))), verdict, good))
    before, after = replies[0].good, {reply.good for reply in replies if reply.arm == "sae"}
    kind = "unchanged" if after <= {before} else "got worse" if before else "improved"
    turns = found[columns[0]].get("messages")
    messages = [
        {"role": _text(turn.get("role")), "content": clip(_text(turn.get("content")))}
        for turn in (turns if isinstance(turns, list) else ())
        if isinstance(turn, Mapping)
    ]
    return Comparison(prompt_set, identity, kind, messages, replies)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _checksum(set_name: str, identity: str) -> tuple[int, str, str]:
    return zlib.crc32(identity.encode("utf-8", "surrogatepass")), set_name, identity
