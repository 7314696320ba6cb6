"""Sparse autoencoders over plain tensors. Needs torch, numpy and safetensors; knows no language model.

Where they are installed, jaxtyping gives the shapes of arguments, and triton the kernels on a GPU.
"""

from saes.codes import SparseCodes
from saes.config import SAEConfig, TrainConfig
from saes.distributed.streams import Parts, Slices
from saes.distributed.world import World
from saes.errors import ConfigError, DivergedError, FormatError, SaesError, ShapeError, WorldError
from saes.formats import load, save
from saes.measure import Quality, measure
from saes.metrics.block import Placed
from saes.metrics.sparsity import Firing
from saes.run_config import RunConfig
from saes.sae import SAE
from saes.train import TrainRecord, fit

__all__ = [
    "SAE",
    "ConfigError",
    "DivergedError",
    "Firing",
    "FormatError",
    "Parts",
    "Placed",
    "Quality",
    "RunConfig",
    "SAEConfig",
    "SaesError",
    "ShapeError",
    "Slices",
    "SparseCodes",
    "TrainConfig",
    "TrainRecord",
    "World",
    "WorldError",
    "fit",
    "load",
    "measure",
    "save",
]
