"""Steered generation beside plain ``transformers`` generation, TransformerBridge, and sweeps beside separate runs.

``python -m experiments.benchmarks.steering --json`` times, in turns and in one process, replies of a fixed length to
the same prompts: without any hook by ``model.generate``; with one latent clamped; with another plan in every row; with
the same edit in a ``TransformerBridge``; and eight strengths in one call beside eight calls. Self-contrastive decoding
has the paper's safety text before its prompts, plain generation beside it has none. Ratios of tokens/s are to plain
generation (1: as fast; ``bridge_ratio``: ours to the bridge's); ``selfcd_ratio`` and ``sweep8_ratio`` are ratios of
times.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

from experiments.benchmarks.sae_step import device_name, versions
from saes.config import SAEConfig
from saes.sae import SAE
from steer.evals.sets import load_prompts
from steer.models.decode import Sampling
from steer.models.load import load_model
from steer.models.model import LanguageModel
from steer.models.site import Site
from steer.responders.self_contrastive import SelfContrastive
from steer.steering.branches import branched
from steer.steering.latents import Clamp
from steer.steering.rows import OnRows
from steer.steering.steered import steered

Run = Callable[[], Any]
STRENGTHS = [float(value) for value in range(1, 9)]


@dataclass(frozen=True)
class Case:
    """A model's shape and what it is asked."""

    rows: int = 8
    """Prompts in a batch."""
    prompt: int = 64
    """Tokens of each prompt."""
    new: int = 48
    """Tokens of each reply."""
    d_sae: int = 8192
    """Latents of the SAE, all of which are encoded; k is 32."""
    sweeps: tuple[int, ...] = (4, 8, 16, 32)
    """Prompts of the sweeps; ``sweep8_ratio`` is that of ``rows`` prompts."""


def llama(layers: int, width: int, vocabulary: int) -> LlamaForCausalLM:
    """A model of random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=1024,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


def phi3_mini(dtype: torch.dtype, device: str) -> Phi3ForCausalLM:
    """Random weights in the shape of Phi-3 mini."""
    torch.manual_seed(0)
    config = Phi3Config(vocab_size=32064, pad_token_id=0, bos_token_id=1, eos_token_id=None, dtype=dtype)
    with torch.device(device):
        model: Phi3ForCausalLM = Phi3ForCausalLM(config).eval()
    return model


def endless(lm: LanguageModel) -> LanguageModel:
    """The same model with no token that ends a reply, so that all replies are of one length."""
    tokenizer = copy.deepcopy(lm.tokenizer)
    pad = tokenizer.pad_token_id
    tokenizer.eos_token = None
    model: Any = copy.deepcopy(lm.model)
    model.generation_config = GenerationConfig(pad_token_id=pad, do_sample=False)
    found = LanguageModel(model, tokenizer, lm.name)
    assert not found.stop_ids()
    return found


def random_sae(lm: LanguageModel, d_sae: int, site: Site) -> SAE:
    """A top-k SAE of random weights, which costs what a trained one costs."""
    torch.manual_seed(1)
    sae = SAE(SAEConfig(lm.d_model, d_sae, 32, site=str(site), model=lm.name)).to(lm.device).requires_grad_(False)
    rows = torch.randint(5, min(lm.vocabulary or 1000, 1000), (8, 64)).tolist()
    sae.b_dec.copy_(lm.activations(lm.pad(rows), [site])[site].float().mean((0, 1)))  # as at the start of training
    return sae


def contenders(lm: LanguageModel, case: Case) -> dict[str, Run]:
    """What is timed, by name."""
    sampling, site = Sampling(max_new_tokens=case.new), Site(lm.n_layers // 2)
    sae = random_sae(lm, case.d_sae, site)
    generator = torch.Generator().manual_seed(2)
    highest = min(lm.vocabulary or 1000, 1000)
    prompts = torch.randint(5, highest, (max(case.rows, *case.sweeps), case.prompt), generator=generator).tolist()
    few = prompts[: case.rows]
    ids = torch.tensor(few, device=lm.device)
    generate: Any = lm.model.generate

    def plain() -> Any:
        with torch.inference_mode():
            return generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=case.new, do_sample=False)

    def ours() -> Any:
        return lm.generate_ids(few, sampling)

    def clamp() -> Any:
        with steered(lm, Clamp(sae, {3: 9.0})):
            return lm.generate_ids(few, sampling)

    def per_row() -> Any:
        plans = [OnRows(Clamp(sae, {3 + row: 5.0 + row}), [row]) for row in range(len(few))]
        with steered(lm, *plans):
            return lm.generate_ids(few, sampling)

    def separate(count: int) -> Any:
        for value in STRENGTHS:
            with steered(lm, Clamp(sae, {3: value})):
                lm.generate_ids(prompts[:count], sampling)

    def together(count: int) -> Any:
        ways = [[Clamp(sae, {3: value})] for value in STRENGTHS]
        with steered(lm, *branched(ways, count)):
            return lm.generate_ids(prompts[:count], sampling, copies=len(ways))

    sweeps: dict[str, Run] = {}
    for count in sorted({case.rows, *case.sweeps}):
        sweeps |= {f"separate {count}": partial(separate, count), f"together {count}": partial(together, count)}

    runs: dict[str, Run] = {"plain": plain, "ours_unsteered": ours, "clamp": clamp, "per_row": per_row}
    return runs | sweeps | self_contrastive(lm, case) | bridge(lm, sae, site, ids, case)


def self_contrastive(lm: LanguageModel, case: Case) -> dict[str, Run]:
    """Self-CD with the paper's safety text, and plain generation after the same conversations without it."""
    asked = [sample.messages[-1]["content"] for sample in load_prompts("looks_unsafe", split="dev")]
    texts = [" ".join(asked[4 * row : 4 * row + 4]) for row in range(case.rows)]
    tokens = lm.pad(lm.prompt_ids(texts))
    responder, sampling = SelfContrastive(lm), Sampling(max_new_tokens=case.new)
    generate: Any = lm.model.generate

    def plain() -> Any:
        with torch.inference_mode():
            return generate(tokens.ids, attention_mask=tokens.mask, max_new_tokens=case.new, do_sample=False)

    return {"selfcd_plain": plain, "selfcd": lambda: responder.reply(texts, sampling)}


def bridge(lm: LanguageModel, sae: SAE, site: Site, ids: Tensor, case: Case) -> dict[str, Run]:
    """The same clamp in TransformerLens' bridge."""
    try:
        from transformer_lens.model_bridge.sources import _bridge_builder as builder
    except ImportError:
        return {}
    model = copy.deepcopy(lm.model)
    wrapped = builder.build_bridge_from_module(
        model, type(model).__name__, hf_config=model.config, tokenizer=None, model_name="benchmark"
    )
    latents = torch.tensor([3], device=lm.device)

    def edit(x: Tensor, hook: Any) -> Tensor:
        now = sae.activations_of(x.float(), latents)
        return (x.float() + (9.0 - now) @ sae.W_dec[latents]).to(x.dtype)

    def run() -> Any:
        with torch.inference_mode(), wrapped.hooks(fwd_hooks=[(f"blocks.{site.layer}.hook_out", edit)]):
            return wrapped.generate(
                ids,
                max_new_tokens=case.new,
                do_sample=False,
                stop_at_eos=False,
                verbose=False,
                return_type="tokens",
            )

    return {"bridge": run}


def seconds_in_turns(runs: dict[str, Run], rounds: int, synchronise: Callable[[], None]) -> dict[str, list[float]]:
    """Seconds of each in each round, after one that does not count."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            synchronise()
            started = time.perf_counter()
            run()
            synchronise()
            if number:
                found[name].append(time.perf_counter() - started)
    return found


def paired(above: Sequence[float], below: Sequence[float]) -> float:
    """Median of the rounds' ratios."""
    return statistics.median(one / other for one, other in zip(above, below, strict=True))


def measure(lm: LanguageModel, case: Case, rounds: int) -> dict[str, Any]:
    """Ratios of one model."""
    synchronise = torch.cuda.synchronize if lm.device.type == "cuda" else lambda: None
    times = seconds_in_turns(contenders(lm, case), rounds, synchronise)
    found: dict[str, Any] = {
        "clamp_ratio": paired(times["plain"], times["clamp"]),
        "per_row_ratio": paired(times["plain"], times["per_row"]),
        "unsteered_ratio": paired(times["plain"], times["ours_unsteered"]),
        "bridge_ratio": paired(times["bridge"], times["clamp"]) if "bridge" in times else None,
        "selfcd_ratio": paired(times["selfcd"], times["selfcd_plain"]),
        "sweep8_ratio": paired(times[f"together {case.rows}"], times[f"separate {case.rows}"]),
        "sweep8_ratio_by_prompts": {
            count: paired(times[f"together {count}"], times[f"separate {count}"]) for count in case.sweeps
        },
    }
    found["plain_tokens_per_second"] = case.rows * case.new / statistics.median(times["plain"])
    found["seconds"] = {name: {"min": min(one), "median": statistics.median(one)} for name, one in times.items()}
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; cuda adds the shape of Phi-3 mini")
    parser.add_argument("--rows", type=int, default=Case.rows, help="prompts in a batch")
    parser.add_argument("--sweeps", default="4,8,16,32", help="prompts of the sweeps, separated by commas")
    parser.add_argument("--only", default="", help="one of the shapes")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    case = Case(rows=given.rows, sweeps=tuple(map(int, given.sweeps.split(","))))
    embedded = load_model("embedded", given.device)
    shapes: dict[str, Callable[[], LanguageModel]] = {
        "embedded (4 layers of 128)": lambda: endless(embedded),
        "12 layers of 512": lambda: endless(
            LanguageModel(llama(12, 512, len(embedded.tokenizer)).to(given.device), embedded.tokenizer, "random")
        ),
    }
    if given.device.startswith("cuda"):
        shapes["Phi-3 mini (random, bfloat16)"] = lambda: endless(
            LanguageModel(phi3_mini(torch.bfloat16, given.device), embedded.tokenizer, "random")
        )
    result: dict[str, Any] = {
        "shapes": {name: measure(make(), case, given.rounds) for name, make in shapes.items() if given.only in name},
        "case": vars(case),
        "rounds": given.rounds,
        "threads": given.threads,
        "device": device_name(torch.device(given.device)),
        "versions": versions(),
    }
    if given.json:
        print(json.dumps(result, indent=2))
        return
    for name, found in result["shapes"].items():
        print(name)
        for ratio, value in found.items():
            if ratio != "seconds":
                print(f"  {ratio:24s} {value}")


if __name__ == "__main__":
    main()
