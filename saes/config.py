"""What an SAE is and how it is trained, as frozen data checked at construction."""

from dataclasses import dataclass
from typing import Literal, get_args

from saes.errors import ConfigError

Activation = Literal["topk", "batch_topk", "jumprelu", "relu"]
InputNorm = Literal["none", "layer_norm", "constant_norm"]
Selection = Literal["exact", "proven", "fast"]  # see TrainConfig


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _require_whole(config: object, *names: str, least: int = 1) -> None:
    for name in names:
        value = getattr(config, name)
        _require(
            isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**63,
            f"{name} must be a whole number of at least {least}, got {value!r}.",
        )


def _require_finite(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(
            isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf"),
            f"{name} must be a finite number, got {value!r}.",
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
            isinstance(self.prefixes, tuple) and all(isinstance(one, int) for one in self.prefixes),
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
    """How an SAE is trained."""

    total_tokens: int
    """Tokens to train on; the stream of activations must not end earlier."""
    batch_tokens: int = 2048
    """Tokens per optimiser step."""
    lr: float | None = None
    """Peak learning rate of Adam; None: 2e-4 / sqrt(d_sae / 2^14), the width rule of arXiv 2406.04093."""
    warmup_frac: float = 0.05
    """Share of the steps over which the learning rate rises from zero."""
    decay_frac: float = 0.2
    """Share of the steps, at the end, over which it falls to zero."""
    auxk_weight: float = 1 / 32
    """Weight of the AuxK loss, which revives dead latents (arXiv 2406.04093, appendix A.2)."""
    dead_after_tokens: int = 100_000
    """Tokens without firing after which a latent counts as dead."""
    grad_clip: float = 1.0
    """Largest norm of the whole gradient."""
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
        _require_whole(self, "total_tokens", "batch_tokens", "dead_after_tokens", "measure_every_steps")
        _require_whole(self, "seed", least=0)
        rates = ("warmup_frac", "decay_frac", "auxk_weight", "grad_clip")
        _require_finite(self, *rates, *(() if self.lr is None else ("lr",)))
        _require(
            self.total_tokens >= self.batch_tokens,
            f"total_tokens must cover at least one batch: got {self.total_tokens} tokens "
            f"for batches of {self.batch_tokens}.",
        )
        _require(self.lr is None or self.lr > 0, f"lr must be positive or None, got {self.lr!r}.")
        for name in ("warmup_frac", "decay_frac"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"{name} must lie between 0 and 1, got {value!r}.")
        _require(self.auxk_weight >= 0, f"auxk_weight must not be negative, got {self.auxk_weight!r}.")
        _require(
            self.selection in get_args(Selection),
            f"selection must be one of {', '.join(get_args(Selection))}, got {self.selection!r}.",
        )
        _require(self.grad_clip > 0, f"grad_clip must be positive, got {self.grad_clip!r}.")

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.total_tokens // self.batch_tokens
