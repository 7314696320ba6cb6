"""What an SAE is and how it is trained, as frozen data checked at construction."""

import sys
from dataclasses import dataclass, replace
from typing import Literal, get_args

from saes.errors import ConfigError

Activation = Literal["topk", "batch_topk", "jumprelu", "relu"]
InputNorm = Literal["none", "layer_norm", "constant_norm"]
Selection = Literal["exact", "proven", "fast"]  # see TrainConfig
LrSchedule = Literal["linear", "cosine", "constant"]
OptimiserName = Literal["adam", "adam_bf16", "adam_8bit", "signum"]
ComputeDtype = Literal["float32", "bfloat16"]
BDecInit = Literal["mean", "geometric_median", "zero"]


ADAM_BETA2: dict[Activation, float] = {"topk": 0.95, "batch_topk": 0.95, "jumprelu": 0.95, "relu": 0.999}
"""Where none is given. 0.95 lowers the FVU of all, but of the latents of ReLU, whose penalty falls on all that are
active, it kills two to ten times as many (docs/quality.md)."""
MOST = 2**63
"""Whole numbers are less than this."""


def shortened(value: object) -> str:
    """A value as a message shows it; Python does not even write out whole numbers of thousands of digits."""
    return "a number of more than 300 digits" if isinstance(value, int) and abs(value) > 10**300 else repr(value)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _require_whole(config: object, *names: str, least: int = 1) -> None:
    for name in names:
        value = getattr(config, name)
        whole = isinstance(value, int) and not isinstance(value, bool)
        _require(
            whole and least <= value < MOST,
            f"{name} must be a whole number of at least {least}"
            + (", and less than 2^63, but is larger." if whole and value >= MOST else f", got {shortened(value)}."),
        )


def _require_finite(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(
            isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max,
            f"{name} must be a finite number, got {shortened(value)}.",
        )


@dataclass(frozen=True)
class SAEConfig:
    """What a sparse autoencoder computes, and what it was trained on."""

    d_in: int
    """Width of the activations it reads, in dimensions."""
    d_sae: int
    """Number of latents."""
    k: int | None = None
    """Latents active on one token (``topk``), or on average (``batch_topk``); None for the other activations."""
    model: str | None = None
    """Name of the language model whose activations it reads."""
    site: str | None = None
    """Where in the model it reads, for example ``1.resid_post``."""
    activation: Activation = "topk"
    """How active latents are selected; see ``saes.select``."""
    d_out: int | None = None
    """Width of what it writes, in dimensions; None: ``d_in``."""
    site_out: str | None = None
    """Where a transcoder's output belongs; None: an autoencoder, which writes what it reads."""
    skip: bool = False
    """Whether a linear map of the input is added to the output (skip transcoder, arXiv 2501.18823)."""
    prefixes: tuple[int, ...] = ()
    """Matryoshka: numbers of first latents that reconstruct on their own, rising, the last one ``d_sae``."""
    subtract_b_dec: bool = True
    """Whether the encoder reads the input less ``b_dec``."""
    input_norm: InputNorm = "none"
    """What is done to each token before the encoder and undone after the decoder; see ``saes.normalise``."""
    norm_eps: float = 1e-5
    """Added to each token's standard deviation before it is divided by it (``layer_norm``)."""
    revision: str | None = None
    """Revision of the language model."""
    token_policy: str | None = None
    """Which tokens it was trained on, in words."""
    input_scale: float = 1.0
    """Factor that activations were multiplied by in training; it is folded into the weights, which read raw ones."""

    def __post_init__(self) -> None:
        _require_whole(self, "d_in", "d_sae", *(name for name in ("k", "d_out") if getattr(self, name) is not None))
        for name in ("model", "site", "site_out", "revision", "token_policy"):
            value = getattr(self, name)
            _require(
                value is None or isinstance(value, str),
                f"{name} must be text or None, got {value!r}. A place in a model is written like '1.resid_post'.",
            )
        for name, choices in (("activation", get_args(Activation)), ("input_norm", get_args(InputNorm))):
            value = getattr(self, name)
            _require(value in choices, f"{name} must be one of {', '.join(choices)}, got {value!r}.")
        counted = self.activation in ("topk", "batch_topk")
        _require(
            counted == (self.k is not None),
            f"k goes with the activations topk and batch_topk: got k = {self.k} with {self.activation}. "
            + ("Give k." if counted else "Leave it out."),
        )
        _require(
            self.k is None or self.k <= self.d_sae,
            f"k must not exceed d_sae: got k = {self.k} with d_sae = {self.d_sae}. Lower k or widen the SAE.",
        )
        for name in ("skip", "subtract_b_dec"):
            _require(
                isinstance(getattr(self, name), bool), f"{name} must be true or false, got {getattr(self, name)!r}."
            )
        self._check_output()
        self._check_prefixes()
        _require_finite(self, "input_scale", "norm_eps")
        for name in ("input_scale", "norm_eps"):
            _require(getattr(self, name) > 0, f"{name} must be positive, got {getattr(self, name)!r}.")

    @property
    def width_out(self) -> int:
        """Width of what it writes, in dimensions."""
        return self.d_in if self.d_out is None else self.d_out

    @property
    def is_transcoder(self) -> bool:
        """Whether it writes something else than what it reads."""
        return self.site_out is not None or self.width_out != self.d_in or self.skip

    def _check_output(self) -> None:
        _require(
            not (self.is_transcoder and self.subtract_b_dec),
            "A transcoder's b_dec belongs to its output, so it cannot be subtracted from the input. "
            "Give subtract_b_dec=False.",
        )
        _require(
            not (self.is_transcoder and self.input_norm != "none"),
            f"A transcoder cannot undo a normalisation of its input in its output: got input_norm {self.input_norm!r}.",
        )

    def _check_prefixes(self) -> None:
        _require(
            isinstance(self.prefixes, tuple)
            and all(isinstance(one, int) and not isinstance(one, bool) for one in self.prefixes),
            f"prefixes must be a tuple of whole numbers, got {self.prefixes!r}.",
        )
        if self.prefixes:
            rising = all(a < b for a, b in zip((0, *self.prefixes), self.prefixes, strict=False))
            _require(
                rising and self.prefixes[-1] == self.d_sae,
                f"prefixes must rise from at least 1 to d_sae = {self.d_sae}, got {self.prefixes}.",
            )


@dataclass(frozen=True)
class TrainConfig:
    """How an SAE is trained. Where it says "scaled", activations have been scaled to a mean norm of sqrt(d_in)."""

    total_tokens: int
    """Tokens to train on; the stream of activations must not end earlier."""
    batch_tokens: int = 2048
    """Tokens per optimiser step."""
    lr: float | None = None
    """Peak learning rate; None: the optimiser's at 2^14 latents, divided by sqrt(d_sae / 2^14) (arXiv 2406.04093), and
    more of it in a short run; see ``saes.schedule.default_lr``."""
    lr_schedule: LrSchedule = "linear"
    """How the learning rate falls over ``decay_frac``: in a line, as half a cosine, or (``constant``) not at all."""
    warmup_frac: float = 0.05
    """Share of the tokens over which the learning rate rises from zero."""
    decay_frac: float = 0.2
    """Share of the tokens, at the end, over which it falls to zero."""
    optimiser: OptimiserName = "adam"
    """``adam``; ``adam_bf16`` with half the state; ``adam_8bit`` with a quarter; ``signum`` with one average alone."""
    adam_beta2: float | None = None
    """Share of its mean of squared gradients that Adam keeps at a step; None: that of the activation in ``ADAM_BETA2``.
    With the 0.999 of arXiv 1412.6980 it remembers the large gradients of the first steps for a thousand."""
    compute_dtype: ComputeDtype = "float32"
    """Dtype of the encoder's product; weights, sums and gradients are float32 anyway."""
    k_start: int | None = None
    """Active latents at the beginning, falling in a line to the SAE's k (``topk``, ``batch_topk``); None: k itself."""
    k_decay_frac: float = 0.1
    """Share of the tokens over which they fall."""
    auxk_weight: float = 1 / 32
    """Weight of the AuxK loss, which revives dead latents (arXiv 2406.04093, appendix A.2)."""
    dead_after_tokens: int | None = None
    """Tokens without firing after which a latent counts as dead; None: a twentieth of the run, at most 10 million (the
    number in arXiv 2406.04093)."""
    multi_topk_weight: float = 0.0
    """Weight of the FVU with 4 k latents (arXiv 2406.04093, section 5.3, where it is 1/8); 0: it is not computed."""
    l1_weight: float = 0.05
    """Weight of a token's summed latents over sqrt(d_in), both scaled, in the loss of ``relu``."""
    l0_weight: float = 1e-3
    """Weight of a token's number of active latents in the loss of ``jumprelu`` (arXiv 2407.14435)."""
    sparsity_warmup_frac: float = 0.05
    """Share of the tokens over which these two weights rise from zero."""
    jumprelu_threshold: float = 0.1
    """Thresholds of ``jumprelu`` at the beginning, scaled."""
    jumprelu_bandwidth: float = 0.1
    """Width of the window around a threshold in which pre-activations move it, scaled."""
    b_dec_init: BDecInit = "mean"
    """Where ``b_dec`` begins: at the mean or the geometric median of the first batch, or at zero."""
    outlier_norm: float | None = None
    """Tokens whose norm exceeds this many times the batch's median are left out of everything; None: none are."""
    grad_clip: float = 0.01
    """Largest norm of the whole gradient. That of the FVU is a few hundredths once training is under way, and far more
    in the first steps."""
    seed: int = 0
    """Seed of the initial weights."""
    measure_every_steps: int = 25
    """Steps between two lines of the training log."""
    selection: Selection = "exact"
    """How the k largest latents are found: ``exact``, by the product in float32; ``proven``, the same latents by way of
    bfloat16: all that can be among them, by a bound on what rounding does, are scored anew in float32; ``fast``, the
    same with six standard deviations of the rounding in place of the bound. The last two need a processor, or a GPU,
    that multiplies in bfloat16, and are exact elsewhere."""

    def __post_init__(self) -> None:
        _require_whole(self, "total_tokens", "batch_tokens", "measure_every_steps")
        _require_whole(self, *(name for name in ("k_start", "dead_after_tokens") if getattr(self, name) is not None))
        _require_whole(self, "seed", least=0)
        for name, kind in (
            ("lr_schedule", LrSchedule),
            ("optimiser", OptimiserName),
            ("compute_dtype", ComputeDtype),
            ("b_dec_init", BDecInit),
        ):
            value = getattr(self, name)
            _require(value in get_args(kind), f"{name} must be one of {', '.join(get_args(kind))}, got {value!r}.")
        shares = ("warmup_frac", "decay_frac", "k_decay_frac", "sparsity_warmup_frac")
        not_negative = ("auxk_weight", "multi_topk_weight", "l1_weight", "l0_weight", "jumprelu_threshold")
        positive = ("grad_clip", "jumprelu_bandwidth")
        optional = tuple(name for name in ("lr", "outlier_norm", "adam_beta2") if getattr(self, name) is not None)
        _require_finite(self, *shares, *not_negative, *positive, *optional)
        _require(
            self.total_tokens >= self.batch_tokens,
            f"total_tokens must cover at least one batch: got {self.total_tokens} tokens "
            f"for batches of {self.batch_tokens}.",
        )
        _require(self.lr is None or self.lr > 0, f"lr must be positive or None, got {self.lr!r}.")
        _require(
            self.adam_beta2 is None or 0 <= self.adam_beta2 < 1,
            f"adam_beta2 must be at least 0 and less than 1, or None: got {self.adam_beta2!r}.",
        )
        for name in shares:
            value = getattr(self, name)
            _require(0 <= value <= 1, f"{name} must lie between 0 and 1, got {value!r}.")
        _require(
            self.selection in get_args(Selection),
            f"selection must be one of {', '.join(get_args(Selection))}, got {self.selection!r}.",
        )
        for name in not_negative:
            _require(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)!r}.")
        for name in positive:
            _require(getattr(self, name) > 0, f"{name} must be positive, got {getattr(self, name)!r}.")
        _require(
            self.outlier_norm is None or self.outlier_norm > 1,
            f"outlier_norm must exceed 1, or half of the tokens are left out: got {self.outlier_norm!r}.",
        )

    def of(self, activation: Activation) -> "TrainConfig":
        """The same with what depends on the activation and was left open: ``adam_beta2``."""
        return self if self.adam_beta2 is not None else replace(self, adam_beta2=ADAM_BETA2[activation])

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.total_tokens // self.batch_tokens

    @property
    def dead_tokens(self) -> int:
        """``dead_after_tokens``, or what it is by default for a run of this length."""
        if self.dead_after_tokens is not None:
            return self.dead_after_tokens
        return max(1, min(self.total_tokens // 20, 10_000_000))
