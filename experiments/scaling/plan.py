"""A training run on paper: memory of a GPU, what the GPUs exchange at each step, and the tokens/s to expect.

``python -m experiments.scaling.plan`` prints the table of ``docs/scaling.md``, with ``--json`` all of its numbers;
every assumption is an option. Memory is that of the code as it is (a test holds it to that); times are bytes
and operations over assumed rates, one after the other, with nothing overlapped. Nothing here has been measured.
"""

import argparse
import json
from dataclasses import asdict, dataclass, fields
from typing import Any

FLOAT, HALF, LONG = 4, 2, 8  # bytes
STATE = {"adam": 8, "adam_bf16": 4, "adam_8bit": 2, "signum": 4}  # bytes a weight
BLOCK = 256  # neighbours in a row that share two scales in adam_8bit, where vectors keep float32


@dataclass(frozen=True)
class Plan:
    """What is trained, on what. The defaults are H100s in nodes of eight."""

    d_in: int = 4096
    d_sae: int = 2**24
    k: int = 64
    batch_tokens: int = 8192
    gpus: int = 64
    latent_shards: int = 64
    optimiser: str = "adam"
    dead_fraction: float = 0.05
    """Share of latents that are dead, for AuxK."""
    gpu_gib: float = 80.0
    """Memory of a GPU, in GiB."""
    tflops: float = 500.0
    """bfloat16 operations reached in the encoder's product, in 10^12 a second, of 989 on the data sheet."""
    memory_gb_s: float = 2500.0
    """Memory bandwidth reached, in 10^9 bytes a second, of 3350 on the data sheet."""
    node_gpus: int = 8
    node_gb_s: float = 300.0
    """What a GPU sends in a collective within a node, in 10^9 bytes a second (NVLink, 450 on the data sheet)."""
    network_gb_s: float = 40.0
    """The same between nodes (one 400 Gbit/s port a GPU: 50 on the data sheet)."""
    latency_us: float = 60.0
    """Of a collective over all GPUs, besides its bytes, in microseconds."""
    host_latency_us: float = 1000.0
    """Of a number summed by gloo on the hosts."""

    @property
    def data(self) -> int:
        """GPUs that hold the same latents, and share the tokens of a batch."""
        return self.gpus // self.latent_shards

    @property
    def width(self) -> int:
        """Latents of a GPU."""
        return self.d_sae // self.latent_shards

    @property
    def tokens(self) -> int:
        """Tokens that a GPU works on at each step."""
        return self.batch_tokens // self.data


def memory(plan: Plan) -> dict[str, float]:
    """Bytes of a GPU, by what they hold."""
    weights = 2 * plan.width * plan.d_in + plan.width + plan.d_in  # W_dec, W_enc, b_enc, b_dec
    activations = plan.tokens * plan.d_in * FLOAT
    dead = int(plan.dead_fraction * plan.width)
    return {
        "weights": weights * FLOAT,
        "moments": state_bytes(plan),
        "gradients": (weights + 2 * plan.width) * FLOAT,  # with two numbers a latent that are summed along
        "silent tokens": plan.width * LONG,
        "encoder in bfloat16": plan.width * plan.d_in * HALF,
        "pre-activations": plan.tokens * plan.width * (FLOAT + HALF),  # the product in bfloat16, then in float32
        "AuxK: dead columns, candidates": plan.tokens * (dead * FLOAT + 3 * min(plan.d_in // 2, dead) * LONG),
        "batch, reconstruction, error": 6 * activations,
    }


def state_bytes(plan: Plan) -> float:
    """Bytes that the optimiser keeps of the weights."""
    matrices, vectors = 2 * plan.width * plan.d_in, plan.width + plan.d_in
    if plan.optimiser != "adam_8bit":
        return (matrices + vectors) * STATE[plan.optimiser]
    scales = 2 * plan.width * -(-plan.d_in // BLOCK)
    return matrices * STATE["adam_8bit"] + 2 * scales * FLOAT + vectors * STATE["adam"]


def exchanged(plan: Plan) -> dict[str, float]:
    """Bytes that a GPU sends at each step, by collective: ring algorithms, n = ranks.

    An all-gather of b bytes from each sends (n - 1) b, an all-reduce of b bytes 2 (n - 1) / n b.
    """
    shards, data, tokens = plan.latent_shards, plan.data, plan.tokens
    gather, reduce = (shards - 1) / shards, 2 * (shards - 1) / shards
    k_aux = min(plan.d_in // 2, int(plan.dead_fraction * plan.d_sae))
    return {
        "activations, gathered": gather * tokens * plan.d_in * FLOAT,
        "top-k": _selection(plan, plan.k),
        "reconstruction, summed": reduce * tokens * plan.d_in * FLOAT,
        "AuxK: top-k": _selection(plan, k_aux) if k_aux else 0.0,
        "AuxK: reconstruction, summed": reduce * tokens * plan.d_in * FLOAT if k_aux else 0.0,
        "gradients, summed": 2 * (data - 1) / data * memory(plan)["gradients"],
    }


def _selection(plan: Plan, k: int) -> float:
    """Candidates gathered, or four histograms of 256 counts summed; then two counts of every shard gathered."""
    if plan.latent_shards == 1:
        return 0.0
    gathered, n = plan.latent_shards * min(k, plan.width), plan.latent_shards
    each = (n - 1) / n * gathered * FLOAT if gathered <= 2048 else 4 * 2 * (n - 1) / n * 256 * FLOAT
    return plan.tokens * (each + (n - 1) * 2 * FLOAT)


def seconds(plan: Plan) -> dict[str, float]:
    """Time of each part of a step."""
    held, bandwidth = memory(plan), plan.memory_gb_s * 1e9
    weights = held["weights"] / FLOAT
    dead = plan.dead_fraction * plan.width
    active = (plan.k + min(plan.d_in / 2, dead * plan.latent_shards)) / plan.latent_shards  # of a token, on this GPU
    pairs = plan.tokens * active * plan.d_in * FLOAT  # bytes of their rows
    sent = exchanged(plan)
    latents_gb_s = plan.node_gb_s if plan.latent_shards <= plan.node_gpus else plan.network_gb_s
    inside = sum(bytes_ for name, bytes_ in sent.items() if not name.startswith("gradients"))
    return {
        "encoder product": 2 * plan.tokens * plan.d_in * plan.width / (plan.tflops * 1e12),
        "encoder to bfloat16": plan.width * plan.d_in * (FLOAT + HALF) / bandwidth,
        # written in bfloat16, read, written in float32, read by the selection; dead columns once more
        "pre-activations": plan.tokens * (plan.width * (2 * HALF + 2 * FLOAT) + 3 * dead * FLOAT) / bandwidth,
        "active latents": 6 * pairs / bandwidth,  # decode twice, their gradients twice, both weights' gradients
        "gradients": 2 * held["gradients"] / bandwidth,  # set to zero and written, read for the norm
        "optimiser": (weights * 3 * FLOAT + 2 * held["moments"]) / bandwidth,
        "exchange among shards": inside / (latents_gb_s * 1e9),
        "exchange of gradients": sent["gradients, summed"] / (plan.network_gb_s * 1e9),
        "latency": 16 * plan.latency_us * 1e-6 + 8 * plan.host_latency_us * 1e-6,
    }


def planned(plan: Plan) -> dict[str, Any]:
    """All numbers of a plan."""
    held, sent, times = memory(plan), exchanged(plan), seconds(plan)
    step = sum(times.values())
    return {
        "plan": asdict(plan),
        "bytes": held,
        "bytes_total": sum(held.values()),
        "fits": sum(held.values()) < 0.92 * plan.gpu_gib * 2**30,  # some is torch's, NCCL's and the allocator's
        "sent_bytes": sent,
        "sent_bytes_total": sum(sent.values()),
        "seconds": times,
        "step_seconds": step,
        "tokens_per_second": plan.batch_tokens / step,
        "encoder_share": times["encoder product"] / step,
    }


def layouts(base: Plan) -> list[Plan]:
    """The plan, and others that differ in one way."""
    fixed = asdict(base)
    h200 = {"gpu_gib": 141.0, "memory_gb_s": 3600.0}
    variants: list[dict[str, Any]] = [
        {},
        {"batch_tokens": 4 * base.batch_tokens, **h200},
        {"latent_shards": base.latent_shards // 2, **h200},
        {"latent_shards": base.latent_shards // 8, **h200},
        {"optimiser": "signum"},
        {"d_sae": 4 * base.d_sae, **h200},
    ]
    return [Plan(**{**fixed, **variant}) for variant in variants]


def table(plans: list[Plan]) -> str:
    """The plans in Markdown, one row each."""
    head = "| latents | shards x data | batch | GPU | optimiser | GiB a GPU | sent a GPU and step | step | tokens/s |"
    rows = [head, "|---|---|---|---|---|---|---|---|---|"]
    for plan in plans:
        made = planned(plan)
        fits = "" if made["fits"] else ", does not fit"
        rows.append(
            f"| {plan.d_sae / 2**20:.0f}M | {plan.latent_shards} x {plan.data} | {plan.batch_tokens} "
            f"| {plan.gpu_gib:.0f} GB | {plan.optimiser} | {made['bytes_total'] / 2**30:.1f}{fits} "
            f"| {made['sent_bytes_total'] / 1e9:.2f} GB | {1e3 * made['step_seconds']:.0f} ms "
            f"| {made['tokens_per_second'] / 1e3:.0f}k |"
        )
    return "\n".join(rows)


def main() -> None:
    """Print the table, or all numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for one in fields(Plan):
        parser.add_argument(f"--{one.name.replace('_', '-')}", type=type(one.default), default=one.default)
    parser.add_argument("--json", action="store_true")
    given = vars(parser.parse_args())
    as_json = given.pop("json")
    plans = layouts(Plan(**given))
    print(json.dumps([planned(plan) for plan in plans], indent=2) if as_json else table(plans))


if __name__ == "__main__":
    main()
