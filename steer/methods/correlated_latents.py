"""CorrSteer (arXiv 2508.12535): add the latents whose activation on generated tokens goes with right replies.

Of each SAE the latent with the highest Pearson correlation is taken, if it is positive, and added at generated tokens
with its mean activation on right replies.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from saes import SAE
from steer.checks import require_finite, require_whole
from steer.errors import DataError, PlanError
from steer.evals.runner import Result, evaluate
from steer.evals.sample import Sample
from steer.evals.scoring import judge
from steer.features.correlation import Correlation, Pooling, add_replies
from steer.methods.fitted import Fitted, about, check_prompts
from steer.models.batches import batches_of
from steer.models.decode import Sampling
from steer.models.model import LanguageModel
from steer.models.site import Site
from steer.steering.latents import LatentEdit
from steer.steering.steered import steered
from steer.steering.window import Window

Variant = Literal["single", "per_site", "pruned"]
Right = Callable[[Result], bool]


def counted(result: Result) -> bool:
    """What the judge counts: refused, or correct."""
    return result.score.value


@dataclass(frozen=True)
class CorrelatedConfig:
    """How latents are chosen and used."""

    variant: Variant = "per_site"
    """CorrSteer-S, -A and -P: the best latent of all SAEs (``single``), of each (``per_site``), or those of each that
    make more validation replies right when added alone (``pruned``)."""
    pooling: Pooling = "max"
    """Over the tokens of a reply (the paper takes the mean for GSM8K)."""
    strength: float = 1.0
    """Multiple of the mean activation that is added."""
    max_new_tokens: int = 64
    """Length limit of a reply."""
    batch_size: int = 128
    """Replies made together, at most."""
    window: Window = Window("generated")  # noqa: RUF009  # frozen
    """On which tokens; the paper acts on generated ones."""

    def __post_init__(self) -> None:
        for name, choices in (("variant", get_args(Variant)), ("pooling", get_args(Pooling))):
            if getattr(self, name) not in choices:
                raise PlanError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}.")
        require_finite("strength", self.strength, PlanError)
        require_whole("max_new_tokens", self.max_new_tokens, PlanError)
        require_whole("batch_size", self.batch_size, PlanError)


@dataclass(frozen=True)
class _Found:
    """The best latent of an SAE."""

    sae: SAE
    site: Site
    latent: int
    correlation: float
    coefficient: float

    def edit(self, config: CorrelatedConfig) -> LatentEdit:
        value = config.strength * self.coefficient
        return LatentEdit(self.sae, {self.latent: value}, self.site, "add", config.window)

    def row(self) -> dict[str, Any]:
        return {
            "site": str(self.site),
            "latent": self.latent,
            "correlation": self.correlation,
            "coefficient": self.coefficient,
        }


def fit(
    lm: LanguageModel,
    saes: Sequence[SAE],
    samples: Sequence[Sample],
    config: CorrelatedConfig | None = None,
    right: Right = counted,
    validation: Sequence[Sample] = (),
) -> Fitted:
    """Choose latents on the model's own greedy replies.

    Args:
        lm: the model.
        saes: one for each site, which their configs name.
        samples: prompts whose replies are judged; not of kind ``choice``, which have none.
        config: None: the defaults.
        right: which results count as right.
        validation: for the variant ``pruned``, samples of any kind.

    Raises:
        DataError: there are no samples, a sample has no reply to judge, replies are all right or all wrong, or no
            latent goes with right replies.
        PlanError: there is no SAE, two read the same site, or one does not say where it reads.
    """
    config = config or CorrelatedConfig()
    sites = _sites(lm, saes)
    check_prompts(samples=samples)
    if config.variant == "pruned":
        check_prompts(validation=validation)
    streams = _correlations(lm, saes, sites, samples, config, right)
    n, n_right = streams[0].n, streams[0].right
    if n_right in (0, n):
        raise DataError(
            f"{n_right} of {n} replies are right, so nothing can go with it. Give samples of both outcomes."
        )
    best = [_best(sae, site, stream) for sae, site, stream in zip(saes, sites, streams, strict=True)]
    chosen = [one for one in best if one.correlation > 0 and one.coefficient > 0]
    if not chosen:
        raise DataError("No latent goes with right replies. Give more samples, or another SAE.")
    if config.variant == "single":
        chosen = [max(chosen, key=lambda one: one.correlation)]
    record = {
        "method": "correlated-latents",
        "variant": config.variant,
        "pooling": config.pooling,
        "strength": config.strength,
        "replies": n,
        "right": n_right,
        "best": [one.row() for one in best],
        "prompts": about([sample.messages for sample in samples]),
    }
    if config.variant == "pruned":
        chosen, record["validation"] = _pruned(lm, chosen, config, right, validation)
    record["chosen"] = [one.row() for one in chosen]
    return Fitted(tuple(one.edit(config) for one in chosen), record)


def _sites(lm: LanguageModel, saes: Sequence[SAE]) -> list[Site]:
    if not saes:
        raise PlanError("Latents are chosen in SAEs: give at least one.")
    sites = [LatentEdit(sae, {0: 0.0}).site for sae in saes]
    if len(set(sites)) < len(sites):
        raise PlanError(f"One SAE for each site, got two at one of {', '.join(map(str, sites))}.")
    for sae, site in zip(saes, sites, strict=True):
        LatentEdit(sae, {0: 0.0}, site).check(lm.d_model)
    return sites


def _correlations(
    lm: LanguageModel,
    saes: Sequence[SAE],
    sites: Sequence[Site],
    samples: Sequence[Sample],
    config: CorrelatedConfig,
    right: Right,
) -> list[Correlation]:
    """One stream for each SAE, over the replies to all samples."""
    if choice := [sample.id for sample in samples if sample.kind == "choice"]:
        raise DataError(f"Sample {choice[0]!r} is scored by likelihood and has no reply. Leave out kind 'choice'.")
    streams = [Correlation(sae.config.d_sae) for sae in saes]
    prompts = lm.prompt_ids([sample.messages for sample in samples])
    held = [sae.on(lm.device) for sae in saes]
    for batch in batches_of([len(row) for row in prompts], config.batch_size):
        replies = lm.generate_ids([prompts[i] for i in batch], Sampling(config.max_new_tokens))
        texts = [lm.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in replies]
        outcomes = [
            right(Result(samples[i], text, judge(samples[i], text))) for i, text in zip(batch, texts, strict=True)
        ]
        add_replies(streams, lm, held, sites, [prompts[i] for i in batch], replies, outcomes, config.pooling)
    return streams


def _best(sae: SAE, site: Site, stream: Correlation) -> _Found:
    pearson, means = stream.pearson(), stream.mean_where_right()
    latent = int(pearson.argmax())
    return _Found(sae, site, latent, pearson[latent].item(), means[latent].item())


def _pruned(
    lm: LanguageModel,
    found: Sequence[_Found],
    config: CorrelatedConfig,
    right: Right,
    validation: Sequence[Sample],
) -> tuple[list[_Found], dict[str, Any]]:
    """Those that make more validation replies right when added alone."""

    def count(*edits: LatentEdit) -> int:
        with steered(lm, *edits):
            return sum(map(right, evaluate(lm, validation, config.max_new_tokens, config.batch_size)))

    before = count()
    after = [count(one.edit(config)) for one in found]
    kept = [one for one, number in zip(found, after, strict=True) if number > before]
    if not kept:
        raise DataError(
            f"No latent makes more of {len(validation)} validation replies right: {before} before, {max(after)} at "
            "most with one. Use the variant per_site, or more samples."
        )
    told = {
        "right_before": before,
        "right_with_each": after,
        "prompts": about([sample.messages for sample in validation]),
    }
    return kept, told
