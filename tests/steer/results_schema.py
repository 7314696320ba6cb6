"""JSON schema of a ``results.json``. Closed: a run writes all of these fields and no others, and so do the fixtures."""

from collections.abc import Iterable
from typing import Any

from steer.evals.sets import GROUPS, SETS
from steer.studies.config import DemoConfig

Schema = dict[str, Any]
RATE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
MEASURE: Schema = {"type": ["number", "null"]}
ANYTHING: Schema = {}
RATES: Schema = {"type": "object", "minProperties": 1, "additionalProperties": RATE}
STAGES = ("load", "prepare", "train SAEs", "measure SAEs", "find the refusal latent", "measure the loss")
STAGES += ("evaluate", "report")


def closed(properties: Schema) -> Schema:
    """An object with exactly these properties."""
    return {
        "type": "object", "properties": properties, "required": list(properties), "additionalProperties": False
    }  # fmt: skip


def each(of: Schema, names: Iterable[str]) -> Schema:
    """Properties that are all alike."""
    return dict.fromkeys(names, of)


def items(of: Schema, least: int = 0) -> Schema:
    """A list of these."""
    return {"type": "array", "minItems": least, "items": of}


MODEL = closed({"name": TEXT, "chat_template": FLAG} | each(COUNT, ("layers", "d_model", "parameters")))
SETTINGS = closed(
    each(ANYTHING, DemoConfig.model_fields)
    | each(TEXT, ("operation", "error", "positions", "topk_policy", "decoding", "archetypal_reply"))
)
SAE = closed(
    {"site": TEXT, "seed": COUNT}
    | each(COUNT, ("d_in", "d_sae", "k", "tokens", "measured_on_tokens"))
    | each(MEASURE, ("fvu", "l0", "dead_fraction"))
    | each(MEASURE, ("loss_recovered", "loss_plain", "loss_spliced", "loss_zeroed"))
)
CANDIDATE_PARTS = (
    {"tokens_active": {"type": "integer", "minimum": 2}, "by_set": RATES, "finalist": FLAG}
    | each(COUNT, ("latent", "n_unsafe", "n_safe"))
    | each(NUMBER, ("strength", "max_activation"))
    | each(RATE, ("refusal_dev", "weakest_dev", "safe_refusal_dev"))
)
CANDIDATE = closed(CANDIDATE_PARTS)
COMPARED = closed(CANDIDATE_PARTS | {"seed": COUNT, "fvu": NUMBER})
CONTROL = closed({"latent": COUNT, "strength": NUMBER, "by_set": RATES, "moved": RATE})
POINT_SETS = {
    name: closed(each(COUNT, ("n", one.metric, "incoherent")) | each(RATE, ("rate", "low", "high")))
    for name, one in SETS.items()
}
POINT_GROUPS = dict.fromkeys(
    GROUPS, closed({"sets": items(TEXT, least=1)} | each(COUNT, ("n", "about")) | each(RATE, ("rate", "low", "high")))
)
POINT = closed(
    {
        "arm": {"enum": ["none", "sae", "control", "direction"]},
        "strength": NUMBER,
        "sets": closed(POINT_SETS),
        "groups": closed(POINT_GROUPS),
    }
)
SETS_TOLD = {
    name: closed(
        each(TEXT, ("title", "stands_for"))
        | {"n": COUNT, "metric": {"const": one.metric}, "better": {"const": one.better}}
    )
    for name, one in SETS.items()
}
SCHEMA = closed(
    {
        "schema": {"const": 1},
        "complete": FLAG,
        "model": MODEL,
        "settings": SETTINGS,
        "sets": closed(SETS_TOLD),
        "sae": SAE,
        "compared": items(COMPARED, least=1),
        "candidates": items(CANDIDATE, least=1),
        "plain_dev": RATES,
        "controls": items(CONTROL, least=1),
        "chosen": COUNT,
        "control": COUNT,
        "points": items(POINT),
        "seconds": closed(each(NUMBER, STAGES)),
        "peak_memory_mib": MEASURE,
        "versions": {"type": "object", "minProperties": 1, "additionalProperties": TEXT},
    }
)
"""A run that reached its end."""
