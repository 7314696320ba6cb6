"""Labels by a model: what a latent's examples have in common, and how well that predicts examples it has not seen.

Explanations are scored by detection and fuzzing (Paulo et al., arXiv 2410.13928): whether the explanation tells texts
on which the latent fires from others, and tokens on which it fires from others of the same texts.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool

from steer.checks import require_whole
from steer.errors import DataError
from steer.evals.stats import Rate
from steer.index.card import Card, Window
from steer.index.labels import Label
from steer.index.leaks import clean_label
from steer.index.read import FeatureIndex
from steer.judges.asked import Prompt, Request, Writer, Written
from steer.models.chat import Message

Test = Literal["detection", "fuzzing"]
KIND = "explained"
OPEN, CLOSE = "<<", ">>"  # around tokens on which a latent fires
_THOUGHTS = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)|\A.*?</think(?:ing)?>", re.IGNORECASE | re.DOTALL)
_ANSWER = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
_REASONING = re.compile(r"</?think|\b(?:let me|let's|i need to|i should|we need to|first, i|wait,)", re.IGNORECASE)
_EXPLAIN = (
    "Below are excerpts of texts. Words between << and >> are those on which one unit of a neural network fires. Say "
    "in one short phrase what they, or the texts around them, have in common. Write the phrase alone.\n\n"
)
_DETECT = (
    "A unit of a neural network is said to fire on: {explanation}\n\nDoes it fire somewhere in this excerpt? Answer "
    "yes or no.\n\n"
)
_FUZZ = (
    "A unit of a neural network is said to fire on: {explanation}\n\nAre the words between << and >> in this excerpt "
    "those on which it fires? Answer yes or no.\n\n"
)


@dataclass(frozen=True)
class ExplainConfig:
    """How latents are explained and explanations scored."""

    shown: int = 10
    """Windows that the explainer sees, the strongest and some of each stratum."""
    tested: int = 5
    """Windows of each kind (fires, does not) in each test, at most; none that the explainer saw."""
    firing_frac: float = 0.3
    """Tokens above this fraction of the latent's maximum are marked."""
    explanation_tokens: int = 60
    """Length limit of an explanation; an answer to a test gets 8, or this where the model reasons first."""
    longest: int = 200
    """Characters of a label; a longer one is taken for leaked reasoning."""
    seed: int = 0
    """Of the windows that are drawn."""

    def __post_init__(self) -> None:
        for name in ("shown", "tested", "explanation_tokens", "longest"):
            require_whole(name, getattr(self, name), DataError)
        if not 0 <= self.firing_frac < 1:
            raise DataError(f"firing_frac must be from 0 and below 1, got {self.firing_frac}.")


@dataclass(frozen=True)
class Explained:
    """What became of a latent."""

    latent: int
    label: Label | None
    """With the scores and their intervals; None where there is no explanation."""
    problem: str
    """Why there is none, or what is odd about it; empty if nothing."""
    tests: Mapping[Test, Rate]
    """Right answers of those that could be read, by test."""
    unread: int
    """Answers that were neither yes nor no: not counted as wrong."""


@dataclass(frozen=True)
class _Explanation:
    """What an explainer wrote of a latent."""

    text: str
    """The label; empty where there is none."""
    raw: str
    """The text as it came."""
    problem: str
    """Why there is no label, or what is odd about it; empty if nothing."""


@dataclass(frozen=True)
class _Question:
    """A question of a test of an explanation."""

    test: Test
    right: bool
    """Whether the right answer is yes."""
    request: Request


def explain(
    index: FeatureIndex, latents: Sequence[int], writer: Writer, config: ExplainConfig | None = None
) -> list[Explained]:
    """Explain latents and score the explanations; the labels are for ``index.add_labels``.

    ``writer`` is a model here (``steer.judges.generative``) or behind an endpoint (``steer.judges.endpoint``). Windows
    that the explainer sees are not tested on. Texts on which a latent does not fire are windows of other latents, of
    documents that none of its own windows is of.

    Raises:
        DataError: there is no such latent.
        ModelError: the endpoint cannot be reached, or refuses.
    """
    config = config or ExplainConfig()
    cards = [index.card(latent) for latent in latents]
    halves = [_split(card, config) for card in cards]
    pieces = index.renderer.pieces
    asked = [place for place, (shown, held) in enumerate(halves) if shown and held]
    requests = [_explaining([_marked(one, config, pieces) for one in halves[place][0]]) for place in asked]
    written = dict(_all(writer, requests, config.explanation_tokens))
    made = {place: _read(written[number], config) for number, place in enumerate(asked) if number in written}
    questions = [
        (place, question)
        for place, one in made.items()
        if one.text
        for question in _questions(index, cards[place], halves[place][1], one.text, config)
    ]
    answered = dict(_all(writer, [question.request for _, question in questions], max(8, config.explanation_tokens)))
    answers: dict[int, list[tuple[_Question, bool | None]]] = {place: [] for place in range(len(cards))}
    for number, (place, question) in enumerate(questions):
        answers[place].append((question, _answer(answered.get(number))))
    return [_explained(card, made.get(place), answers[place], writer, config) for place, card in enumerate(cards)]


def _all(writer: Writer, requests: Sequence[Request], tokens: int) -> Iterator[tuple[int, Written]]:
    if requests:
        yield from writer.write(requests, tokens)


def _split(card: Card, config: ExplainConfig) -> tuple[list[Window], list[Window]]:
    """Windows to show and windows to test on: every third is held out, so that both have all strata."""
    shown = [window for place, window in enumerate(card.windows) if place % 3 != 2]
    held = [window for place, window in enumerate(card.windows) if place % 3 == 2]
    return _spread(shown, config.shown), _spread(held, config.tested)


def _spread(windows: Sequence[Window], count: int) -> list[Window]:
    """So many of a list, evenly over it."""
    if len(windows) <= count:
        return list(windows)
    return [windows[round(place * (len(windows) - 1) / max(1, count - 1))] for place in range(count)]


def _fires(window: Window, config: ExplainConfig) -> Bool[np.ndarray, " token"]:
    """The tokens to mark: those near the window's own peak, which is always one."""
    found: Bool[np.ndarray, " token"] = window.activations > config.firing_frac * window.activations.max()
    found[window.peak] = True
    return found


def _marked(
    window: Window,
    config: ExplainConfig,
    pieces: Callable[[Sequence[int]], list[str]],
    marks: Bool[np.ndarray, " token"] | None = None,
) -> str:
    """The text of a window with marks around runs of tokens."""
    marks = _fires(window, config) if marks is None else marks
    texts, inside, found = pieces(window.token_ids.tolist()), False, []
    for text, mark in zip(texts, marks, strict=True):
        if mark != inside:
            found.append(OPEN if mark else CLOSE)
            inside = bool(mark)
        found.append(text.replace(OPEN, "< <").replace(CLOSE, "> >"))
    return "".join(found) + (CLOSE if inside else "")


def _explaining(excerpts: Sequence[str]) -> Request:
    listed = "\n\n".join(f"Excerpt {number}: {text}" for number, text in enumerate(excerpts, start=1))
    return _request(_EXPLAIN, listed)


def _request(question: str, text: str) -> Request:
    return Request(lambda shown: Prompt((Message(role="user", content=question + shown),)), text)


def _read(written: Written, config: ExplainConfig) -> _Explanation:
    """An explanation without what leaked into it; no label where that is reasoning."""
    raw = written.text.strip()
    if written.failure:
        return _Explanation("", raw, f"no explanation: {written.failure}")
    text = clean_label(raw)
    if not text:
        return _Explanation("", raw, "the explanation is empty but for what was taken off it")
    if len(text) > config.longest or _REASONING.search(text):
        return _Explanation("", raw, "reasoning leaked into the explanation")
    told = {
        written.note: bool(written.note),
        f"the explanation was cut off at {config.explanation_tokens} tokens": written.cut,
        "what the explainer said around the label was taken off": text != raw,
    }
    return _Explanation(text, raw, "; ".join(note for note, applies in told.items() if applies))


def _questions(
    index: FeatureIndex, card: Card, held: Sequence[Window], text: str, config: ExplainConfig
) -> Iterator[_Question]:
    """Questions about the explanation ``text``: of windows that are ``held`` out, and of other latents' windows."""
    pieces = index.renderer.pieces
    generator = np.random.default_rng([config.seed, card.latent])
    others = _elsewhere(index, card, len(held), generator)
    for window, fires in [*((one, True) for one in held), *((one, False) for one in others)]:
        request = _request(_DETECT.format(explanation=text), "".join(pieces(window.token_ids.tolist())))
        yield _Question("detection", fires, request)
    for window in held:
        marks = _fires(window, config)
        free = np.flatnonzero(window.activations <= 0)
        request = _request(_FUZZ.format(explanation=text), _marked(window, config, pieces))
        yield _Question("fuzzing", True, request)
        if len(free) >= marks.sum():
            wrong = np.zeros(len(marks), dtype=bool)
            wrong[generator.choice(free, int(marks.sum()), replace=False)] = True
            request = _request(_FUZZ.format(explanation=text), _marked(window, config, pieces, wrong))
            yield _Question("fuzzing", False, request)


def _elsewhere(index: FeatureIndex, card: Card, count: int, generator: np.random.Generator) -> list[Window]:
    """Windows of other latents, of documents that none of this one's windows is of."""
    own = {window.document for window in card.windows}
    found: list[Window] = []
    for latent in generator.permutation(index.d_sae)[: 20 * count].tolist():
        if len(found) == count:
            break
        windows = (
            [one for one in index.card(latent).windows if one.document not in own] if latent != card.latent else []
        )
        if windows:
            found.append(windows[int(generator.integers(len(windows)))])
    return found


def _answer(written: Written | None) -> bool | None:
    """Yes or no; None where neither can be read."""
    if written is None or written.failure:
        return None
    match = _ANSWER.search(_THOUGHTS.sub("", written.text))
    return None if match is None else match[1].lower() == "yes"


def _explained(
    card: Card,
    made: _Explanation | None,
    answers: Sequence[tuple[_Question, bool | None]],
    writer: Writer,
    config: ExplainConfig,
) -> Explained:
    """A latent's label with its scores; ``answers``: yes or no to each question about it, None where unread."""
    if made is None:
        few = f"it has {len(card.windows)} windows, of which some must be shown and some held out"
        return Explained(card.latent, None, few if len(card.windows) < 3 else "no answer", {}, 0)
    if not made.text:
        return Explained(card.latent, None, made.problem, {}, 0)
    right: dict[Test, list[bool]] = {"detection": [], "fuzzing": []}
    for question, answer in answers:
        if answer is not None:
            right[question.test].append(answer == question.right)
    unread = sum(answer is None for _, answer in answers)
    tests = {test: Rate(sum(found), len(found)) for test, found in right.items() if found}
    scores: dict[str, float] = {}
    for test, rate in tests.items():
        low, high = rate.interval or (0.0, 1.0)
        scores |= {test: float(rate.rate or 0.0), f"{test}_low": low, f"{test}_high": high, f"{test}_n": float(rate.n)}
    more: dict[str, Any] = {"explainer": dict(writer.settings()), "config": asdict(config), "unread": unread}
    problem = made.problem
    if unread:
        problem = "; ".join(filter(None, (problem, f"{unread} of {len(answers)} answers were neither yes nor no")))
    label = Label(card.latent, made.text, writer.name, KIND, None if made.raw == made.text else made.raw, scores, more)
    return Explained(card.latent, label, problem, tests, unread)
