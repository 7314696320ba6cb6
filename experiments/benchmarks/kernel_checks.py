"""Every output of every kernel, and of the gradients of a whole step, against autograd in float64 on the same device.

``checks(device, size)`` gives for each the largest error, as a share of the largest value, and the limit that it must
keep. The kernels are those that training takes on that device.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from saes.config import SAEConfig, TrainConfig
from saes.gradients import gradients
from saes.gradients.sparse import MULTI
from saes.kernels import kernels_for
from saes.kernels.eager import AdamStep, WeightGrads
from saes.losses import auxk, fvu
from saes.sae import SAE
from saes.training import Training, weights

FLOAT, BFLOAT = 1e-4, 2.0**-7  # limits: sums in float32, also of another order; rounding to bfloat16


@dataclass(frozen=True)
class Size:
    """The tensors that are compared."""

    tokens: int
    d: int
    """Width of the activations."""
    d_sae: int
    k: int


@dataclass(frozen=True)
class Check:
    """One output."""

    name: str
    error: float
    """Largest difference, as a share of the largest value that is right."""
    limit: float

    @property
    def good(self) -> bool:
        """Whether it keeps the limit; NaN does not."""
        return self.error <= self.limit


def checks(device: torch.device, size: Size) -> Iterator[Check]:
    """All of them, with weights and activations in float32, and in bfloat16 where kernels take it."""
    on_gpu = device.type == "cuda"
    for dtype in (torch.float32, torch.bfloat16) if on_gpu else (torch.float32,):
        problem = Problem(device, size, dtype)
        name = str(dtype).removeprefix("torch.")
        for one in (*_selection(problem), *_reconstruction(problem), *_weight_gradients(problem)):
            yield Check(f"{one.name}, {name}", one.error, one.limit)
    yield from _adam(Problem(device, size, torch.float32))
    yield from _whole_step(device, size)


class Problem:
    """Random tensors, some values of which are zero."""

    def __init__(self, device: torch.device, size: Size, dtype: torch.dtype) -> None:
        self.size, self.kernels = size, kernels_for(device)
        self._generator, self._device = torch.Generator(device).manual_seed(0), device
        tokens, d, d_sae, k = size.tokens, size.d, size.d_sae, size.k
        self.x = self.normal(tokens, d).to(dtype)
        self.W_dec = torch.nn.functional.normalize(self.normal(d_sae, d), dim=-1).to(dtype)
        self.bias = self.normal(d).to(dtype)
        self.pre = self.normal(tokens, d_sae).to(dtype)
        self.indices = self.pre.float().topk(k).indices
        self.values = self.normal(tokens, k).relu().to(dtype)

    def normal(self, *shape: int) -> Tensor:
        """Random numbers in float32."""
        return torch.randn(*shape, generator=self._generator, device=self._device)


def compared(name: str, got: Tensor, wanted: Tensor, limit: float = FLOAT) -> Check:
    """The error of one output."""
    got, wanted = got.detach().double(), wanted.detach().double()
    return Check(name, ((got - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30)).item(), limit)


def _selection(p: Problem) -> Iterator[Check]:
    """Values in rising order, so that equal values may belong to any latent."""
    indices, values = p.kernels.topk(p.pre, p.size.k)
    wanted = p.pre.double().topk(p.size.k).values.sort().values
    yield compared("topk, values", values.sort().values, wanted, 0.0)
    yield compared("topk, indices", p.pre.gather(-1, indices).sort().values, wanted, 0.0)
    if p.x.dtype != torch.float32:
        return
    bias = 0.1 * p.normal(p.size.d_sae)
    pre = p.x.double() @ p.W_dec.double().T + bias.double()
    wanted = pre.topk(p.size.k).values.sort().values
    for selection in ("exact", "fast"):
        indices, values = p.kernels.encode_topk(p.x, p.W_dec.T, bias, p.size.k, selection)
        yield compared(f"encode_topk {selection}, values", values.sort().values, wanted)
        yield compared(f"encode_topk {selection}, indices", pre.gather(-1, indices).sort().values, wanted)


def _reconstruction(p: Problem) -> Iterator[Check]:
    for biased in (True, False):
        leaves = [one.double().requires_grad_() for one in (p.values, p.bias if biased else torch.zeros_like(p.bias))]
        out = _dense(p, leaves[0]) @ p.W_dec.double() + leaves[1]
        error = out - p.x.double()
        (0.15 * error.square().sum()).backward()
        scale = torch.full((), 0.3, device=p.x.device)
        made = p.kernels.reconstruct(p.indices, p.values, p.W_dec, p.bias if biased else None, p.x, scale)
        name = "reconstruct" if biased else "reconstruct without bias"
        yield compared(f"{name}, g", made.g, 0.3 * error, FLOAT if p.x.dtype == torch.float32 else BFLOAT)
        assert leaves[0].grad is not None
        yield compared(f"{name}, grads", made.grads, leaves[0].grad)
        yield compared(f"{name}, squares", made.squares, error.square().sum(-1))


def _weight_gradients(p: Problem) -> Iterator[Check]:
    grads, g = p.normal(*p.indices.shape), p.normal(p.size.tokens, p.size.d).to(p.x.dtype)
    # one latent fires on every token
    indices = p.indices.clone()
    indices[:, 0] = torch.where((indices[:, 1:] == 0).any(-1), indices[:, 0], 0)
    p.indices = indices
    shapes = ((p.size.d_sae, p.size.d), (p.size.d_sae, p.size.d), *[(p.size.d_sae,)] * 3)
    into = WeightGrads(*(torch.full(shape, torch.nan, device=p.x.device) for shape in shapes))
    decoder = _dense(p, p.values.double()).T @ g.double()
    encoder = _dense(p, grads.double()).T @ p.x.double()
    wanted = {
        "decoder": decoder,
        "encoder": encoder,
        "bias": _dense(p, grads.double()).sum(0),
        "radial": _dense(p, (p.values.double() * grads.double())).sum(0),
        "squares": decoder.square().sum(-1) + encoder.square().sum(-1),
    }
    for add, times in ((False, 1), (True, 2)):
        p.kernels.weight_grads(indices, p.values, grads, g, p.x, into, add)
        for name, tensor in wanted.items():
            factor = times**2 if name == "squares" else times
            yield compared(f"weight_grads{', added' * add}, {name}", getattr(into, name), factor * tensor)


def _adam(p: Problem) -> Iterator[Check]:
    for project in (True, False):
        weight = p.W_dec.clone()
        m, v = torch.zeros_like(weight), torch.zeros_like(weight)
        theirs = torch.nn.Parameter(weight.double())
        optimiser = torch.optim.Adam([theirs], lr=0.01, betas=(0.9, 0.99), eps=1e-8)
        clip = torch.full((), 0.5, device=weight.device)
        for number in range(1, 4):
            grad = p.normal(*weight.shape)
            p.kernels.adam_(weight, grad, m, v, AdamStep(0.01, 0.9, 0.99, 1e-8, number, clip), project)
            along = (grad.double() * theirs.data).sum(-1, keepdim=True) * theirs.data if project else 0.0
            theirs.grad = 0.5 * (grad.double() - along)
            optimiser.step()
            if project:
                theirs.data /= theirs.data.norm(dim=-1, keepdim=True)
        name = "adam_ with projection" if project else "adam_"
        state = optimiser.state[theirs]
        for part, got, wanted in (("p", weight, theirs), ("m", m, state["exp_avg"]), ("v", v, state["exp_avg_sq"])):
            yield compared(f"{name}, {part}", got, wanted)


def _whole_step(device: torch.device, size: Size) -> Iterator[Check]:
    """The gradients that a step finds, with AuxK and multi-top-k, against those of dense autograd in float64."""
    training = Training(SAE(SAEConfig(size.d, size.d_sae, size.k)).to(device), TrainConfig(
        10**6, size.tokens, auxk_weight=0.5, multi_topk_weight=1 / 8, dead_after_tokens=100
    ))  # fmt: skip
    generator = torch.Generator(device).manual_seed(1)
    with torch.no_grad():
        for name, weight in weights(training.sae).items():
            weight += 0.02 * torch.randn(weight.shape, generator=generator, device=device)
            if name == "W_dec":
                weight /= weight.norm(dim=-1, keepdim=True)
    training.silent_tokens[::5] = 10_000
    x = torch.randn(size.tokens, size.d, generator=generator, device=device) + 0.5
    with torch.no_grad():
        made = gradients(training, x, x)
    # the same latents as in float32: of pre-activations that are nearly equal, float64 may take others
    w = {name: weight.detach().double().requires_grad_() for name, weight in weights(training.sae).items()}
    with torch.no_grad():
        rough = (x - training.sae.b_dec) @ training.sae.W_enc + training.sae.b_enc
    pre = torch.relu((x.double() - w["b_dec"]) @ w["W_enc"].T + w["b_enc"])

    def reconstructed(k: int) -> Tensor:
        chosen = torch.zeros_like(pre).scatter(-1, rough.topk(k).indices, 1.0)
        return (pre * chosen) @ w["W_dec"] + w["b_dec"]

    x64, out = x.double(), reconstructed(size.k)
    loss = fvu(x64, out) + fvu(x64, reconstructed(min(MULTI * size.k, size.d_sae))) / 8
    loss = loss + 0.5 * auxk(x64 - out, pre, training.dead, w["W_dec"], max(1, size.d // 2))
    wanted = dict(zip(w, torch.autograd.grad(loss, list(w.values())), strict=True))
    yield compared("step, loss", made.facts.values[1], loss)
    for name, grad in wanted.items():
        yield compared(f"step, {name}", made.of[name], grad, 10 * FLOAT)


def _dense(p: Problem, values: Tensor) -> Tensor:
    """One column for each latent."""
    dense = torch.zeros(p.size.tokens, p.size.d_sae, dtype=values.dtype, device=values.device)
    return dense.scatter_add(-1, p.indices, values)
