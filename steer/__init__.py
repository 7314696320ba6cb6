"""Steering language models with sparse autoencoders: models, interventions, evaluation, studies.

Public names are resolved on first use, so that ``import steer`` and ``steer --help`` start without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saes import SAE as SAE
    from steer.activations.batch import StreamConfig
    from steer.activations.policy import TokenPolicy
    from steer.activations.reading import Reading
    from steer.activations.resumable import ActivationStream
    from steer.activations.shard_source import ShardSource
    from steer.activations.shards import ShardConfig, write_shards
    from steer.activations.sources.hub import HubSource
    from steer.activations.sources.opened import open_source
    from steer.activations.sources.source import Columns
    from steer.activations.splice import splice_loss
    from steer.activations.stream import activation_batches, activation_rows
    from steer.activations.text import embedded_corpus, read_texts
    from steer.checkpoints.load import load_sae
    from steer.errors import (
        CheckpointError,
        DataError,
        IndexMismatchError,
        MissingExtra,
        ModelError,
        NotFiniteError,
        OutputError,
        PlanError,
        SiteError,
        SteerError,
        TooLongError,
    )
    from steer.evals.runner import Result, evaluate, rate
    from steer.evals.sample import Sample
    from steer.evals.sets import load_prompts
    from steer.evals.stats import Rate
    from steer.features.archetype import latents_active, refuse_archetype
    from steer.features.candidates import best_strengths, measure_candidates, settle_strength
    from steer.features.trial import Trial
    from steer.index.build import build_index
    from steer.index.config import IndexConfig
    from steer.index.labels import Label
    from steer.index.read import FeatureIndex
    from steer.models.chat import raw_text
    from steer.models.classifier import load_classifier
    from steer.models.decode import Sampling
    from steer.models.load import load_model
    from steer.models.model import LanguageModel
    from steer.models.site import Site
    from steer.plans.bind import Bound
    from steer.plans.files import read_plan, write_plan
    from steer.plans.made_from import plan_of
    from steer.plans.plan import SteeringPlan
    from steer.plans.sources import ModelSpec, SaeSpec
    from steer.quality.evaluation import evaluate_sae
    from steer.responders.prompted import SystemPrompt, Unsteered
    from steer.responders.responder import Responder
    from steer.responders.self_contrastive import SelfContrastive
    from steer.responders.steered import Steered
    from steer.responders.tuned import Tuned
    from steer.search.contrast import ContrastConfig
    from steer.search.hits import Hit, Reason, SearchResult
    from steer.search.meaning import Embedder, load_embedder
    from steer.search.prompt_sets import read_prompts
    from steer.search.query import AttributionQuery, ContrastQuery, MeansQuery, PromptQuery, Query
    from steer.steering.direction_edits import AddDirection, DirectionEdit
    from steer.steering.directions import refusal_direction
    from steer.steering.gate_trees import AllOf, AnyOf
    from steer.steering.gates import Gate, Gated, fit_threshold
    from steer.steering.latents import Clamp, LatentEdit
    from steer.steering.null_space import NullSpaceEdit
    from steer.steering.pooled_probe import PooledProbe
    from steer.steering.rows import OnRows
    from steer.steering.scores import ConditionScore, LatentScore, ProbeScore
    from steer.steering.steered import Steering, mismatches, steered
    from steer.steering.text_gate import TextGate
    from steer.steering.window import Window
    from steer.studies.config import DemoConfig
    from steer.studies.demo import run_demo
    from steer.studies.report import write_report
    from steer.sweeps.config import StudyConfig
    from steer.sweeps.read import parse_study, read_study
    from steer.sweeps.sweep import run_sweep
    from steer.training.config import TrainingConfig
    from steer.training.estimate import estimate
    from steer.training.job import TrainingResult, train
    from steer.tuning.config import TuningConfig
    from steer.tuning.job import TuningResult, tune
    from steer.tuning.prefer import PreferenceResult, prefer
    from steer.tuning.preference_config import PreferenceConfig

_WHERE = {
    "ActivationStream": "steer.activations.resumable",
    "AddDirection": "steer.steering.direction_edits",
    "AllOf": "steer.steering.gate_trees",
    "AnyOf": "steer.steering.gate_trees",
    "AttributionQuery": "steer.search.query",
    "Bound": "steer.plans.bind",
    "CheckpointError": "steer.errors",
    "Clamp": "steer.steering.latents",
    "Columns": "steer.activations.sources.source",
    "ConditionScore": "steer.steering.scores",
    "ContrastConfig": "steer.search.contrast",
    "ContrastQuery": "steer.search.query",
    "DataError": "steer.errors",
    "DemoConfig": "steer.studies.config",
    "DirectionEdit": "steer.steering.direction_edits",
    "Embedder": "steer.search.meaning",
    "FeatureIndex": "steer.index.read",
    "Gate": "steer.steering.gates",
    "Gated": "steer.steering.gates",
    "Hit": "steer.search.hits",
    "HubSource": "steer.activations.sources.hub",
    "IndexConfig": "steer.index.config",
    "IndexMismatchError": "steer.errors",
    "Label": "steer.index.labels",
    "LanguageModel": "steer.models.model",
    "LatentEdit": "steer.steering.latents",
    "LatentScore": "steer.steering.scores",
    "MeansQuery": "steer.search.query",
    "MissingExtra": "steer.errors",
    "ModelError": "steer.errors",
    "ModelSpec": "steer.plans.sources",
    "NotFiniteError": "steer.errors",
    "NullSpaceEdit": "steer.steering.null_space",
    "OnRows": "steer.steering.rows",
    "OutputError": "steer.errors",
    "PlanError": "steer.errors",
    "PooledProbe": "steer.steering.pooled_probe",
    "PreferenceConfig": "steer.tuning.preference_config",
    "PreferenceResult": "steer.tuning.prefer",
    "ProbeScore": "steer.steering.scores",
    "PromptQuery": "steer.search.query",
    "Query": "steer.search.query",
    "Rate": "steer.evals.stats",
    "Reading": "steer.activations.reading",
    "Reason": "steer.search.hits",
    "Responder": "steer.responders.responder",
    "Result": "steer.evals.runner",
    "SAE": "saes.sae",
    "SaeSpec": "steer.plans.sources",
    "Sample": "steer.evals.sample",
    "Sampling": "steer.models.decode",
    "SearchResult": "steer.search.hits",
    "SelfContrastive": "steer.responders.self_contrastive",
    "ShardConfig": "steer.activations.shards",
    "ShardSource": "steer.activations.shard_source",
    "Site": "steer.models.site",
    "SiteError": "steer.errors",
    "SteerError": "steer.errors",
    "Steered": "steer.responders.steered",
    "Steering": "steer.steering.steered",
    "SteeringPlan": "steer.plans.plan",
    "StreamConfig": "steer.activations.batch",
    "StudyConfig": "steer.sweeps.config",
    "SystemPrompt": "steer.responders.prompted",
    "TextGate": "steer.steering.text_gate",
    "TokenPolicy": "steer.activations.policy",
    "TooLongError": "steer.errors",
    "TrainingConfig": "steer.training.config",
    "TrainingResult": "steer.training.job",
    "Trial": "steer.features.trial",
    "Tuned": "steer.responders.tuned",
    "TuningConfig": "steer.tuning.config",
    "TuningResult": "steer.tuning.job",
    "Unsteered": "steer.responders.prompted",
    "Window": "steer.steering.window",
    "activation_batches": "steer.activations.stream",
    "activation_rows": "steer.activations.stream",
    "best_strengths": "steer.features.candidates",
    "build_index": "steer.index.build",
    "embedded_corpus": "steer.activations.text",
    "estimate": "steer.training.estimate",
    "evaluate": "steer.evals.runner",
    "evaluate_sae": "steer.quality.evaluation",
    "fit_threshold": "steer.steering.gates",
    "latents_active": "steer.features.archetype",
    "load_classifier": "steer.models.classifier",
    "load_embedder": "steer.search.meaning",
    "load_model": "steer.models.load",
    "load_prompts": "steer.evals.sets",
    "load_sae": "steer.checkpoints.load",
    "measure_candidates": "steer.features.candidates",
    "mismatches": "steer.steering.steered",
    "open_source": "steer.activations.sources.opened",
    "parse_study": "steer.sweeps.read",
    "plan_of": "steer.plans.made_from",
    "prefer": "steer.tuning.prefer",
    "rate": "steer.evals.runner",
    "raw_text": "steer.models.chat",
    "read_plan": "steer.plans.files",
    "read_prompts": "steer.search.prompt_sets",
    "read_study": "steer.sweeps.read",
    "read_texts": "steer.activations.text",
    "refusal_direction": "steer.steering.directions",
    "refuse_archetype": "steer.features.archetype",
    "run_demo": "steer.studies.demo",
    "run_sweep": "steer.sweeps.sweep",
    "settle_strength": "steer.features.candidates",
    "splice_loss": "steer.activations.splice",
    "steered": "steer.steering.steered",
    "train": "steer.training.job",
    "tune": "steer.tuning.job",
    "write_plan": "steer.plans.files",
    "write_report": "steer.studies.report",
    "write_shards": "steer.activations.shards",
}

__all__ = [
    "SAE",
    "ActivationStream",
    "AddDirection",
    "AllOf",
    "AnyOf",
    "AttributionQuery",
    "Bound",
    "CheckpointError",
    "Clamp",
    "Columns",
    "ConditionScore",
    "ContrastConfig",
    "ContrastQuery",
    "DataError",
    "DemoConfig",
    "DirectionEdit",
    "Embedder",
    "FeatureIndex",
    "Gate",
    "Gated",
    "Hit",
    "HubSource",
    "IndexConfig",
    "IndexMismatchError",
    "Label",
    "LanguageModel",
    "LatentEdit",
    "LatentScore",
    "MeansQuery",
    "MissingExtra",
    "ModelError",
    "ModelSpec",
    "NotFiniteError",
    "NullSpaceEdit",
    "OnRows",
    "OutputError",
    "PlanError",
    "PooledProbe",
    "PreferenceConfig",
    "PreferenceResult",
    "ProbeScore",
    "PromptQuery",
    "Query",
    "Rate",
    "Reading",
    "Reason",
    "Responder",
    "Result",
    "SaeSpec",
    "Sample",
    "Sampling",
    "SearchResult",
    "SelfContrastive",
    "ShardConfig",
    "ShardSource",
    "Site",
    "SiteError",
    "SteerError",
    "Steered",
    "Steering",
    "SteeringPlan",
    "StreamConfig",
    "StudyConfig",
    "SystemPrompt",
    "TextGate",
    "TokenPolicy",
    "TooLongError",
    "TrainingConfig",
    "TrainingResult",
    "Trial",
    "Tuned",
    "TuningConfig",
    "TuningResult",
    "Unsteered",
    "Window",
    "activation_batches",
    "activation_rows",
    "best_strengths",
    "build_index",
    "embedded_corpus",
    "estimate",
    "evaluate",
    "evaluate_sae",
    "fit_threshold",
    "latents_active",
    "load_classifier",
    "load_embedder",
    "load_model",
    "load_prompts",
    "load_sae",
    "measure_candidates",
    "mismatches",
    "open_source",
    "parse_study",
    "plan_of",
    "prefer",
    "rate",
    "raw_text",
    "read_plan",
    "read_prompts",
    "read_study",
    "read_texts",
    "refusal_direction",
    "refuse_archetype",
    "run_demo",
    "run_sweep",
    "settle_strength",
    "splice_loss",
    "steered",
    "train",
    "tune",
    "write_plan",
    "write_report",
    "write_shards",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'steer' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return __all__
