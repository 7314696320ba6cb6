"""A random order of any number of things that takes no memory: each place is computed when it is asked for."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

_ROUNDS = 6


def permuted(places: Int[Tensor, " n"], size: int, seed: tuple[int, ...]) -> Int[Tensor, " n"]:
    """What stands at ``places`` of the order of 0 to ``size`` that ``seed`` gives.

    A Feistel network over the next even power of two, which is one-to-one whatever its round function is (Luby and
    Rackoff 1988), applied again where it leads out of range ("cycle walking", Black and Rogaway 2002).
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    keys = np.random.default_rng(seed).integers(0, 2**63, _ROUNDS, dtype=np.uint64)
    found = _network(places.numpy().astype(np.uint64), half, keys)
    while (outside := found >= size).any():
        found[outside] = _network(found[outside], half, keys)
    return torch.from_numpy(found.astype(np.int64))


def _network(numbers: np.ndarray, half: np.uint64, keys: np.ndarray) -> np.ndarray:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = numbers >> half, numbers & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right + key) & mask)
    return (left << half) | right


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Every bit depends on all (the finaliser of MurmurHash3)."""
    for factor in (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)):
        numbers = (numbers ^ (numbers >> np.uint64(33))) * factor
    return numbers ^ (numbers >> np.uint64(33))
