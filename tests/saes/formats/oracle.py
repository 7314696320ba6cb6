"""What the tests of the formats share: random weights, and the comparison of an SAE with numbers from elsewhere."""

from typing import Any

import torch

import saes
from saes import SAE, SAEConfig

D_IN, D_SAE, K = 12, 40, 5
TOLERANCE = 1e-5
Arrays = dict[str, torch.Tensor]


def random(seed: int = 0, d_in: int = D_IN, d_sae: int = D_SAE, d_out: int | None = None) -> Arrays:
    """Weights in our names and layout, float32; decoder rows have norms from about 0.6 to 1.4."""
    generator = torch.Generator().manual_seed(seed)
    d_out = d_in if d_out is None else d_out

    def draw(*shape: int, size: float = 1.0) -> torch.Tensor:
        return size * torch.randn(*shape, generator=generator)

    return {
        "W_enc": draw(d_in, d_sae, size=d_in**-0.5),
        "W_dec": draw(d_sae, d_out, size=d_out**-0.5),
        "b_enc": draw(d_sae, size=0.3),
        "b_dec": draw(d_out, size=0.3),
        "threshold": draw(d_sae, size=0.3).abs(),
        "W_skip": draw(d_in, d_out, size=0.2),
    }


def inputs(d_in: int = D_IN, n: int = 64) -> torch.Tensor:
    """Raw activations, with a mean and a scale of their own."""
    return 3 * torch.randn(n, d_in, generator=torch.Generator().manual_seed(9)) + 1


def topk(pre: torch.Tensor, k: int) -> torch.Tensor:
    """All but the k largest of each token set to zero, negative ones too."""
    best = pre.topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, best.indices, best.values.relu())


def jump(pre: torch.Tensor, threshold: torch.Tensor | float) -> torch.Tensor:
    """JumpReLU."""
    return pre.relu() * (pre > threshold)


def agree(sae: SAE, x: torch.Tensor, latents: torch.Tensor, output: torch.Tensor) -> None:
    """The SAE gives these latents and this output, to 1e-5; and the test is not about an SAE that is silent."""
    assert (latents > 0).any()
    codes = sae.encode(x.float())
    torch.testing.assert_close(codes.to_dense().double(), latents.double(), rtol=TOLERANCE, atol=TOLERANCE)
    torch.testing.assert_close(sae.decode(codes, x.float()).double(), output.double(), rtol=TOLERANCE, atol=TOLERANCE)
    assert all(tensor.dtype == torch.float32 for tensor in sae.state_dict().values())


def same(one: SAE, other: SAE, x: torch.Tensor | None = None) -> None:
    """Both SAEs give the same latents and outputs."""
    x = inputs(one.config.d_in) if x is None else x
    codes = one.encode(x)
    agree(other, x, codes.to_dense(), one.decode(codes, x))


def made(activation: str = "topk", seed: int = 0, **config: Any) -> SAE:
    """An SAE of random weights."""
    arrays = random(seed, d_out=config.get("d_out"))
    config = {
        "k": K if activation in ("topk", "batch_topk") else None,
        "model": "tiny",
        "site": "1.resid_post",
        **config,
    }
    sae = SAE(SAEConfig(D_IN, D_SAE, activation=activation, **config))
    if activation == "batch_topk":
        arrays["threshold"] = torch.tensor(0.35)
    sae.load_state_dict({name: arrays[name] for name in sae.state_dict()})
    return sae.requires_grad_(False)


def back(sae: SAE, path: Any, format: str) -> SAE:
    """Written in a format and read again, which recognises it by itself."""
    saes.save(sae, path, format)
    return saes.load(path)
