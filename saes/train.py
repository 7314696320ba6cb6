"""Training a top-k SAE on an iterator of activation tensors. It knows no language model."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from saes.batches import as_activations
from saes.config import SAEConfig, TrainConfig
from saes.errors import ConfigError, DivergedError, ShapeError
from saes.sae import SAE
from saes.schedule import default_lr, lr_factor
from saes.shapes import Float, Tensor
from saes.step import Training, step


@dataclass(frozen=True)
class TrainRecord:
    """One line of the training log."""

    tokens: int
    fvu: float
    l0: float
    dead_fraction: float
    loss: float
    seconds: float


@torch.inference_mode(False)
@torch.no_grad()
def fit(
    config: SAEConfig,
    batches: Iterable[Float[Tensor, "_ d_in"]],
    train: TrainConfig,
    on_record: Callable[[TrainRecord], None] | None = None,
) -> SAE:
    """Train an SAE on ``train.steps`` batches of ``train.batch_tokens`` activations, shape [token, d_in].

    It is trained, and returned, on the device of the first batch, also where the caller has switched gradients off.

    The same seed and the same batches give bit-identical weights on one machine. Inside, activations are scaled so that
    their mean norm in the first batch is sqrt(d_in), which makes one learning rate fit all models, however large or
    small their activations; the scale is folded into the biases at the end, so the SAE returned reads and writes raw
    activations.

    Raises:
        ConfigError: the SAE is of a kind that cannot be trained here.
        ShapeError: a batch has the wrong shape, holds NaN or infinite values or no variance, or the stream ends early.
        DivergedError: the loss is not finite.
    """
    _require_supported(config)
    stream = checked(batches, config.d_in, train)
    started = time.perf_counter()
    x = next(stream)
    scale = _Scale.of(x)
    sae = SAE(config, seed=train.seed).to(x.device)
    sae.b_dec.copy_(scale.shift(x).mean(0) * scale.factor)
    training = Training(sae, train)
    peak = train.lr if train.lr is not None else default_lr(config.d_sae)

    for number in range(train.steps):
        x = scale.apply(x if number == 0 else next(stream))
        facts = step(training, x, peak * lr_factor(number, train.steps, train.warmup_frac, train.decay_frac))
        if not math.isfinite(facts.loss):
            raise DivergedError(
                f"The loss became {facts.loss} at step {number} ({number * train.batch_tokens} tokens). "
                "Lower the learning rate or look at the activations for outliers."
            )
        if on_record and (number % train.measure_every_steps == 0 or number == train.steps - 1):
            on_record(
                TrainRecord(
                    tokens=(number + 1) * train.batch_tokens,
                    fvu=facts.fvu,
                    l0=facts.l0,
                    dead_fraction=training.dead.float().mean().item(),
                    loss=facts.loss,
                    seconds=time.perf_counter() - started,
                )
            )
    for bias in (sae.b_enc, sae.b_dec):  # encoder and decoder are linear up to the ReLU: only biases carry a scale
        bias.copy_(scale.undo(bias))
    return sae.requires_grad_(False)


def _require_supported(config: SAEConfig) -> None:
    plain = SAEConfig(config.d_in, config.d_sae, config.k if config.activation == "topk" else 1)
    for name in ("activation", "prefixes", "site_out", "d_out", "skip", "subtract_b_dec", "input_norm"):
        got, expected = getattr(config, name), getattr(plain, name)
        if got != expected and not (name == "d_out" and got == config.d_in):
            raise ConfigError(f"Training knows plain top-k autoencoders: got {name} = {got!r}, expected {expected!r}.")


@dataclass(frozen=True)
class _Scale:
    """The factor ``2^exponent * factor`` between raw activations and those that the SAE is trained on.

    In two parts, because activations near either end of float32's range have norms, and need factors, beyond it.
    Multiplying by a power of two is exact, so for ordinary activations nothing is rounded that would not be anyway.
    """

    exponent: int
    factor: float

    @classmethod
    def of(cls, x: Float[Tensor, "token d_in"]) -> "_Scale":
        """The scale that gives ``x`` a mean norm of sqrt(d_in)."""
        exponent = -math.frexp(x.abs().max().item())[1]
        norm = _times_power(x, exponent).norm(dim=-1).mean().item()
        return cls(exponent, x.shape[-1] ** 0.5 / norm)

    def shift(self, x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """``x`` with the power of two alone applied: values of about 1."""
        return _times_power(x, self.exponent)

    def apply(self, x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """From raw to scaled."""
        return self.shift(x) * self.factor

    def undo(self, x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """From scaled to raw."""
        return _times_power(x / self.factor, -self.exponent)


def _times_power(x: Float[Tensor, "*any"], exponent: int) -> Float[Tensor, "*any"]:
    """``x * 2^exponent``, in two steps, since the power alone may lie beyond float32."""
    half = exponent // 2
    return x * 2.0**half * 2.0 ** (exponent - half)


def checked(
    batches: Iterable[Float[Tensor, "_ d_in"]], d_in: int, train: TrainConfig
) -> Iterator[Float[Tensor, "_ d_in"]]:
    """The batches in float32, each checked for shape and content; see ``fit`` for the errors."""
    for x in batches:
        x = as_activations(x, d_in, train.batch_tokens)
        if (x == x[0]).all():
            raise ShapeError("All activations of a batch are equal, so there is nothing to learn: check the site.")
        yield x
    raise ShapeError(
        f"The stream of activations ended before {train.steps} batches of {train.batch_tokens} tokens. "
        "Give more text or lower total_tokens."
    )
