"""Loading a language model: the embedded one, a local folder and a hub id take the same path."""

import json
import os
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from steer.errors import ModelError
from steer.models.layout import find_layout
from steer.models.model import LanguageModel

EMBEDDED = "embedded"
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
_HUB_ID = re.compile(r"(?!.*(?:--|\.\.))(?=.{1,96}$)\w[\w.-]*(?:/\w[\w.-]*)?", re.ASCII)  # the hub's own rule
_PATIENCE = 20.0  # seconds for the hub's first answer
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d{1,9})\.")
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")


def embedded_folder() -> Path:
    """Folder of the model that ships with the package."""
    return Path(str(files("steer") / "embedded" / "model"))


def load_model(
    name: str | Path = EMBEDDED,
    device: str = "auto",
    dtype: Dtype = "auto",
    revision: str | None = None,
    offline: bool = False,
    note: Callable[[str], None] | None = None,
) -> LanguageModel:
    """Load a causal language model and its tokenizer with transformers.

    ``name`` is ``embedded`` (ships with the package), a local folder, or a hub id such as
    ``microsoft/Phi-3-mini-4k-instruct``. Local files come first: the network is used only for a hub id that is not
    whole in the local cache, ``note`` is told before it is, and with ``offline`` or ``HF_HUB_OFFLINE=1`` it never is.
    ``device="auto"`` takes CUDA where it is present; ``dtype="auto"`` takes the checkpoint's dtype on an accelerator
    and float32 on a CPU. Code that comes with a model is never run, and pickled weights are never read.

    Raises:
        ModelError: the model is unknown, the folder holds no weights or no tokenizer, a file is damaged, weights,
            config and tokenizer do not fit together, or the architecture is not supported.
    """
    source = _source(name)
    is_folder = os.path.isdir(source)
    if is_folder and revision is not None:
        raise ModelError(
            f"revision is that of a model of the hub, and {name} is local: got {revision!r}. Leave it out."
        )
    if is_folder:
        _check_folder(Path(source))
    else:
        _check_hub_id(source)
    device = resolve_device(device)
    torch_dtype = _resolve_dtype(dtype, device)
    try:
        model, tokenizer = _read(source, torch_dtype, revision, local=True)
    except _NotReadError as error:
        if is_folder:
            raise ModelError(f"The model in {source} cannot be loaded ({error}).") from error.__cause__
        if offline or _hub_is_off():
            raise ModelError(
                f"The model {source!r} is neither a local folder nor `{EMBEDDED}`, and with the hub switched off it "
                f"cannot be loaded from the local cache ({error}). Check the name, or download it first."
            ) from error.__cause__
        model, tokenizer = _ask_hub(source, torch_dtype, revision, note)
    try:
        model = model.to(device)
    except RuntimeError as error:  # out of memory, for example
        raise ModelError(f"The model {source} cannot be put on {device}: {_one_line(error)}") from error
    return LanguageModel(model.eval().requires_grad_(False), tokenizer, str(name))


def _source(name: object) -> str:
    """The folder or hub id that a name stands for."""
    if not isinstance(name, str | Path):
        raise ModelError(f"A model is named by a folder or a hub id, got {type(name).__name__} {name!r}.")
    source = str(embedded_folder() if str(name) == EMBEDDED else name)
    if os.path.isfile(source):
        raise ModelError(f"{source} is a file. Give the folder that holds the model: {os.path.dirname(source) or '.'}")
    return source


class _NotReadError(Exception):
    """A library's reason, on one line, for which a model was not read; the library's error is the cause."""


def _ask_hub(source: str, dtype: Any, revision: str | None, note: Callable[[str], None] | None) -> tuple[Any, Any]:
    if note:
        note(f"asking the hub for {source}, which is not in the local cache ...")
    _find_on_hub(source, revision)
    try:
        return _read(source, dtype, revision, local=False)
    except _NotReadError as error:
        raise ModelError(
            f"The model {source!r} is neither a local folder nor `{EMBEDDED}`, and the hub did not give it ({error}). "
            "Check the name, the network, and HF_TOKEN for gated models."
        ) from error.__cause__


def _find_on_hub(source: str, revision: str | None) -> None:
    """Ask for the model's page once: transformers asks for each file again and again before it gives up."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    missing = f"The model {source!r} is neither a local folder nor `{EMBEDDED}`, and"
    try:
        HfApi().model_info(source, revision=revision, timeout=_PATIENCE)
    except RevisionNotFoundError as error:
        raise ModelError(f"{source} has no revision {revision!r} on the hub. Check it.") from error
    except GatedRepoError as error:
        raise ModelError(f"{source} is gated: ask for access on its page, and give your token in HF_TOKEN.") from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"{missing} the hub has no model of that name, or it is private. Check the name, and HF_TOKEN."
        ) from error
    except Exception as error:  # the HTTP library below raises errors of many kinds
        raise ModelError(f"{missing} the hub cannot be reached ({_one_line(error)}). Check the network.") from error


def _read(source: str, dtype: Any, revision: str | None, local: bool) -> tuple[Any, Any]:
    """Model and tokenizer. The libraries below raise errors of many kinds for bad files; all become one of ours."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"revision": revision, "local_files_only": local, "trust_remote_code": False}
    part = "tokenizer"
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        tokenizer(["a text"], add_special_tokens=False)  # some settings that cannot work show only now
        part = "model"
        # sizes that do not fit are ignored here, since _check_complete refuses them and names them
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"The {part} {source} needs code that comes with it, which is never run. "
                "Use a model of an architecture that transformers knows."
            ) from error
        raise _NotReadError(f"{part}: {_one_line(error)}") from error
    _check_complete(source, loaded[1])
    _check_layers(source, loaded[0], loaded[1])
    return loaded[0], tokenizer


def _check_complete(source: str, loading: dict[str, Any]) -> None:
    """Weights that are missing or of another size would silently be random."""
    sizes = [
        f"{name} is {list(got)} but should be {list(expected)}"
        for name, got, expected in sorted(loading.get("mismatched_keys") or ())
    ]
    for problem, names in (("missing", sorted(loading.get("missing_keys") or ())), ("of another size", sizes)):
        if names:
            shown = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
            raise ModelError(
                f"The weights in {source} do not fit its config.json: {len(names)} tensors are {problem} "
                f"({shown}). Copy the model again."
            )


def _check_layers(source: str, model: Any, loading: dict[str, Any]) -> None:
    """A config with too few layers would silently give the first part of a model."""
    numbers = [match for name in loading.get("unexpected_keys") or () if (match := _LAYER.search(name))]
    if numbers and (highest := max(int(match[1]) for match in numbers)) >= (count := len(find_layout(model).blocks)):
        raise ModelError(
            f"The weights in {source} do not fit its config.json: they have a layer {highest}, but the config has "
            f"{count} layers. Correct num_hidden_layers, or copy the model again."
        )


def _check_folder(folder: Path) -> None:
    try:
        names = {path.name for path in folder.iterdir()}
        index = folder / "model.safetensors.index.json"
        shards = _shards(index) if index.name in names else set()
    except OSError as error:
        raise ModelError(f"The model in {folder} cannot be read ({error}). Check the permissions.") from error
    if "config.json" not in names:
        raise ModelError(f"{folder} holds no model: config.json is missing. Expected a folder in transformers format.")
    if not any(name.endswith(".safetensors") for name in names):
        raise ModelError(
            f"{folder} holds no weights: expected model.safetensors (or shards of it). "
            "Pickled weights (.bin, .pt) are not read; convert them to safetensors first."
        )
    if odd := sorted(shard for shard in shards if not shard.endswith(".safetensors") or shard not in names):
        raise ModelError(
            f"{index} names {odd[0]!r} as a part of the weights: expected .safetensors files of the same folder. "
            "Pickled weights are not read; copy or convert the model again."
        )
    for name in sorted(shards or {name for name in names if name.endswith(".safetensors")}):
        _check_dtypes(folder, name)
    if not names & set(_VOCABULARIES):
        raise ModelError(
            f"The model in {folder} cannot be loaded: it holds no tokenizer, expected one of "
            f"{', '.join(_VOCABULARIES)}. Write it there with tokenizer.save_pretrained(folder)."
        )


def _check_dtypes(folder: Path, name: str) -> None:
    """Whole numbers are weights only together with the scales that a quantisation config describes."""
    from safetensors import SafetensorError, safe_open

    try:
        if "quantization_config" in json.loads((folder / "config.json").read_text(encoding="utf-8")):
            return
        with safe_open(folder / name, framework="pt") as file:
            dtypes = {key: file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118  # it is no dict
    except (SafetensorError, OSError, ValueError, TypeError, RecursionError):
        return  # transformers says what is wrong with it
    for key, dtype in dtypes.items():
        if key.endswith(".weight") and dtype.startswith(("I", "U")):
            raise ModelError(
                f"{folder / name}: the tensor {key} has dtype {dtype}, and config.json has no quantization_config that "
                "says what the numbers stand for. Convert the weights to floating point, or copy the model again."
            )


def _shards(index: Path) -> set[str]:
    """File names of the weights that an index names."""
    try:
        return {str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{index} is no index of weights ({error!r}). Copy the model again.") from error


def _check_hub_id(source: str) -> None:
    """Refuse what cannot be a hub id, so that a mistyped folder is never sent to the network."""
    if source.startswith((".", "/", "~")) or source.count("/") > 1 or "\\" in source:
        raise ModelError(f"No model at {source}: there is no such folder. Give a folder, a hub id, or `{EMBEDDED}`.")
    if not _HUB_ID.fullmatch(source):
        raise ModelError(
            f"{source[:100]!r} is neither a folder nor a hub id, which is written owner/name. Give a folder, a hub id, "
            f"or `{EMBEDDED}`."
        )


def _hub_is_off() -> bool:
    """Whether the user has switched the hub off (``HF_HUB_OFFLINE=1``)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def resolve_device(device: str) -> str:
    """The device that a name stands for; ``auto`` takes CUDA where it is present.

    Raises:
        ModelError: it cannot be used here.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.empty(0, device=device).device.type
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ModelError(f"The device {device!r} cannot be used ({_one_line(error)}).") from error
    if kind == "meta":
        raise ModelError("The device 'meta' holds no numbers, so no model runs on it. Use auto, cpu or cuda.")
    return device


def _resolve_dtype(dtype: str, device: str) -> Any:
    if dtype not in get_args(Dtype):
        raise ModelError(f"Unknown dtype {dtype!r}, expected one of {', '.join(get_args(Dtype))}.")
    if dtype == "auto":
        return torch.float32 if device == "cpu" else "auto"
    return getattr(torch, dtype)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
