"""Training a top-k SAE on an iterator of activation tensors. It knows no language model."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from saes.config import SAEConfig, TrainConfig
from saes.errors import DivergedError, ShapeError
from saes.losses import auxk, fvu
from saes.sae import SAE
from saes.schedule import default_lr, lr_factor
from saes.shapes import Float, Tensor


@dataclass(frozen=True)
class TrainRecord:
    """One line of the training log."""

    tokens: int
    fvu: float
    l0: float
    dead_fraction: float
    loss: float
    seconds: float


def fit(
    config: SAEConfig,
    batches: Iterable[Float[Tensor, "_ d_in"]],
    train: TrainConfig,
    on_record: Callable[[TrainRecord], None] | None = None,
) -> SAE:
    """Train an SAE on ``train.steps`` batches of ``train.batch_tokens`` activations, shape [token, d_in].

    It is trained, and returned, on the device of the first batch.

    The same seed and the same batches give bit-identical weights on one machine. Inside, activations are scaled so that
    their mean norm in the first batch is sqrt(d_in), which makes one learning rate fit all models; the scale is folded
    into the biases at the end, so the SAE returned reads and writes raw activations.

    Raises:
        ShapeError: a batch has the wrong shape, holds NaN or infinite values or no variance, or the stream ends early.
        DivergedError: the loss is not finite.
    """
    sae = SAE(config, seed=train.seed)
    stream = checked(batches, config.d_in, train)
    optimizer = torch.optim.Adam(sae.parameters(), lr=0.0, betas=(0.9, 0.999), eps=1e-8, foreach=True)
    peak = train.lr if train.lr is not None else default_lr(config.d_sae)
    silent_tokens = torch.zeros(config.d_sae, dtype=torch.long)
    started = time.perf_counter()
    scale = 1.0

    for step in range(train.steps):
        x = next(stream)
        if step == 0:
            sae.to(x.device)
            silent_tokens = silent_tokens.to(x.device)
            scale = config.d_in**0.5 / x.norm(dim=-1).mean().item()
            with torch.no_grad():
                sae.b_dec.copy_(x.mean(0) * scale)
        x = x * scale

        pre = sae.pre_activations(x)
        values, indices = pre.topk(config.k, dim=-1, sorted=False)
        x_hat = torch.zeros_like(pre).scatter(-1, indices, values) @ sae.W_dec + sae.b_dec
        dead = silent_tokens > train.dead_after_tokens
        main = fvu(x, x_hat)
        loss = main + train.auxk_weight * auxk(x - x_hat, pre, dead, sae.W_dec, config.d_in // 2)
        if not torch.isfinite(loss):
            raise DivergedError(
                f"The loss became {loss.item()} at step {step} ({step * train.batch_tokens} tokens). "
                "Lower the learning rate or look at the activations for outliers."
            )

        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        _remove_radial_gradient(sae)
        torch.nn.utils.clip_grad_norm_(sae.parameters(), train.grad_clip)
        for group in optimizer.param_groups:
            group["lr"] = peak * lr_factor(step, train.steps, train.warmup_frac, train.decay_frac)
        optimizer.step()
        sae.normalise_decoder()

        fired = torch.zeros(config.d_sae, dtype=torch.bool, device=x.device)
        fired[indices[values > 0]] = True
        silent_tokens = torch.where(fired, 0, silent_tokens + len(x))

        last = step == train.steps - 1
        if on_record and (step % train.measure_every_steps == 0 or last):
            on_record(
                TrainRecord(
                    tokens=(step + 1) * train.batch_tokens,
                    fvu=main.item(),
                    l0=(values > 0).sum(-1).float().mean().item(),
                    dead_fraction=(silent_tokens > train.dead_after_tokens).float().mean().item(),
                    loss=loss.item(),
                    seconds=time.perf_counter() - started,
                )
            )
    _fold_scale(sae, scale)
    return sae.requires_grad_(False)


@torch.no_grad()
def _fold_scale(sae: SAE, scale: float) -> None:
    """Turn an SAE of activations times ``scale`` into one of the activations themselves.

    Encoder and decoder are linear up to the ReLU, so only the biases carry a scale.
    """
    sae.b_enc.div_(scale)
    sae.b_dec.div_(scale)


@torch.no_grad()
def _remove_radial_gradient(sae: SAE) -> None:
    """Take from the decoder's gradient what would only change the norm of its rows, which stays 1."""
    grad = sae.W_dec.grad
    assert grad is not None
    grad -= (grad * sae.W_dec).sum(-1, keepdim=True) * sae.W_dec


def checked(
    batches: Iterable[Float[Tensor, "_ d_in"]], d_in: int, train: TrainConfig
) -> Iterator[Float[Tensor, "_ d_in"]]:
    """The batches in float32, each checked for shape and content; see ``fit`` for the errors."""
    shape = (train.batch_tokens, d_in)
    for x in batches:
        if tuple(x.shape) != shape:
            raise ShapeError(f"A batch of activations must have shape {list(shape)}, got {list(x.shape)}.")
        x = x.detach().float()
        if not torch.isfinite(x).all():
            bad = (~torch.isfinite(x)).any(-1).sum().item()
            raise ShapeError(
                f"Activations must be finite: {bad} of {len(x)} tokens of a batch hold NaN or infinite values. "
                "Check the model's weights and its dtype (float16 overflows easily)."
            )
        if (x == x[0]).all():
            raise ShapeError("All activations of a batch are equal, so there is nothing to learn: check the site.")
        yield x
    raise ShapeError(
        f"The stream of activations ended before {train.steps} batches of {train.batch_tokens} tokens. "
        "Give more text or lower total_tokens."
    )
