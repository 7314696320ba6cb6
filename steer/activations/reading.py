"""From rows of tokens to activations: one pass of the model gives all sites, and layers above the last are not run."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steer.activations.ahead import Stop
from steer.activations.policy import TokenPolicy
from steer.activations.rows import Row, Rules, token_rows
from steer.activations.sources.source import Position, Source
from steer.checks import require_whole
from steer.errors import DataError
from steer.models.hooks import Attachment
from steer.models.model import LanguageModel
from steer.models.site import Site


@dataclass(frozen=True)
class Reading:
    """What is read of a model: where, and for which tokens."""

    sites: Site | str | Sequence[Site | str]
    """Where in the model; a site or its name, or several of them. ``all_sites`` has them as sites."""
    policy: TokenPolicy = TokenPolicy()  # noqa: RUF009  # frozen
    """Which tokens count."""
    forward_tokens: int = 8192
    """Tokens of one pass of the model at most, padding included (a longer row runs alone)."""
    window_rows: int = 256
    """Rows read together, so that rows of similar length share a pass."""

    def __post_init__(self) -> None:
        sites = self.all_sites
        if not sites or len(set(sites)) < len(sites):
            raise DataError(f"Name at least one site, and each once: got {', '.join(map(str, sites)) or 'none'}.")
        require_whole("forward_tokens", self.forward_tokens, DataError)
        require_whole("window_rows", self.window_rows, DataError)

    @property
    def all_sites(self) -> tuple[Site, ...]:
        """The sites, in the order in which they were given."""
        given = [self.sites] if isinstance(self.sites, Site | str) else self.sites
        return tuple(Site.parse(site) for site in given)


Block = Float[Tensor, "site token d_model"]
"""Activations of the tokens of one pass that count, in the order of ``Reading.all_sites``."""

Made = tuple[Block | int, Position]
"""What a pass of the model gives, and the position after it; the number of its tokens if another process makes it."""

_WAIT = 0.01  # seconds between looks at whether edits are off

START: Position = {"epoch": 0, "rows": None, "window": 0, "passes": 0, "norms": None}


def blocks(
    lm: LanguageModel,
    source: Source,
    reading: Reading,
    start: Position = START,
    endless: bool = True,
    edits: Sequence[Attachment] = (),
    stop: Stop | None = None,
) -> Iterator[tuple[Block, Position]]:
    """The activations of one pass after another, each with the position after it: ``model_passes`` without outliers.

    Raises:
        DataError: the source cannot be read, no token of it counts, or the model is edited.
        SiteError: the model lacks a site.
    """
    made = model_passes(lm, source, reading, start, endless, edits, stop=stop)
    whole = ((block, at) for block, at in made if not isinstance(block, int))  # all are made here
    return without_outliers(whole, reading.policy.max_norm_ratio, start)


def model_passes(
    lm: LanguageModel,
    source: Source,
    reading: Reading,
    start: Position = START,
    endless: bool = True,
    edits: Sequence[Attachment] = (),
    turn: int = 0,
    turns: int = 1,
    stop: Stop | None = None,
) -> Iterator[Made]:
    """One pass of the model after another; of every ``turns`` of them, only number ``turn`` is made here.

    Rows are taken in windows; in a window, rows of similar length share a pass, and the passes come in a random order
    that depends on the number of the window alone. A position names the window and how many of its passes are done, so
    going on tokenises one window again and nothing else.

    Whatever is attached to the model would be read too, so reading is an error while other edits than ``edits`` are. In
    a background thread, which gives ``stop``, it waits instead, until they are off or ``stop`` is set.

    Raises:
        DataError: the source cannot be read, no token of it counts, or the model is edited.
        SiteError: the model lacks a site.
    """
    rules = Rules.of(reading.policy, lm)
    for site in reading.all_sites:
        lm.layout.module(site)  # a site that is not there shows now
    at, done = start, 0
    while True:
        found = at["rows"] is not None
        rows = token_rows(lm, source, rules, at["rows"])
        while window := list(islice(rows, reading.window_rows)):
            passes = _passes([row for row, _ in window], reading.forward_tokens, at["window"])
            after = {**at, "rows": window[-1][1], "window": at["window"] + 1, "passes": 0}
            for number, batch in enumerate(passes[at["passes"] :], start=at["passes"] + 1):
                ours = done % turns == turn
                made = _block(lm, batch, reading.all_sites, edits, stop) if ours else sum(sum(r.counts) for r in batch)
                if made is None:
                    return
                found, done = True, done + 1
                at = after if number == len(passes) else {**at, "passes": number}
                yield made, at
            if not passes:
                at = after
        if not found:
            raise DataError(
                f"{source.name} holds no token that counts by the token policy. Give text of at least two tokens, or "
                "exclude fewer."
            )
        if not endless:
            return
        at = {**at, "epoch": at["epoch"] + 1, "rows": None}


def without_outliers(
    made: Iterator[tuple[Block, Position]], max_norm_ratio: float | None, start: Position = START
) -> Iterator[tuple[Block, Position]]:
    """Blocks less the tokens that ``TokenPolicy.max_norm_ratio`` leaves out; their positions keep the first medians.

    Raises:
        DataError: those medians are not finite.
    """
    norms = start["norms"]
    for block, at in made:
        if max_norm_ratio is None:
            yield block, at
            continue
        norms = norms or _median_norms(block)
        yield block[:, _ordinary(block, norms, max_norm_ratio)], {**at, "norms": norms}


def by_length(lengths: Sequence[int], most_tokens: int) -> list[list[int]]:
    """Indices of rows in batches of similar length, each of at most ``most_tokens`` tokens, padding included."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        # sorted, so the row added now is the longest of its batch and sets the padded length
        if not batches or (len(batches[-1]) + 1) * lengths[index] > most_tokens:
            batches.append([])
        batches[-1].append(index)
    return batches


def _passes(rows: Sequence[Row], most_tokens: int, number: int) -> list[list[Row]]:
    """The rows of window ``number`` that have a token that counts, in batches, in a random order."""
    rows = [row for row in rows if any(row.counts)]
    batches = by_length([len(row.ids) for row in rows], most_tokens)
    order = np.random.default_rng(number).permutation(len(batches))
    return [[rows[i] for i in batches[place]] for place in order]


def _block(
    lm: LanguageModel,
    rows: Sequence[Row],
    sites: Sequence[Site],
    edits: Sequence[Attachment],
    stop: Stop | None,
) -> Block | None:
    """Activations of the tokens of a batch that count; None if ``stop`` was set meanwhile."""
    tokens = lm.pad([row.ids for row in rows])
    longest = tokens.ids.shape[1]
    counts = torch.tensor([[False] * (longest - len(row.ids)) + row.counts for row in rows])
    places = counts.flatten().nonzero().squeeze(1).to(lm.device)  # a mask would make a GPU wait for its count
    while stop is None or not stop.is_set():
        with lm.lock:
            if lm.attachments == list(edits):
                found = lm.activations(tokens, sites)
                return torch.stack([found[site].flatten(0, 1)[places] for site in sites])
        if stop is None:
            raise edited_error()
        stop.wait(_WAIT)
    return None


def edited_error() -> DataError:
    """What a stream says that is asked to read an edited model."""
    return DataError(
        "Edits were put on the model, or taken off, after reading its activations began, so what follows would not be "
        "of the same model. Take batches outside of the block that steers, or open the stream inside of it."
    )


def _median_norms(block: Block) -> list[float]:
    medians: list[float] = block.float().norm(dim=-1).median(dim=-1).values.tolist()
    if not all(map(math.isfinite, medians)):
        raise DataError(
            f"max_norm_ratio needs finite activations, but the median norms of the first pass are {medians}. Check the "
            "model's weights and its dtype (float16 overflows easily)."
        )
    return medians


def _ordinary(block: Block, medians: Sequence[float], ratio: float) -> Bool[Tensor, " token"]:
    """The tokens to keep. Those that are not finite stay, so that the trainer says so rather than they vanish."""
    norms = block.float().norm(dim=-1)
    limits = ratio * torch.tensor(medians, device=norms.device).unsqueeze(-1)
    return ~((norms > limits) & norms.isfinite()).any(0)
