"""Training steps that ``sae_step`` compares: each a function that trains on one batch, made from one trained SAE."""

import copy
import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from saes.config import Selection, TrainConfig
from saes.losses import auxk, fvu
from saes.optimisers.adam import BETA1, EPS
from saes.sae import SAE
from saes.step import Training, step

Step = Callable[[Tensor], None]
LR = 1e-4


def floor_products(sae: SAE, dtype: torch.dtype) -> dict[str, Step]:
    """The encoder's product alone, in the layouts that torch offers: the fastest of them is the floor."""
    rows = sae.W_enc.data.T.contiguous().to(dtype)
    columns = rows.T.contiguous()
    kept: list[Tensor] = []

    def product(weights: Tensor) -> Step:
        def run(x: Tensor) -> None:
            if not kept:
                kept.append(x.new_empty(len(x), weights.shape[1], dtype=dtype))
            torch.mm(x if x.dtype == dtype else x.to(dtype), weights, out=kept[0])

        return run

    return {"latents in rows": product(rows.T), "latents in columns": product(columns)}


def ours(trained: Training, dead: Tensor, selection: Selection) -> Step:
    """Our step: AuxK on, with the given latents dead, clipping on, counters on."""
    config = dataclasses.replace(trained.config, selection=selection, dead_after_tokens=10**9)
    training = copied(trained, config)

    def run(x: Tensor) -> None:
        training.silent_tokens[dead] = 2 * 10**9  # AuxK would revive them
        looks, facts = training.looks, step(training, x, LR)
        assert not looks or facts.loss < float("inf")  # at other steps the GPU is not waited for

    return run


def copied(trained: Training, config: TrainConfig) -> Training:
    """Training that goes on from where another stands, without touching it."""
    made = Training(copy.deepcopy(trained.sae), config)
    made.restore(trained.state())
    return made


def dense(trained: Training, dead: Tensor) -> Step:
    """The same losses by plain autograd on dense tensors, with torch's clipping and Adam."""
    sae = copy.deepcopy(trained.sae).requires_grad_(True)
    optimiser = torch.optim.Adam(sae.parameters(), lr=LR, betas=(BETA1, trained.beta2), eps=EPS)
    is_dead = torch.zeros(sae.config.d_sae, dtype=torch.bool, device=dead.device)
    is_dead[dead] = True
    silent = torch.zeros(sae.config.d_sae, dtype=torch.long, device=dead.device)
    k = sae.config.k
    assert k is not None

    def run(x: Tensor) -> None:
        pre = torch.relu((x - sae.b_dec) @ sae.W_enc + sae.b_enc)
        values, indices = pre.topk(k, dim=-1, sorted=False)
        acts = torch.zeros_like(pre).scatter(-1, indices, values)
        x_hat = acts @ sae.W_dec + sae.b_dec
        k_aux = min(x.shape[1] // 2, len(dead))
        loss = fvu(x, x_hat) + trained.config.auxk_weight * auxk(x - x_hat, pre, is_dead, sae.W_dec, k_aux)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), trained.config.grad_clip)
        optimiser.step()
        with torch.no_grad():
            sae.W_dec.div_(sae.W_dec.norm(dim=-1, keepdim=True).clamp_min(1e-12))
            silent.add_(len(x))
            silent[(acts > 0).any(0)] = 0

    return run


def saelens(trained: Training, dead: Tensor, tokens: int) -> Step:
    """The step of SAELens' own trainer on its TopK SAE, with the same weights and the same dead latents.

    Raises:
        ImportError: SAELens is not installed.
    """
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    ours, device = trained.sae, str(trained.sae.W_dec.device)
    k = ours.config.k
    assert k is not None
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=ours.config.d_in, d_sae=ours.config.d_sae, k=k, device=device))
    sae.load_state_dict({name: p.data.contiguous() for name, p in ours.named_parameters()})
    config = SAETrainerConfig(
        total_training_samples=10**9,
        train_batch_size_samples=tokens,
        lr=LR,
        lr_end=LR,
        device=device,
        logger=LoggingConfig(log_to_wandb=False),
    )
    trainer = SAETrainer(config, sae, iter(()))

    def run(x: Tensor) -> None:
        trainer.n_forward_passes_since_fired[dead] = 1e9
        trainer.step(x)

    return run
