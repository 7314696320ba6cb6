"""Optimisers, one file each. All keep the decoder's rows at norm 1."""

from saes.optimisers import adam, adam_8bit, adam_bf16, signum
from saes.optimisers.update import Optimiser, State, Update

OPTIMISERS: dict[str, Optimiser] = {"adam": adam, "adam_bf16": adam_bf16, "adam_8bit": adam_8bit, "signum": signum}

__all__ = ["OPTIMISERS", "Optimiser", "State", "Update"]
