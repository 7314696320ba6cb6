"""What an SAE is and how it is trained, as frozen data checked at construction."""

from dataclasses import dataclass

from saes.errors import ConfigError


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
    """A top-k sparse autoencoder (Gao et al., arXiv 2406.04093)."""

    d_in: int
    """Width of the activations, in dimensions."""
    d_sae: int
    """Number of latents."""
    k: int
    """Latents that may be active on one token."""
    model: str | None = None
    """Name of the language model whose activations it reads."""
    site: str | None = None
    """Where in the model it reads, for example ``1.resid_post``."""

    def __post_init__(self) -> None:
        _require_whole(self, "d_in", "d_sae", "k")
        for name in ("model", "site"):
            value = getattr(self, name)
            _require(
                value is None or isinstance(value, str),
                f"{name} must be text or None, got {value!r}. A place in a model is written like '1.resid_post'.",
            )
        _require(
            self.k <= self.d_sae,
            f"k must not exceed d_sae: got k = {self.k} with d_sae = {self.d_sae}. Lower k or widen the SAE.",
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
        _require(self.grad_clip > 0, f"grad_clip must be positive, got {self.grad_clip!r}.")

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.total_tokens // self.batch_tokens
