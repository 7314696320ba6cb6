"""What a checkpoint holds: the SAEs, the rest of their states, the stream's. Written and read by one process or many.

Of several processes, those that share latents write one file for each shard of them (``sae-0-of-4.safetensors``), and
each writes where its own part of the stream stands. They are read by any number of processes: each takes the rows of
its own latents from the files that have them.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from saes.checkpoints import Facts, facts_of, to_disk
from saes.config import SAEConfig, TrainConfig
from saes.distributed.reshard import Part, of_latents
from saes.distributed.world import World
from saes.errors import ConfigError, FormatError
from saes.fitting import Fitting
from saes.formats import native
from saes.run_claim import difference, with_defaults
from saes.tree import join, split

MALFORMED = (ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError)  # RuntimeError: torch's
STATE, TENSORS, STREAM = "state.json", "state.safetensors", "stream.json"


@dataclass(frozen=True)
class LogState:
    """How far the log of the training is."""

    bytes: int
    """Its length."""
    newest: list[dict[str, Any]]
    """The newest line for each SAE; empty where there is none yet."""


def write_part(
    folder: Path, fittings: Sequence[Fitting], stream: Any, log: LogState, about: Mapping[str, Any], world: World
) -> dict[str, Facts]:
    """Write this process's files and bring them to the disk; their sizes and digests by name.

    ``stream`` is the state of the stream; ``about`` is told with each SAE.

    Raises:
        ConfigError: the stream's state is no data that can be kept.
    """
    state: dict[str, Any] = {}
    kept = {"stream": stream, "random": torch.get_rng_state()}
    written = []
    if world.data.rank == 0:
        state = {"log_bytes": log.bytes, "newest": log.newest, "fittings": [one.state() for one in fittings]}
        state |= kept if world.all.alone else {}
        written += _write_tree(folder, STATE, state, world.latents.rank, world.latents.size)
        for one in fittings:
            written += _write_sae(folder, one, summary(one, log.newest[one.number], about), world)
    if not world.all.alone:
        written += _write_tree(folder, STREAM, kept, world.rank, world.size)
    for path in written:
        to_disk(path)  # by the process that wrote it: no other one can be sure to bring it there
    return {path.relative_to(folder).as_posix(): facts_of(path) for path in written}


def read_parts(path: Path, fittings: Sequence[Fitting], batches: Any, world: World) -> LogState:
    """Put everything where a checkpoint says; how far the log was at that time.

    Raises:
        ConfigError: it was written by another number of processes, and the stream cannot be divided anew.
        FormatError: it cannot be read, or is of another run.
    """
    with reading(path):
        for one in fittings:
            _require_of(path / f"sae-{one.number}" / native.CONFIG, one)
        shards = _parts_of(path, STATE)
        mine, ours = world.latents.rank, world.latents.size
        first, last = mine * shards // ours, -(-(mine + 1) * shards // ours)  # those that have latents of ours
        states = {shard: _read_tree(path, STATE, shard, shards) for shard in range(first, last)}
        for number, one in enumerate(fittings):
            width, parts = one.config.d_sae // shards, []
            for shard, state in states.items():
                folded = load_file(path / f"sae-{one.number}" / _of(native.WEIGHTS, shard, shards))
                parts.append(Part(range(shard * width, (shard + 1) * width), state["fittings"][number], folded))
            one.restore(*of_latents(parts, one.latents))
        whole = states[0] if 0 in states else _read_tree(path, STATE, 0, shards)
        log = LogState(int(whole["log_bytes"]), whole["newest"])
    _restore_stream(path, whole, batches, world)
    return log


def summary(fitting: Fitting, newest: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """How an SAE has been trained, as its config.json tells; ``newest`` is the newest line of its log."""
    steps, train = fitting.steps_done, dataclasses.asdict(fitting.train)
    more = {name: value for name, value in about.items() if name not in train}
    return {
        "steps": steps,
        "tokens": steps * fitting.train.batch_tokens,
        **{name: newest[name] for name in ("fvu", "l0", "dead_fraction") if name in newest},
        **train,
        **({"started_from": fitting.started_from} if fitting.started_from else {}),
        **({"about": more} if more else {}),
    }


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what does not fit in a checkpoint that is whole into an error of ours.

    Raises:
        FormatError: it is damaged, or was written by another release.
    """
    try:
        yield
    except (ConfigError, FormatError):
        raise
    except (OSError, SafetensorError, *MALFORMED) as error:
        raise FormatError(
            f"{path} cannot be read ({type(error).__name__}: {error}). It is damaged, or was written by another "
            "release: remove it to go on from the one before."
        ) from error


@contextmanager
def restoring(path: Path, batches: object) -> Iterator[None]:
    """Turn what a stream makes of a state that is not its own into an error of ours.

    What the stream says on purpose, as a ValueError of its own kind, is left as it is.

    Raises:
        FormatError: the state does not fit.
    """
    try:
        yield
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        raise _unfit(path, batches, error) from error
    except MALFORMED as error:
        raise _unfit(path, batches, error) from error


def _unfit(path: Path, batches: object, error: Exception) -> FormatError:
    return FormatError(
        f"The {type(batches).__name__} cannot go on from what {path} holds of it ({type(error).__name__}: {error}). "
        "Give the stream that the run was begun with, or choose another folder."
    )


def _require_of(path: Path, fitting: Fitting) -> None:
    """See that a checkpoint's SAE is the one that is trained here, and was trained in the same way."""
    there = json.loads(path.read_text(encoding="utf-8"))
    asked = {**dataclasses.asdict(fitting.config), "training": dataclasses.asdict(fitting.train)}
    del asked["input_scale"]  # comes of the first batch
    written, trained = with_defaults(there, SAEConfig), with_defaults(there["training"], TrainConfig)
    found = {name: written.get(name) for name in asked}
    found["training"] = {name: trained.get(name) for name in asked["training"]}
    if different := difference(found, json.loads(json.dumps(asked))):
        place, theirs, ours = different
        raise FormatError(
            f"{path} is of another run: {place} is {theirs!r} there, and {ours!r} here. Remove the checkpoint "
            f"{path.parent.parent}, and put back the one of this run."
        )


def _write_sae(folder: Path, fitting: Fitting, told: dict[str, Any], world: World) -> Iterator[Path]:
    config, weights = fitting.folded()
    contents = native.contents(config, weights, told, whole=world.latents.alone)
    if world.latents.rank:
        del contents[native.CONFIG]  # the first writes it
    place = folder / f"sae-{fitting.number}"
    place.mkdir(exist_ok=True)
    for name, content in contents.items():
        part = name if name == native.CONFIG else _of(name, world.latents.rank, world.latents.size)
        (place / part).write_bytes(content)
        yield place / part


def _write_tree(folder: Path, name: str, tree: Mapping[str, Any], part: int, parts: int) -> list[Path]:
    data, tensors = split(tree)
    path = folder / _of(name, part, parts)
    save_file(tensors, path.with_suffix(".safetensors"))
    path.write_text(json.dumps(data) + "\n", encoding="utf-8")
    return [path, path.with_suffix(".safetensors")]


def _read_tree(folder: Path, name: str, part: int, parts: int) -> Any:
    path = folder / _of(name, part, parts)
    return join(json.loads(path.read_text(encoding="utf-8")), load_file(path.with_suffix(".safetensors")))


def _restore_stream(path: Path, state: Mapping[str, Any], batches: Any, world: World) -> None:
    """Every process gets back its own state.

    If they are another number now, the stream divides all states anew, unless only the first has any: then it is that
    of the whole stream.
    """
    if "stream" in state:
        kept = [state]
    else:
        with reading(path):
            kept = [_read_tree(path, STREAM, *each) for each in _each(_parts_of(path, STREAM))]
    same = len(kept) == world.size
    with reading(path):
        random, states = kept[world.rank if same else 0]["random"], [one["stream"] for one in kept]
        torch.set_rng_state(random)
    divided = callable(getattr(batches, "restore_from", None))
    if not divided and not same and any(one is not None for one in states[1:]):
        raise ConfigError(
            f"{path} was written by {len(states)} processes, each with a stream of its own, and there are {world.size} "
            "now. Start as many, or give streams that can be divided anew (saes.Slices, saes.Parts)."
        )
    with restoring(path, batches):
        if divided:
            batches.restore_from(states)
        else:
            batches.restore(states[world.rank if same else 0])


def shards_of(folder: Path) -> list[Path]:
    """The files of an SAE's shards in a checkpoint, in the order of the latents."""
    return [folder / _of(native.WEIGHTS, *each) for each in _each(_parts_of(folder, native.WEIGHTS))]


def _each(parts: int) -> list[tuple[int, int]]:
    return [(part, parts) for part in range(parts)]


def _parts_of(folder: Path, name: str) -> int:
    return max(1, len(list(folder.glob(f"{Path(name).stem}-*-of-*{Path(name).suffix}"))))


def _of(name: str, part: int, parts: int) -> str:
    """``sae-0-of-4.safetensors`` for part 0 of 4 of ``sae.safetensors``; the name itself where there is one part."""
    path = Path(name)
    return name if parts == 1 else f"{path.stem}-{part}-of-{parts}{path.suffix}"
