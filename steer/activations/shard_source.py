"""Batches of stored activations, in a random order of all of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from steer.activations.ahead import Ahead, Stop
from steer.activations.batch import Batch, StreamConfig, one_site
from steer.activations.identity import reading_fields, require_same, tokenizer_digest, weights_digest
from steer.activations.manifest import Shard, check_shard, read_manifest
from steer.activations.permutation import permuted
from steer.activations.reading import Reading
from steer.activations.sources.source import Source, short_digest
from steer.errors import DataError
from steer.models.model import LanguageModel
from steer.models.site import Site

VERSION = 1  # of the state


class ShardSource:
    """Batches of the activations in a folder that ``write_shards`` wrote, as an iterator.

    Every pass over the folder has an order of its own of all its rows, so neighbours in a batch come from anywhere. The
    files are mapped into memory, and only the rows that a batch takes are read.
    """

    def __init__(
        self,
        folder: str | Path,
        config: StreamConfig,
        lm: LanguageModel | None = None,
        reading: Reading | None = None,
        source: Source | None = None,
        verify: bool = True,
    ) -> None:
        """Open a folder. What is given of model, reading and source must be what the shards were made with.

        A ``reading`` may name fewer sites than there are; then only those are read. ``verify=False`` spares the reading
        of all files once, which finds altered ones; cut off ones are found all the same.

        Raises:
            DataError: the folder is incomplete, was made with something else (the field is named), or a shard is
                missing, cut off or altered (it is named), or there is less than a batch.
        """
        self.folder, self.config = Path(folder), config
        self.manifest = read_manifest(self.folder)
        if not self.manifest.complete:
            raise DataError(f"{folder} is not complete: call write_shards again, it goes on where it was stopped.")
        stored = tuple(Site.parse(name) for name in self.manifest.identity.get("sites", []))
        self.sites = reading.all_sites if reading else stored
        self._check(lm, reading, source, stored)
        for shard in self.manifest.shards:
            check_shard(self.folder, shard, contents=verify)
        if self.manifest.tokens < config.batch_tokens:
            raise DataError(f"{folder} holds {self.manifest.tokens} tokens, a batch has {config.batch_tokens}.")
        files = [self._mapped(shard) for shard in self.manifest.shards]
        self._rows = _StoredRows(files, [shard.tokens for shard in self.manifest.shards], config)
        self._served = 0
        self._batches: Iterator[Batch] | None = None

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """The next batch."""
        if self._batches is None:
            make = partial(_batches, self._rows, self._served)
            self._batches = Ahead(make, self.config.ahead) if self.config.ahead else make()
        try:
            batch = next(self._batches)
        except BaseException:
            self.close()
            raise
        self._served += self.config.batch_tokens
        return batch

    def only(self, site: Site | str | None = None) -> Iterator[Float[Tensor, "token d_model"]]:
        """The batches of one site; see ``ActivationStream.only``."""
        return one_site(self, self.sites, site)

    @property
    def left_tokens(self) -> int:
        """Rows that have not been handed out; where they are served again and again, those of this time through."""
        return self.manifest.tokens - self._served % self.manifest.tokens

    def state(self) -> dict[str, Any]:
        """Everything that decides what comes next, as JSON data."""
        return {"version": VERSION, "identity": self._identity, "served": self._served}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on after the batch that was handed out before ``state`` was taken; this costs nothing.

        Raises:
            DataError: the state is of another version, other shards or another seed.
        """
        if state.get("version") != VERSION:
            raise DataError(f"The state of the shards has version {state.get('version')!r}, expected {VERSION}.")
        require_same(state["identity"], self._identity, "The state of the shards")
        self.close()
        self._served = state["served"]

    def close(self) -> None:
        """End the background thread. A batch that is asked for later is the one that would have come."""
        if isinstance(self._batches, Ahead):
            self._batches.close()
        self._batches = None

    @cached_property
    def _identity(self) -> dict[str, Any]:
        digest = short_digest([shard.sha256 for shard in self.manifest.shards])
        return {"shards": digest, "sites": [str(site) for site in self.sites], "seed": self.config.seed}

    def _check(
        self, lm: LanguageModel | None, reading: Reading | None, source: Source | None, stored: tuple[Site, ...]
    ) -> None:
        given: dict[str, Any] = {}
        if lm is not None:
            given |= {"weights": weights_digest(lm), "tokenizer": tokenizer_digest(lm)}
        if reading is not None:
            given |= {"policy": reading_fields(reading)["policy"]}
        if source is not None:
            given |= {"dataset": source.digest()}
        require_same(self.manifest.identity, given, f"What is in {self.folder}")
        if missing := [str(site) for site in self.sites if site not in stored]:
            raise DataError(
                f"What is in {self.folder} does not fit: sites are {', '.join(map(str, stored))} there, without "
                f"{', '.join(missing)}. Write shards of that site, or choose another."
            )

    def _mapped(self, shard: Shard) -> dict[Site, Tensor]:
        """Views of a file's tensors."""
        path, expected = self.folder / shard.file, [shard.tokens, self.manifest.d_model]
        try:
            with safe_open(path, framework="pt") as file:
                found = {site: file.get_tensor(str(site)) for site in self.sites}
        except (SafetensorError, OSError) as error:
            raise DataError(f"The shard {path} cannot be read ({error}). Write the shards again.") from error
        for site, x in found.items():
            dtype = str(x.dtype).removeprefix("torch.")
            if list(x.shape) != expected or dtype != self.manifest.dtype:
                raise DataError(
                    f"The shard {path} holds {list(x.shape)} in {dtype} at {site}, expected {expected} in "
                    f"{self.manifest.dtype}. Write the shards again."
                )
        return found


@dataclass(frozen=True)
class _StoredRows:
    """All rows of the files, as one."""

    files: list[dict[Site, Tensor]]
    tokens: list[int]
    """Rows of each file."""
    config: StreamConfig

    def batch(self, places: Int[Tensor, " token"]) -> Batch:
        """The rows that are served at ``places``, counted from the first batch on."""
        rows = served_rows(places, sum(self.tokens), self.config.seed)
        starts = torch.tensor([0, *accumulate(self.tokens)])
        numbers = torch.bucketize(rows, starts, right=True) - 1
        found = {site: x.new_empty(len(rows), x.shape[1]) for site, x in self.files[0].items()}
        for number in numbers.unique().tolist():
            here = numbers == number
            for site, x in found.items():
                x[here] = self.files[number][site][rows[here] - starts[number]]
        return {site: x.to(self.config.device or "cpu") for site, x in found.items()}


def served_rows(places: Int[Tensor, " n"], size: int, seed: int) -> Int[Tensor, " n"]:
    """Which of ``size`` rows are served at ``places`` (ascending). Every time through, the order is another."""
    times = places // size
    return torch.cat([permuted(places[times == time] % size, size, (seed, time)) for time in times.unique().tolist()])


def _batches(rows: _StoredRows, begin: int, stop: Stop | None = None) -> Iterator[Batch]:
    """The batches after the first ``begin`` rows served."""
    size, total = rows.config.batch_tokens, sum(rows.tokens)
    while (rows.config.endless or begin + size <= total) and not (stop and stop.is_set()):
        yield rows.batch(torch.arange(begin, begin + size))
        begin += size
