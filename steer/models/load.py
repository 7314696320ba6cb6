"""Loading a language model: the embedded one, a local folder and a hub id take the same path."""

from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch

from steer.errors import ModelError
from steer.models.model import LanguageModel

EMBEDDED = "embedded"
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


def embedded_folder() -> Path:
    """Folder of the model that ships with the package."""
    return Path(str(files("steer") / "embedded" / "model"))


def load_model(
    name: str | Path = EMBEDDED,
    device: str = "auto",
    dtype: Dtype = "auto",
    revision: str | None = None,
    offline: bool = False,
) -> LanguageModel:
    """Load a causal language model and its tokenizer with transformers.

    ``name`` is ``embedded`` (ships with the package), a local folder, or a hub id such as
    ``microsoft/Phi-3-mini-4k-instruct``. Only a hub id goes to the network, and not with ``offline`` or
    ``HF_HUB_OFFLINE=1``. ``device="auto"`` takes CUDA where it is present; ``dtype="auto"`` takes the checkpoint's
    dtype on an accelerator and float32 on a CPU. Code from the hub is never run.

    Raises:
        ModelError: the model is unknown, the folder holds no weights, a file is damaged, or its architecture is not
            supported.
    """
    source = str(embedded_folder() if str(name) == EMBEDDED else name)
    is_folder = Path(source).is_dir()
    if is_folder:
        _check_folder(Path(source))
    elif _looks_like_path(source):
        raise ModelError(f"No model at {source}: there is no such folder. Give a folder, a hub id, or `{EMBEDDED}`.")
    device = _resolve_device(device)
    options: dict[str, Any] = {
        "revision": revision,
        "local_files_only": offline or is_folder,
        "trust_remote_code": False,
    }
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source, dtype=_resolve_dtype(dtype, device), use_safetensors=True, output_loading_info=True, **options
        )
        _check_complete(source, loaded[1])
        model = loaded[0].to(device).eval().requires_grad_(False)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, TypeError, SafetensorError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(_explain(source, is_folder, error)) from error
    return LanguageModel(model, tokenizer, str(name))


def _check_complete(source: str, loading: dict[str, Any]) -> None:
    """Weights that are missing would silently be random."""
    for problem in ("missing_keys", "mismatched_keys"):
        if names := sorted(map(str, loading.get(problem) or ())):
            shown = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
            raise ModelError(
                f"The weights in {source} do not fit its config.json: {len(names)} tensors are "
                f"{problem.removesuffix('_keys')} ({shown}). Copy the model again."
            )


def _check_folder(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    if "config.json" not in names:
        raise ModelError(f"{folder} holds no model: config.json is missing. Expected a folder in transformers format.")
    if not any(name.endswith(".safetensors") for name in names):
        raise ModelError(
            f"{folder} holds no weights: expected model.safetensors (or shards of it). "
            "Pickled weights (.bin, .pt) are not read; convert them to safetensors first."
        )


def _looks_like_path(source: str) -> bool:
    return source.startswith((".", "/", "~")) or source.count("/") > 1 or "\\" in source


def _resolve_device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"The device {device!r} cannot be used ({str(error).splitlines()[0]}).") from error
    return device


def _resolve_dtype(dtype: str, device: str) -> Any:
    if dtype == "auto":
        return torch.float32 if device == "cpu" else "auto"
    return getattr(torch, dtype)


def _explain(source: str, is_folder: bool, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if is_folder:
        return f"The model in {source} cannot be loaded: {reason}"
    return (
        f"The model {source!r} is neither a local folder nor `{EMBEDDED}`, and the hub did not give it: {reason} "
        "Check the name, the network, and HF_TOKEN for gated models."
    )
