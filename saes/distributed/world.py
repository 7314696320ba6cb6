"""The processes of one training run: ``data`` x ``latents`` ranks.

Rank r is number ``r // latent_shards`` among those that share the tokens of a batch (data), and number
``r % latent_shards`` among those that share the latents of an SAE. Both is told to ``fit``; nothing here is global but
torch's own process group.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import TypeVar

import torch
import torch.distributed as dist

from saes.distributed.group import ALONE, Group
from saes.errors import (
    ConfigError,
    DivergedError,
    FormatError,
    SaesError,
    ShapeError,
    WorldError,
    by_all,
    said_by_all,
)

T = TypeVar("T")
TIMEOUT_S = 300.0
SLICE_S = 10.0  # at most, between two exchanges of ranks that wait for one at work
KINDS: dict[str, type[SaesError]] = {
    kind.__name__: kind for kind in (ConfigError, DivergedError, FormatError, ShapeError)
}


@dataclass(frozen=True)
class World:
    """All ranks of a run, and the two ways in which they are divided. As a context manager it is left at the end."""

    all: Group = ALONE
    data: Group = ALONE
    """Ranks with the same latents as this one, and other tokens of each batch."""
    latents: Group = ALONE
    """Ranks with the same tokens as this one, and other latents."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where this rank computes."""

    @property
    def rank(self) -> int:
        """Number of this rank, from 0."""
        return self.all.rank

    @property
    def size(self) -> int:
        """Number of ranks."""
        return self.all.size

    @classmethod
    def from_env(
        cls,
        env: Mapping[str, str],
        latent_shards: int = 1,
        backend: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> "World":
        """The world that torchrun describes in the environment (``os.environ``); without torchrun, one rank alone.

        Raises:
            ConfigError: the environment is incomplete, or the ranks cannot be divided so.
            WorldError: the ranks do not find each other within ``timeout_s``.
        """
        if "WORLD_SIZE" not in env:
            return cls.joined(0, 1, latent_shards, backend, timeout_s)
        numbers: list[int] = []
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            if not env.get(name, "").isdigit():
                raise ConfigError(
                    f"{name} must be a whole number where WORLD_SIZE is set, got {env.get(name)!r}. "
                    "Start with torchrun."
                )
            numbers.append(int(env[name]))
        rank, size, local_rank = numbers
        return cls.joined(rank, size, latent_shards, backend, timeout_s, "env://", local_rank)

    @classmethod
    def joined(
        cls,
        rank: int,
        size: int,
        latent_shards: int = 1,
        backend: str | None = None,
        timeout_s: float = TIMEOUT_S,
        meeting: str = "env://",
        local_rank: int = 0,
    ) -> "World":
        """Rank ``rank`` of ``size`` ranks that meet at ``meeting`` (an ``init_method`` of torch).

        ``backend``: ``nccl``, and the process is bound to GPU ``local_rank``, or ``gloo``; None: nccl where there is a
        GPU. Tensors on the CPU go by gloo anyway. A rank alone starts nothing.

        Raises:
            ConfigError: the ranks cannot be divided into ``latent_shards``, or the timeout is not positive.
            WorldError: the ranks do not find each other within ``timeout_s``.
        """
        _require_shards(size, latent_shards)
        if not 0 < timeout_s < float("inf"):
            raise ConfigError(f"timeout_s must be a positive number of seconds, got {timeout_s!r}.")
        if backend not in (None, "nccl", "gloo"):
            raise ConfigError(f"backend must be nccl or gloo, or None for the one that fits: got {backend!r}.")
        gpu = backend == "nccl" or (backend is None and torch.cuda.is_available())
        device = torch.device("cuda", local_rank) if gpu else torch.device("cpu")
        if size == 1:
            return cls(device=device)
        if gpu:
            torch.cuda.set_device(device)
        limit = timedelta(seconds=timeout_s)
        chosen = "cpu:gloo,cuda:nccl" if gpu else "gloo"  # numbers of the host are exchanged, too
        try:
            dist.init_process_group(chosen, meeting, rank=rank, world_size=size, timeout=limit)
            # not a DeviceMesh: the groups that it makes have a timeout of half an hour, whatever was asked for
            grid = torch.arange(size).view(-1, latent_shards)
            data, _ = dist.new_subgroups_by_enumeration(grid.T.tolist(), timeout=limit, backend=chosen)
            latents, _ = dist.new_subgroups_by_enumeration(grid.tolist(), timeout=limit, backend=chosen)
        except (RuntimeError, ValueError) as error:
            raise WorldError(
                f"The {size} processes did not find each other within {timeout_s:g} s ({error}). See that all were "
                "started, and that they reach the address and port of the first."
            ) from error
        return cls(
            Group(rank, size, dist.group.WORLD, timeout_s),
            Group(rank // latent_shards, size // latent_shards, data, timeout_s) if latent_shards < size else ALONE,
            Group(rank % latent_shards, latent_shards, latents, timeout_s) if latent_shards > 1 else ALONE,
            device,
        )

    @classmethod
    def on_paper(cls, size: int, latent_shards: int = 1) -> "World":
        """The first of so many ranks, to reckon how work is divided over them. They cannot exchange anything.

        Raises:
            ConfigError: the ranks cannot be divided into ``latent_shards``.
        """
        _require_shards(size, latent_shards)
        return cls(Group(0, size), Group(0, size // latent_shards), Group(0, latent_shards))

    def __enter__(self) -> "World":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self.all.alone:
            dist.destroy_process_group()

    def share(self, batch_tokens: int) -> int:
        """Tokens of a batch that the stream of one rank gives.

        Raises:
            ConfigError: they cannot be divided evenly.
        """
        if batch_tokens % self.size:
            raise ConfigError(
                f"batch_tokens must be a multiple of the number of processes: got {batch_tokens} tokens for "
                f"{self.size} processes."
            )
        return batch_tokens // self.size

    def shard(self, d_sae: int) -> range:
        """The latents that this rank holds.

        Raises:
            ConfigError: they cannot be divided evenly.
        """
        width, rest = divmod(d_sae, self.latents.size)
        if rest:
            raise ConfigError(
                f"d_sae must be a multiple of the number of latent shards: got {d_sae} latents for "
                f"{self.latents.size} shards."
            )
        return range(self.latents.rank * width, (self.latents.rank + 1) * width)

    def together(self, work: Callable[[], T]) -> T:
        """What ``work`` gives on this rank; if it raises on any rank, every rank raises an error of the same kind.

        So a rank that meets bad input does not leave the others waiting. Each call exchanges one number. The work may
        hold such calls itself.
        """
        if self.all.alone:
            return work()
        error: Exception | None = None
        try:
            done = work()
        except WorldError:
            raise  # the ranks no longer reach each other
        except Exception as raised:
            if by_all(raised):
                raise  # the ranks have exchanged it already
            error = raised
        if not self.all.largest(float(error is not None)):
            return done
        every = self.all.objects(error and (type(error).__name__, str(error)))
        if error:
            raise said_by_all(error)
        rank, (kind, message) = next((rank, one) for rank, one in enumerate(every) if one)
        raise said_by_all(KINDS.get(kind, WorldError)(f"Process {rank} of {self.size}: {message}"))

    def patiently(self, work: Callable[[], T]) -> T:
        """``together`` for work that may take longer than the timeout, such as writing a large SAE.

        The work is done in a thread of its own, and exchanges nothing; meanwhile the ranks tell each other that they
        are there, several times within the timeout. So a rank that is killed is noticed at once as ever; one whose
        work never ends is waited for.
        """
        if self.all.alone:
            return work()
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(work)
            while self.all.largest(float(not wait([done], min(self.all.timeout_s / 4, SLICE_S)).done)):
                pass
            return self.together(done.result)


def _require_shards(size: int, latent_shards: int) -> None:
    if not isinstance(latent_shards, int) or latent_shards < 1 or size % latent_shards:
        raise ConfigError(
            f"latent_shards must divide the number of processes: got {latent_shards} shards on {size} processes."
        )


ONE = World()
