"""Activations to train on in benchmarks: planted directions, and those of the embedded model; SAEs trained on them."""

from collections.abc import Iterator

import torch
from torch import Tensor

from saes.config import SAEConfig, Selection, TrainConfig
from saes.kernels import kernels_for
from saes.sae import SAE
from saes.schedule import lr_factor
from saes.step import Training, step

DIRECTIONS, ACTIVE, NOISE = 2048, 24, 0.05  # ground-truth directions, how many are active on a token on average
LR = 1e-3


def planted_batches(tokens: int, d_in: int, device: torch.device, seed: int = 0) -> Iterator[Tensor]:
    """Batches without end, [tokens, d_in]: sparse sums of random directions, a little noise; mean norm sqrt(d_in)."""
    generator = torch.Generator(device).manual_seed(seed)
    directions = torch.randn(DIRECTIONS, d_in, generator=generator, device=device)
    directions /= directions.norm(dim=-1, keepdim=True)
    scale = None
    while True:
        active = torch.rand(tokens, DIRECTIONS, generator=generator, device=device) < ACTIVE / DIRECTIONS
        sizes = torch.rand(tokens, DIRECTIONS, generator=generator, device=device)
        x = (active * sizes) @ directions + NOISE * torch.randn(tokens, d_in, generator=generator, device=device)
        scale = d_in**0.5 / x.norm(dim=-1).mean() if scale is None else scale
        yield x * scale


def embedded_batches(tokens: int) -> Iterator[Tensor]:
    """Batches without end, [tokens, 128]: activations of the embedded model, of mean norm sqrt(128)."""
    import steer

    lm = steer.load_model("embedded")
    reading = steer.Reading("2.resid_post", steer.TokenPolicy(form="documents"))
    config = steer.StreamConfig(batch_tokens=tokens, ring_tokens=8 * tokens)
    stream = steer.ActivationStream(lm, steer.open_source(steer.embedded_corpus()), reading, config)
    scale = None
    for x in stream.only():
        scale = x.shape[1] ** 0.5 / x.norm(dim=-1).mean() if scale is None else scale
        yield x * scale


def train(config: SAEConfig, batches: Iterator[Tensor], steps: int, selection: Selection = "exact") -> Training:
    """An SAE trained for so many batches, with all that a next step needs."""
    x = next(batches)
    settings = TrainConfig((steps + 1) * len(x), len(x), dead_after_tokens=20 * len(x), selection=selection)
    sae = SAE(config).to(x.device)
    sae.b_dec.data.copy_(x.mean(0))
    training = Training(sae, settings)
    for number in range(steps):
        step(training, x, LR * lr_factor(number, 2 * steps, 0.05, 0.0))
        x = next(batches)
    return training


@torch.no_grad()
def recalls(training: Training, x: Tensor) -> dict[str, float]:
    """Share of the k largest pre-activations, in float64, that each selection finds on a batch."""
    sae, k = training.sae, training.sae.config.k
    assert k is not None
    kernels = kernels_for(x.device)
    found: dict[Selection, list[Tensor]] = {"exact": [], "proven": [], "fast": []}
    for some in x.split(512):
        centred = some - sae.b_dec.data
        wanted = (centred.double() @ sae.W_enc.data.double() + sae.b_enc.data.double()).topk(k).indices
        for selection, hits in found.items():
            indices, _ = kernels.encode_topk(centred, sae.W_enc.data, sae.b_enc.data, k, selection)
            hits.append((indices.unsqueeze(-1) == wanted.unsqueeze(-2)).any(-1).float().mean(-1))
    return {selection: torch.cat(hits).double().mean().item() for selection, hits in found.items()}
