"""What separates two sets of prompts: every latent tested, corrected for length, firing frequency and chance."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from steer.checks import require_finite, require_whole
from steer.errors import DataError
from steer.search.auc import auc_interval, auc_within, ranks_within, stratified_auc
from steer.search.permutation import LEVEL, Permutations, false_discovery, least_p, prompts_needed, weighted_ranks
from steer.search.pooled import Pooled
from steer.search.ranked import rarity
from steer.search.resplits import HELD_FROM, found_again, held_out
from steer.search.strata import Strata, strata_of

MOST_PERMUTATIONS = 100_000
MOST_RESPLITS = 10_000
_BLOCK = 4096  # latents in memory as a dense matrix at a time
_FIRING = 5  # prompts that a latent must fire on to be tested


@dataclass(frozen=True)
class ContrastConfig:
    """How two sets of prompts are compared."""

    permutations: int = 1_000
    """Exchanges of labels that every latent gets; those that few of them reach get up to ``MOST_PERMUTATIONS``,
    which is also the most that may be asked for."""
    fdr: float = 0.05
    """Latents are found at this false discovery rate; 1: all that fire more on the first set."""
    held_out_frac: float = 1 / 3
    """Share of each set that ranks and p-values do not see, for the AUC; not of sets of fewer than ``HELD_FROM``."""
    by_rarity: bool = True
    """Rank by effect times rarity, which is the correction for firing frequency; False: by effect."""
    resplits: int = 50
    """Other splits of the same size on which latents are ranked again, to see which would come first there too."""
    seed: int = 0
    """Of the split, the exchanges and the re-splits."""

    def __post_init__(self) -> None:
        require_whole("permutations", self.permutations, DataError, least=1_000)
        for name in ("resplits", "seed"):
            require_whole(name, getattr(self, name), DataError, least=0)
        for name, most in (("permutations", MOST_PERMUTATIONS), ("resplits", MOST_RESPLITS)):
            if (given := getattr(self, name)) > most:
                raise DataError(f"{name} must be at most {most:,}, got {given:,}. Lower it: more would tell no more.")
        for name in ("fdr", "held_out_frac"):
            require_finite(name, getattr(self, name), DataError)
        if not 0 < self.fdr <= 1 or not 0 <= self.held_out_frac <= 0.5:
            raise DataError(
                f"fdr must be above 0 and at most 1, held_out_frac from 0 to 0.5: got {self.fdr} and "
                f"{self.held_out_frac}."
            )


@dataclass(frozen=True)
class Contrasted:
    """The latents that were tested, in the order of their numbers, with the figures of each."""

    latents: Int[np.ndarray, " latent"]
    auc: Float[np.ndarray, " latent"]
    """The chance that a prompt of the first set has more of it than one of the second of similar length."""
    effect: Float[np.ndarray, " latent"]
    """``2 auc - 1``, from -1 to 1: Cliff's delta."""
    difference: Float[np.ndarray, " latent"]
    """Mean pooled activation on the first set less that on the second, in raw units."""
    firing_first: Float[np.ndarray, " latent"]
    """Share of the prompts of the first set on which it fires."""
    firing_second: Float[np.ndarray, " latent"]
    p: Float[np.ndarray, " latent"]
    """By exchanging labels within strata of similar length, two-sided."""
    q: Float[np.ndarray, " latent"]
    """False discovery rate at which it is found, over all latents tested."""
    score: Float[np.ndarray, " latent"]
    """What they are ranked by: the effect, times rarity unless ``by_rarity`` is off."""
    held_auc: Float[np.ndarray, " latent"]
    """The AUC on prompts that took no part in the above; NaN where none were held out."""
    held_low: Float[np.ndarray, " latent"]
    held_high: Float[np.ndarray, " latent"]
    """95 % interval of it (Newcombe 2006), for each latent on its own."""
    stable: Float[np.ndarray, " latent"]
    """Share of re-splits in which it is among the first (``steer.search.resplits``); NaN where that is not known."""
    n: tuple[int, int]
    """Prompts of each set that latents were tested on."""
    n_held: tuple[int, int]
    """Prompts of each set that were held out, and have one of their length in the other."""
    unmatched: tuple[int, int]
    """Prompts of each set of a length that the other lacks, which took no part."""
    strata: int
    """Groups of prompts of similar length."""
    notes: tuple[str, ...] = ()

    def order(self, fdr: float) -> Int[np.ndarray, " _"]:
        """Places of the latents that fire more on the first set and are found at the rate ``fdr``, best first."""
        found = np.flatnonzero((self.q <= fdr) & (self.effect > 0))
        ordered: Int[np.ndarray, " _"] = found[np.lexsort((self.latents[found], -self.score[found]))]
        return ordered


def contrast(
    pooled: Pooled,
    first: Bool[np.ndarray, " prompt"],
    config: ContrastConfig | None = None,
    density: Float[np.ndarray, " d_sae"] | None = None,
) -> Contrasted:
    """Test every latent for how well it tells the ``first`` prompts from the others.

    Length: prompts are compared with those of similar length alone (``length_strata``), in the AUC, in the p-value and
    in the held-out AUC, so that a latent that fires more only because the prompts of a set are longer gains nothing.
    Firing frequency: ranks do not depend on a latent's scale, and the effect counts times the latent's ``rarity``, by
    its ``density`` in other text where that is given, else by the share of these prompts' tokens. Chance: p-values by
    exchanging labels, false discovery rates over all latents tested. Latents that fire on fewer prompts than could
    tell are not tested; that choice does not see the labels.

    Raises:
        DataError: a set is empty, or has fewer prompts than a test needs.
    """
    config = config or ContrastConfig()
    _check_sizes(int(first.sum()), int((~first).sum()))
    held = held_out(pooled.lengths, first, config.held_out_frac, config.seed)
    strata = strata_of(~held, pooled.lengths, first)
    notes = []
    if not held.any() and config.held_out_frac:
        notes.append(f"no held-out AUC: with fewer than {HELD_FROM} prompts in a set, the test needs them all.")
    _check_strata(strata, first, pooled.lengths, ~held)
    n, unmatched = _counts(strata.used, first), _counts(strata.left, first)
    if sum(unmatched):
        notes.append(
            f"{unmatched[0]} of the first set's prompts and {unmatched[1]} of the second's have none of their length "
            "in the other set, and took no part: length alone would tell them apart."
        )
    latents = _tested(pooled, strata.used, min(_FIRING, *n))
    if not len(latents):
        raise DataError("No latent fires on enough of these prompts to be tested. Give more, or look at another part.")
    permuted = Permutations(first, strata.groups, config.permutations, MOST_PERMUTATIONS, config.seed)
    parts = [_block(pooled, first, strata, block, permuted) for block in _blocks(latents)]
    auc, difference, rate_first, rate_second = (np.concatenate(one) for one in zip(*parts, strict=True))
    p, _ = permuted.ps()
    notes += _too_few(least_p(first, strata.groups), config.fdr, len(latents))
    effect = 2 * auc - 1
    weight = (
        rarity(pooled.density if density is None else density)[latents] if config.by_rarity else np.ones(len(latents))
    )
    score = effect * weight
    held_auc, low, high, n_held = _held_auc(pooled, first, held, latents)
    return Contrasted(
        latents=latents, auc=auc, effect=effect, difference=difference, firing_first=rate_first,
        firing_second=rate_second, p=p, q=false_discovery(p), score=score,
        held_auc=held_auc, held_low=low, held_high=high,
        stable=found_again(
            pooled, first, latents, score, weight, config.held_out_frac, config.resplits, config.seed
        ),
        n=n, n_held=n_held, unmatched=unmatched, strata=len(strata.groups), notes=tuple(notes),
    )  # fmt: skip


def _too_few(least: float, fdr: float, tested: int) -> list[str]:
    """A note where no single latent could be found, however well it tells the sets apart."""
    if least <= fdr / tested:
        return []
    return [
        f"the smallest p possible with these prompts is {least:.2g}: for one latent alone to be found among "
        f"{tested:,} at a false discovery rate of {fdr:g}, each set needs about {prompts_needed(fdr, tested)} prompts "
        "of one length."
    ]


def _check_sizes(n_first: int, n_second: int) -> None:
    if not n_first or not n_second:
        raise DataError(f"Both sets need prompts: got {n_first} and {n_second}.")
    if min(n_first, n_second) < (needed := prompts_needed()):
        raise DataError(
            f"A contrast needs at least {needed} prompts in each set, got {n_first} and {n_second}: with fewer, no "
            f"difference could have a p-value below {LEVEL}."
        )


def _check_strata(strata: Strata, first: np.ndarray, lengths: np.ndarray, part: np.ndarray) -> None:
    if least_p(first, strata.groups) <= LEVEL:
        return
    ends = [f"{lengths[part & one].min()} to {lengths[part & one].max()}" for one in (first, ~first)]
    raise DataError(
        f"The lengths of the two sets' prompts overlap too little to tell anything from length: {ends[0]} and "
        f"{ends[1]} tokens. At least {prompts_needed()} prompts of each set must be about as long as ones of the other."
    )


def _tested(pooled: Pooled, used: Int[np.ndarray, " _"], least: int) -> Int[np.ndarray, " latent"]:
    firing = np.asarray((pooled.values[used] > 0).sum(0)).ravel()
    return np.flatnonzero(firing >= least)


def _block(
    pooled: Pooled,
    first: Bool[np.ndarray, " prompt"],
    strata: Strata,
    latents: Int[np.ndarray, " latent"],
    permuted: Permutations,
) -> tuple[np.ndarray, ...]:
    """AUC, difference and firing in each set of some latents, which are handed on to the permutations."""
    values = pooled.dense(latents)
    ranks = ranks_within(values, strata.groups)
    permuted.add(weighted_ranks(ranks, strata.groups))
    ones, others = strata.used[first[strata.used]], strata.used[~first[strata.used]]
    difference = values[ones].mean(0) - values[others].mean(0)
    auc = stratified_auc(ranks, first, strata.groups)
    return auc, difference, (values[ones] > 0).mean(0), (values[others] > 0).mean(0)


def _held_auc(
    pooled: Pooled, first: np.ndarray, held: Bool[np.ndarray, " prompt"], latents: Int[np.ndarray, " latent"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, int]]:
    strata = strata_of(held, pooled.lengths, first, 1)
    nothing = np.full(len(latents), np.nan)
    if not strata.groups:
        return nothing, nothing, nothing, (0, 0)
    n = _counts(strata.used, first)
    auc = np.concatenate([auc_within(pooled.dense(block), first, strata.groups) for block in _blocks(latents)])
    return auc, *auc_interval(auc, *n), n


def _blocks(latents: Int[np.ndarray, " latent"]) -> Iterator[Int[np.ndarray, " _"]]:
    for start in range(0, len(latents), _BLOCK):
        yield latents[start : start + _BLOCK]


def _counts(prompts: Int[np.ndarray, " _"], first: Bool[np.ndarray, " prompt"]) -> tuple[int, int]:
    return int(first[prompts].sum()), int((~first[prompts]).sum())
