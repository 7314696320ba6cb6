"""What tells models, prompts and judges apart, beside the digests of plans: SHA-256 of what decides what they do."""

import ast
import hashlib
import inspect
from collections.abc import Sequence
from types import ModuleType

from steer.activations.identity import tokenizer_digest
from steer.evals import judges
from steer.evals.sample import Sample
from steer.models.model import LanguageModel
from steer.plans.digests import of_json, of_weights


def of_model(lm: LanguageModel) -> str:
    """Of a model: its weights, all of them, its tokenizer with its chat template, and what ends a reply."""
    return of_json([of_weights(lm), tokenizer_digest(lm), lm.stop_ids()])


def of_samples(samples: Sequence[Sample]) -> str:
    """Of samples in their order: what the model is given and what is expected."""
    return of_json([[one.id, list(one.messages), one.kind, one.expect] for one in samples])


def of_judges(module: ModuleType = judges) -> str:
    """Of the rules by which replies are judged: the code of their module, comments left out."""
    return hashlib.sha256(ast.dump(ast.parse(inspect.getsource(module))).encode("utf-8")).hexdigest()
