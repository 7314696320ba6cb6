"""A plan with every kind of edit, gate and window, and the interventions that it means."""

import torch

import saes
from steer.plans.plan import SteeringPlan
from steer.plans.sources import ModelSpec, SaeSpec
from steer.steering.direction_edits import DirectionEdit
from steer.steering.gate_trees import AllOf, AnyOf
from steer.steering.gates import Gate, Gated
from steer.steering.latents import LatentEdit
from steer.steering.scores import ConditionScore, LatentScore, ProbeScore
from steer.steering.text_gate import TextGate
from steer.steering.window import Window
from tests.conftest import D_MODEL, random_sae

FIRST, SECOND = "0.resid_post", "1.resid_pre"


def vectors():
    drawn = torch.randn(3, D_MODEL, generator=torch.Generator().manual_seed(7))
    return {"push": drawn[0], "across": drawn[1], "probe": drawn[2], "few": torch.tensor([1.0, -0.5])}


def is_long(texts):
    return [len(text) > 10 for text in texts]


def full_plan(lm, folder, **more):
    """The plan; its SAE is saved below ``folder``."""
    sae = random_sae()
    saes.save(sae, folder / "sae")
    gates = [
        {"kind": "latents", "sae": "refusal", "latents": [3, 40], "site": FIRST, "threshold": 0.0, "pool": "share"},
        {"kind": "probe", "site": FIRST, "weights": "probe", "bias": 0.5, "threshold": -9.0, "below": True},
        {"kind": "probe", "site": FIRST, "weights": "few", "sae": "refusal", "latents": [3, 9], "threshold": -1.0},
        {"kind": "condition", "site": FIRST, "direction": "push", "threshold": 0.0, "pool": "mean"},
        {"kind": "text", "classifier": "long"},
    ]
    fields = {
        "label": "a test",
        "model": ModelSpec.of(lm),
        "saes": {"refusal": SaeSpec.of(sae, "sae")},
        "vectors": vectors(),
        "system": "Be brief.",
        "sampling": {"max_new_tokens": 8, "seed": 3},
        "edits": [
            {
                "kind": "latents", "sae": "refusal", "values": {"3": 2.5, "40": 1}, "unit": "max_activation",
                "maxima": {"3": 4.0, "40": 3.0}, "membership": "replace", "window": {"decay": 0.9, "start": 2},
            },
            {
                "kind": "latents", "sae": "refusal", "site": FIRST, "values": {"7": 0.3}, "operation": "at_least",
                "unit": "residual_norm", "error": "drop", "gate": {"kind": "any_of", "gates": [gates[4], gates[1]]},
            },
            {
                "kind": "direction", "site": "blocks.1.hook_resid_pre", "direction": "push", "strength": 9.0,
                "window": {"roles": ["user"], "template": False, "exclude_ids": [5, 9]},
                "gate": {"kind": "any_of", "gates": [{"kind": "all_of", "gates": gates[:2]}, *gates[2:4]]},
            },
            {
                "kind": "direction", "site": "1.resid_post", "direction": "push", "second": "across", "strength": 30,
                "operation": "rotate", "window": {"phase": "generated", "stop": 6},
            },
            {"kind": "direction", "site": "2.resid_pre", "direction": "across", "operation": "project_out"},
            {
                "kind": "direction", "site": "2.mlp_out", "direction": "across", "strength": 0.5,
                "unit": "residual_norm", "operation": "project_cap", "window": {"phase": "last"},
            },
        ],
    }  # fmt: skip
    return SteeringPlan(**{**fields, **more}, folder=folder)


def by_hand(sae):
    """What the plan means, made without it."""
    v = vectors()
    first = Gate(LatentScore(sae, [3, 40], FIRST), 0.0, "share")
    probe = Gate(ProbeScore(FIRST, v["probe"], 0.5), -9.0, below=True)
    few = Gate(ProbeScore(FIRST, v["few"], 0.0, sae, [3, 9]), -1.0)
    condition = Gate(ConditionScore(FIRST, v["push"]), 0.0, "mean")
    said = Window(roles=frozenset({"user"}), template=False, exclude_ids=frozenset({5, 9}))
    return [
        LatentEdit(
            sae, {3: 2.5, 40: 1.0}, window=Window(decay=0.9, start=2), maxima={3: 4.0, 40: 3.0}, membership="replace"
        ),
        Gated(
            LatentEdit(sae, {7: 0.3}, FIRST, "at_least", unit="residual_norm", error="drop"),
            AnyOf([TextGate(is_long), probe]),
        ),
        Gated(DirectionEdit(SECOND, v["push"], 9.0, window=said), AnyOf([AllOf([first, probe]), few, condition])),
        DirectionEdit(
            "1.resid_post", v["push"], 30.0, "rotate", window=Window("generated", stop=6), second=v["across"]
        ),
        DirectionEdit("2.resid_pre", v["across"], 0.0, "project_out"),
        DirectionEdit("2.mlp_out", v["across"], 0.5, "project_cap", "residual_norm", window=Window("last")),
    ]
