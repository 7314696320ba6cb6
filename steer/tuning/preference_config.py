"""Settings of tuning by preferences, checked when they are made."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_args

from saes.errors import ConfigError
from saes.paths import as_path
from steer.models.load import EMBEDDED, Dtype
from steer.tuning.config import check_number, check_whole

KEEPING = ("device", "threads", "offline", "out")
"""Fields that say where and how a run is kept and computed; they may be others when it is asked for again."""
FILES = ("data", "start")
"""Fields that name files, of which the contents decide, not the names."""


@dataclass(frozen=True)
class PreferenceConfig:
    """What is tuned by direct preference optimisation, on what, and where it is kept.

    The defaults are those of the SELECT release (arXiv 2412.07430), as far as it has any.

    Raises:
        ConfigError: a value that cannot work; it is named.
    """

    data: str
    """Preferences: a ``.jsonl`` (``.gz``) or ``.json`` file of conversations with a reply chosen and one rejected."""
    out: str
    """The run folder."""
    start: str | None = None
    """The adapter that is gone on from, which is the reference too: its folder, or that of the run that made it.
    None: a new one; the reference is then the model itself."""
    model: str = EMBEDDED
    """``embedded``, a folder in transformers format, or a hub id."""
    revision: str | None = None
    """Commit, branch or tag of a model of the hub."""
    device: str = "auto"
    """Where to compute: ``auto`` takes CUDA where it is present."""
    dtype: Dtype = "auto"
    """Number format of the model; what is trained is float32 in any case."""
    threads: int | None = None
    """CPU threads; None: 1 for a small model, else as many as torch takes."""
    offline: bool = False
    """Whether the network is never used."""
    rank: int = 32
    """Of the matrices of a new adapter, in dimensions; not used with ``start``, nor are the two that follow."""
    alpha: float = 32.0
    """What a new adapter adds is multiplied by ``alpha / rank``."""
    target: tuple[str, ...] = ()
    """Names of the layers that a new adapter tunes; (): the queries and values, or what peft takes for the model."""
    beta: float = 0.1
    """Weight of the log-ratios to the reference; the larger, the nearer to it the model stays."""
    lr: float = 5e-6
    """Learning rate of AdamW at first: it falls to zero along a cosine."""
    weight_decay: float = 0.01
    """Of AdamW."""
    grad_clip: float = 1.0
    """Largest norm of the gradient."""
    epochs: float = 5.0
    """Times that all preferences are read; not used with ``steps``."""
    steps: int | None = None
    """Optimiser steps; None: those of ``epochs``."""
    batch: int = 16
    """Preferences of an optimiser step."""
    micro_batch: int = 8
    """Preferences of a forward pass, of which each is two rows; a divisor of ``batch``."""
    cutoff: int = 256
    """Tokens after which a conversation is cut off."""
    seed: int = 0
    """Of the order, and of the first weights of a new adapter."""

    def __post_init__(self) -> None:
        for name in ("data", "out", "model"):
            as_path(getattr(self, name), name, ConfigError)
        if self.start is not None:
            as_path(self.start, "start", ConfigError)
        for name in ("rank", "batch", "micro_batch"):
            check_whole(name, getattr(self, name))
        check_whole("cutoff", self.cutoff, least=2)
        check_whole("seed", self.seed, least=0)
        for name in ("steps", "threads"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name))
        for name in ("alpha", "beta", "lr", "grad_clip", "epochs"):
            check_number(name, getattr(self, name), above=0.0, below=1e30)  # float32 holds it
        check_number("weight_decay", self.weight_decay)
        if self.seed >= 2**32:  # numpy's random numbers take no larger one
            raise ConfigError(f"seed must be less than 2^32, got {self.seed}.")
        if self.batch % self.micro_batch:
            raise ConfigError(
                f"A batch of {self.batch} preferences is no multiple of micro_batch, which is {self.micro_batch}. "
                "Give a divisor."
            )
        if self.dtype not in get_args(Dtype):
            raise ConfigError(f"dtype must be one of {', '.join(get_args(Dtype))}, got {self.dtype!r}.")
        if not isinstance(self.target, tuple) or not all(isinstance(one, str) and one.strip() for one in self.target):
            raise ConfigError(f"target must be a tuple of names of layers, such as ('q_proj',), got {self.target!r}.")

    def deciding(self, about: Mapping[str, Any]) -> dict[str, Any]:
        """The settings by which a run is known again, with what the files hold in place of their names."""
        given = {name: value for name, value in asdict(self).items() if name not in (*KEEPING, *FILES)}
        return {**given, "target": list(self.target), "preferences": dict(about)}
