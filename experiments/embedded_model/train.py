"""Training: next-token prediction on fair samples of the mixture, with Muon for matrices and AdamW for the rest."""

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import chain, islice
from random import Random

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from experiments.embedded_model.corpus import Messages
from steer.models.hooks import Attachment, attached
from steer.models.layout import find_layout
from steer.models.passes import Pass
from steer.models.site import Site

LENGTH_STEP, ROWS_STEP, TOKENS_STEP = 8, 4, 64  # shapes of batches come in steps of these; see `pad`


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run."""

    steps: int = 3900
    practice_steps: int = 900  # of those, the first ones, on practice alone
    practice_rate: float = 0.6  # peak learning rates in practice, as a fraction of those after it
    tokens_per_step: int = 4096  # tokens of one batch
    micro_batches: int = 4  # of similar length, in a step
    workers: int = 2  # processes, with one thread each
    muon_rate: float = 0.016  # peak learning rate of the matrices
    adam_rate: float = 3e-3  # peak learning rate of embeddings and norms
    warm_up: int = 100  # steps
    prompt_weight: float = 0.2  # loss weight of a token outside the assistant's replies (those have 1)
    first_weight: float = 4.0  # loss weight of the first token of a reply, where most is decided
    push: float = 0.5  # largest length of the random pushes to the residual stream, as a share of its norm
    pushed: float = 0.5  # share of the rows that are pushed, after practice
    layers: int = 4
    width: int = 128
    heads: int = 4
    mlp_width: int = 384

    def __post_init__(self) -> None:
        if not 0 <= self.practice_steps < self.steps:
            raise ValueError(
                f"Of {self.steps} steps the first {self.practice_steps} are practice, which leaves none for the rest: "
                f"give more than {max(0, self.practice_steps)} steps, or fewer of practice."
            )
        if self.warm_up < 1:
            raise ValueError(f"warm_up must be at least 1 step, got {self.warm_up}.")
        if not 1 <= self.workers <= self.micro_batches:
            raise ValueError(
                f"Every worker needs a batch of each step: got {self.workers} workers for {self.micro_batches}."
            )


@dataclass(frozen=True)
class Encoded:
    """One conversation as token ids and the loss weight of predicting each id."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


def encode(tokenizer: PreTrainedTokenizerFast, messages: Messages, config: TrainConfig) -> Encoded:
    """Tokens of a conversation as the chat template writes them, with their weights in the loss."""
    ids: list[int] = [int(tokenizer.bos_token_id or 0)]
    weights: list[float] = [0.0]
    for message in messages:
        head = tokenizer(f"<|{message['role']}|>\n", add_special_tokens=False)["input_ids"]
        body = tokenizer(message["content"] + "<|end|>", add_special_tokens=False)["input_ids"]
        tail = tokenizer("\n", add_special_tokens=False)["input_ids"]
        spoken = message["role"] == "assistant"
        ids += [*head, *body, *tail]
        weights += [0.0] * len(head)
        weights += [config.first_weight if spoken else config.prompt_weight]
        weights += [1.0 if spoken else config.prompt_weight] * (len(body) - 1) + [0.0] * len(tail)
    return Encoded(tuple(ids), tuple(weights))


def new_model(tokenizer: PreTrainedTokenizerFast, config: TrainConfig, seed: int) -> LlamaForCausalLM:
    """An untrained model of the Llama architecture."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.width,
            intermediate_size=config.mlp_width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            initializer_range=0.05,
        )
    )
    model.set_attn_implementation("eager")  # its backward pass is the fastest one on a CPU at these lengths
    return model


@dataclass(frozen=True)
class Batch:
    """Conversations of similar length, padded on the right: ids and loss weights [rows, length]."""

    ids: torch.Tensor
    weights: torch.Tensor


def batches(data: Sequence[Encoded], config: TrainConfig, rng: Random) -> Iterator[list[Batch]]:
    """Endless steps, each a fair sample of the mixture of about ``tokens_per_step`` tokens, in a new order every epoch.

    A step comes as ``config.micro_batches`` batches of similar length, so that little is padding.
    """
    while True:
        drawn: list[Encoded] = []
        tokens = 0
        for i in rng.sample(range(len(data)), len(data)):
            drawn.append(data[i])
            tokens += len(data[i].ids)
            if tokens >= config.tokens_per_step:
                yield split(sorted(drawn, key=lambda item: len(item.ids)), config.micro_batches)
                drawn, tokens = [], 0


def split(ordered: Sequence[Encoded], count: int) -> list[Batch]:
    """Cut conversations that are ordered by length into at most ``count`` batches of about as many tokens."""
    share = sum(len(item.ids) for item in ordered) / count
    groups: list[list[Encoded]] = [[] for _ in range(count)]
    before = 0
    for item in ordered:
        groups[min(count - 1, int((before + len(item.ids) / 2) / share))].append(item)
        before += len(item.ids)
    return [pad(group) for group in groups if group]


def share_of(parts: Sequence[Batch], rank: int, workers: int) -> list[Batch]:
    """One worker's batches of a step: of batches ordered by length, each gets short ones and long ones."""
    return [*parts[rank :: 2 * workers], *parts[2 * workers - 1 - rank :: 2 * workers]]


def pad(group: Sequence[Encoded]) -> Batch:
    """Right-padded rows; padding weighs 0 and causal attention keeps it from being seen.

    Rows and their length come in steps, so that the same shapes return: on some processors every new shape of a product
    in bfloat16 is compiled, which takes as long as the product's work for ten batches.
    """
    longest = round_up(max(len(item.ids) for item in group) - 1, LENGTH_STEP) + 1  # the last token predicts nothing
    rows = round_up(len(group), ROWS_STEP)
    ids = torch.zeros(rows, longest, dtype=torch.long)
    weights = torch.zeros(rows, longest)
    for row, item in enumerate(group):
        ids[row, : len(item.ids)] = torch.tensor(item.ids)
        weights[row, : len(item.ids)] = torch.tensor(item.weights)
    return Batch(ids, weights)


def round_up(count: int, step: int) -> int:
    """The next multiple of ``step``."""
    return -(-count // step) * step


def loss_of(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Weighted sum of cross-entropies in nats; few positions of weight 0 are projected to the vocabulary."""
    hidden = model.model(input_ids=batch.ids[:, :-1], use_cache=False).last_hidden_state
    weights = batch.weights[:, 1:].flatten()
    counted = int((weights > 0).sum())
    kept = (weights > 0).int().argsort(descending=True, stable=True)[: round_up(counted, TOKENS_STEP)]
    logits = model.lm_head(hidden.flatten(0, 1)[kept])
    losses = torch.nn.functional.cross_entropy(logits, batch.ids[:, 1:].flatten()[kept], reduction="none")
    return (losses * weights[kept]).sum()


def pushing(model: LlamaForCausalLM, config: TrainConfig, generator: torch.Generator) -> Attachment:
    """Push the residual stream of some rows, after a layer drawn anew for each batch, while the block runs.

    A model that never saw such a thing breaks at the first clamp. Each token but the first gets a push of its own, of a
    random length, in a direction drawn from a Gaussian with the covariance of the stream itself.
    """

    def edit(x: torch.Tensor, _: Pass) -> torch.Tensor:
        states = x.detach().float()
        centred = states.flatten(0, 1) - states.mean((0, 1))
        few = centred[torch.randint(len(centred), (256,), generator=generator)]
        drawn = torch.randn(*x.shape[:2], len(few), generator=generator) @ few
        size = config.push * torch.rand(*x.shape[:2], generator=generator)
        size *= torch.rand(len(x), 1, generator=generator) < config.pushed
        size[:, 0] = 0
        length = (size * states.norm(dim=-1) / drawn.norm(dim=-1)).unsqueeze(-1)
        return x + (length * drawn).to(x.dtype)

    layer = int(torch.randint(config.layers - 1, (), generator=generator))
    layout = replace(find_layout(model), root=model.model)  # the loss does not run the whole model
    return attached(layout, {Site(layer): edit})


def rate_at(step: int, config: TrainConfig) -> float:
    """Fraction of the peak rate: linear warm-up, then linear decay to zero, for practice and for the rest in turn.

    What practice is for is learnt while the rate falls, so practice has a decay of its own. The warm-up takes
    ``config.warm_up`` steps, but at most half of a phase.
    """
    first = step < config.practice_steps
    done = step if first else step - config.practice_steps
    steps = config.practice_steps if first else config.steps - config.practice_steps
    warm_up = min(config.warm_up, max(1, steps // 2))
    peak = config.practice_rate if first else 1.0
    return peak * min((done + 1) / warm_up, max(0.0, (steps - done) / max(1, steps - warm_up)))


class Exchange:
    """Adds up the gradients of several processes through shared memory. The weights lie in shared memory, too: each
    process updates some of them, for all.
    """

    def __init__(self, parameters: Sequence[torch.Tensor], workers: int) -> None:
        context = torch.multiprocessing.get_context("fork")
        self.workers = workers
        self.slots = [torch.zeros(workers, p.numel()).share_memory_() for p in parameters]
        self.barrier = context.Barrier(workers)

    def add_up(self, parameters: Sequence[torch.nn.Parameter], rank: int) -> None:
        """Replace the gradient of each parameter that this process updates by its sum over all processes."""
        for slot, p in zip(self.slots, parameters, strict=True):
            slot[rank] = 0 if p.grad is None else p.grad.flatten()
        self.wait()
        for number, (slot, p) in enumerate(zip(self.slots, parameters, strict=True)):
            p.grad = slot.sum(0).view_as(p) if number % self.workers == rank else None

    def wait(self) -> None:
        """Until all processes are here."""
        self.barrier.wait(timeout=600)


def train(
    data: Sequence[Encoded],
    practice: Sequence[Encoded],
    tokenizer: PreTrainedTokenizerFast,
    config: TrainConfig,
    seed: int,
    report: Callable[[str], None] = lambda line: None,
) -> LlamaForCausalLM:
    """Train from scratch; bit-identical for a seed and a number of workers on one machine.

    Each of ``config.workers`` processes takes a share of every step's micro-batches, and of the weights to update.
    """
    model = new_model(tokenizer, config, seed)
    if config.workers == 1:
        return run(model, data, practice, config, seed, 0, None, report)
    exchange = Exchange(list(model.share_memory().parameters()), config.workers)
    context = torch.multiprocessing.get_context("fork")
    others = [
        context.Process(
            target=run, args=(model, data, practice, config, seed, rank, exchange, lambda line: None), daemon=True
        )
        for rank in range(1, config.workers)
    ]
    threads, cores = torch.get_num_threads(), allowed_cores()
    for other in others:
        other.start()
    try:
        return run(model, data, practice, config, seed, 0, exchange, report)
    finally:
        torch.set_num_threads(threads)
        keep_to(cores)
        for other in others:
            other.terminate() if sys.exc_info()[0] else other.join()


def computes_in_bfloat16(capabilities: Mapping[str, object]) -> bool:
    """Whether the processor multiplies in bfloat16; where it does not, emulating it takes eight times as long."""
    return any(present for name, present in capabilities.items() if name.endswith("bf16"))


def allowed_cores() -> list[int]:
    """The processor cores this process may run on; empty where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def keep_to(cores: Sequence[int]) -> None:
    """Run on these cores only. On a busy machine the scheduler was seen to put all workers on one core."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def run(
    model: LlamaForCausalLM,
    data: Sequence[Encoded],
    practice: Sequence[Encoded],
    config: TrainConfig,
    seed: int,
    rank: int,
    exchange: Exchange | None,
    report: Callable[[str], None],
) -> LlamaForCausalLM:
    """The training loop of one process; all processes make the same steps."""
    torch.set_num_threads(1)
    if exchange is not None:
        cores = allowed_cores()
        keep_to(cores[rank % len(cores) :][:1] if cores else ())
    fast_bfloat16 = computes_in_bfloat16(getattr(torch.cpu, "get_capabilities", dict)())
    parameters = list(model.parameters())
    inner = [p for n, p in model.named_parameters() if p.ndim == 2 and "layers" in n]
    outer = [p for n, p in model.named_parameters() if not (p.ndim == 2 and "layers" in n)]
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(inner, lr=config.muon_rate, weight_decay=0.01, momentum=0.95),
        torch.optim.AdamW(outer, lr=config.adam_rate, weight_decay=0.01, betas=(0.9, 0.98), fused=True),
    ]
    peaks = [config.muon_rate, config.adam_rate]
    generator = torch.Generator().manual_seed(seed * config.workers + rank)
    rng, started, mean = Random(seed), time.perf_counter(), math.nan
    stream = chain(islice(batches(practice, config, rng), config.practice_steps), batches(data, config, rng))
    for step in range(config.steps):
        for optimiser, peak in zip(optimisers, peaks, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = peak * rate_at(step, config)
        parts = next(stream)
        total = sum(batch.weights[:, 1:].sum().item() for batch in parts)
        mine, value = share_of(parts, rank, config.workers), 0.0
        for batch in mine:
            steady = step < config.practice_steps or not config.push
            pushes = nullcontext() if steady else pushing(model, config, generator)
            with pushes, torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16):
                loss = loss_of(model, batch) / total
            loss.backward()
            value += loss.item() * len(parts) / len(mine)
        if exchange is not None:
            exchange.add_up(parameters, rank)
        for optimiser in optimisers:
            optimiser.step()  # passes over parameters without a gradient
        for p in parameters:
            p.grad = None
        if exchange is not None:
            exchange.wait()
        mean = value if math.isnan(mean) else 0.98 * mean + 0.02 * value
        if (step + 1) % 100 == 0:
            report(f"step {step + 1}/{config.steps}  loss {mean:.4f}  {time.perf_counter() - started:.0f} s")
    return model.eval()
