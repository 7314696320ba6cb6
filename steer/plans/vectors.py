"""Plans to and from plain steering vectors: one for each layer, added to what leaves it."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import save as to_safetensors
from torch import Tensor

from saes import SAE
from steer.errors import PlanError, SiteError
from steer.files import write_bytes
from steer.models.site import Site
from steer.plans.bind import used_saes
from steer.plans.build import Material
from steer.plans.conditions import ClassifierGate, WindowSpec
from steer.plans.control_vector import read_control_vector, write_control_vector
from steer.plans.edits import DirectionEditSpec, EditSpec, LatentEditSpec, NullSpaceEditSpec
from steer.plans.files import read_tensors
from steer.plans.plan import SteeringPlan
from steer.plans.sources import ModelSpec, Note
from steer.steering.direction_edits import unit_of
from steer.steering.latents import check_latents, check_sae, site_of
from steer.steering.text_gate import Classifier

Vectors = dict[int, Float[Tensor, " d_model"]]
"""What is added to what leaves each layer, by layer."""
KINDS = (".safetensors", ".gguf")
_TENSOR = re.compile(r"direction\.(\d{1,9})")


def export_vectors(
    plan: SteeringPlan, path: str | Path, note: Note, hint: str | None = None, saes: Mapping[str, SAE] | None = None
) -> Vectors:
    """Write what a plan adds to each layer as plain vectors; SAEs are loaded unless they are given.

    A ``.safetensors`` file has tensors named ``direction.LAYER``; a ``.gguf`` file is a control vector of llama.cpp,
    with ``hint`` (the architecture's name) as its ``model_hint``. ``note`` is told what these files have no place for.

    Raises:
        PlanError: the name ends otherwise; or the plan does something that adding one vector to all tokens does not.
        MissingExtra: the package for GGUF is not installed.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    _check_kind(path)
    found = vectors_of(plan, note, saes or {})
    if path.suffix == ".gguf":
        write_bytes(path, write_control_vector(found, hint or plan.model.architecture or "unknown"))
    else:
        write_bytes(path, to_safetensors({f"direction.{layer}": vector for layer, vector in sorted(found.items())}))
    lost = [name for name in ("system", "sampling", "label", "source", "licence") if getattr(plan, name) is not None]
    if lost:
        note(f"not in {path.name}, which has no place for it: {', '.join(lost)}.")
    if not all(edit.window.first_token for edit in plan.edits):
        note(f"the plan leaves the first token of a row alone; who uses {path.name} adds to it as well.")
    return found


def vectors_of(plan: SteeringPlan, note: Note, saes: Mapping[str, SAE]) -> Vectors:
    """What a plan adds to each layer. Errors as ``export_vectors``."""
    if not plan.edits:
        raise PlanError("The plan has no edits, so there is no vector to export.")
    for number, edit in enumerate(plan.edits):
        if reason := _not_plain(edit):
            raise PlanError(
                f"edits.{number} is no plain vector: {reason}. Export a plan whose edits add something, without a "
                "gate, to all tokens; or share the plan itself."
            )
    material = Material(used_saes(plan.edits, plan.saes, saes, plan.folder, note), plan.saes, plan.vectors, _no_text)
    found: Vectors = {}
    for number, edit in enumerate(plan.edits):
        try:
            site, vector = _added(edit, material)
            layer = _layer(site)
        except (PlanError, SiteError) as error:
            raise PlanError(f"edits.{number}: {error}") from error
        if layer in found and len(found[layer]) != len(vector):
            raise PlanError(f"edits.{number} is {len(vector)} wide, another one at its layer {len(found[layer])}.")
        found[layer] = found[layer] + vector if layer in found else vector
    return found


def _not_plain(edit: EditSpec) -> str | None:
    """Why an edit is not the same vector added to every token; None: it is."""
    if isinstance(edit, NullSpaceEditSpec):
        return "what a map of the activations adds depends on the token"
    if edit.operation == "set":
        return (
            "what setting a latent (a clamp) adds differs from token to token: it depends on how active the latent is"
        )
    if edit.operation != "add":
        return f"what {edit.operation} adds depends on the token"
    if edit.unit == "residual_norm":
        return "what it adds is a multiple of each token's norm"
    if edit.gate is not None:
        return "it has a gate"
    if isinstance(edit, LatentEditSpec) and (edit.error, edit.membership) != ("keep", "allow"):
        return "error='drop' and membership='replace' take out what depends on the token"
    if edit.window.model_copy(update={"first_token": False}) != WindowSpec():
        return "its window does not hold all tokens"
    return None


def _added(edit: EditSpec, material: Material) -> tuple[Site, Float[Tensor, " d_model"]]:
    if isinstance(edit, DirectionEditSpec):
        return Site.parse(edit.site), edit.strength * unit_of(material.vectors[edit.direction])
    assert isinstance(edit, LatentEditSpec), "others are refused before"
    sae = material.saes[edit.sae]
    check_sae(sae)
    if sae.config.input_norm != "none":
        raise PlanError("The SAE normalises each token, so what a latent adds differs from token to token.")
    latents = check_latents(edit.values, sae.config.d_sae)
    scales = edit.maxima or {}
    values = torch.tensor([edit.values[latent] * scales.get(latent, 1.0) for latent in latents])
    return site_of(sae, material.site(edit.sae, edit.site)), values @ sae.W_dec.detach()[latents]


def _layer(site: Site) -> int:
    """The layer that a site is the output of."""
    if site.part == "resid_post":
        return site.layer
    if site.part == "resid_pre" and site.layer > 0:
        return site.layer - 1
    raise PlanError(f"{site} is not what leaves a layer, where plain vectors are added.")


def _no_text(gate: ClassifierGate) -> Classifier:
    raise AssertionError("edits with gates are refused before")


def import_vectors(
    path: str | Path, note: Note, model: str | None = None, strength: float = 1.0, label: str | None = None
) -> SteeringPlan:
    """A plan that adds the vectors of a ``.safetensors`` or ``.gguf`` file, times ``strength``, to all tokens.

    Tensors of a safetensors file are named ``direction.LAYER``, or by a site, such as ``12.resid_post``.

    Raises:
        PlanError: the file cannot be read, or holds something else.
        MissingExtra: the package for GGUF is not installed.
    """
    path = Path(path)
    _check_kind(path)
    if path.suffix == ".gguf":
        hint, by_layer = read_control_vector(path)
        note(f"{path.name} is for a model of the architecture {hint!r}; whether yours is one, it does not tell.")
        tensors = {str(Site(layer)): vector for layer, vector in by_layer.items()}
    else:
        tensors = _by_site(path, read_tensors(path))
    if empty := [site for site, vector in tensors.items() if not vector.any()]:
        note(f"left out, since they are zero: {', '.join(empty)}.")
    in_order = sorted(tensors, key=lambda site: Site.parse(site).order)  # safetensors gives them in any order
    used = {site: tensors[site].float() for site in in_order if site not in empty}
    if not used:
        raise PlanError(f"{path} holds no vector that is not zero.")
    everywhere = WindowSpec(first_token=True)  # as all who use such files do
    edits = []
    for site, vector in used.items():
        length = strength * vector.double().norm().item()
        edits.append(DirectionEditSpec(kind="direction", site=site, direction=site, strength=length, window=everywhere))
    widths = {len(vector) for vector in used.values()}
    if len(widths) > 1:
        raise PlanError(f"The vectors in {path} have {' and '.join(map(str, sorted(widths)))} dimensions.")
    fits = ModelSpec(name=model, d_model=widths.pop())
    return SteeringPlan(label=label, source=path.name, model=fits, edits=tuple(edits), vectors=used)


def _by_site(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The vectors of a file by their site."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        site = _site_name(name, path)
        if site in found:
            raise PlanError(f"{path} holds two vectors for {site}, one of them as {name!r}. Leave one of them out.")
        if tensor.ndim != 1 or tensor.is_complex() or not tensor.float().isfinite().all():
            raise PlanError(
                f"{path}: {name!r} must be a vector of finite real numbers, got {tensor.dtype} of shape "
                f"{list(tensor.shape)}."
            )
        found[site] = tensor
    return found


def _site_name(name: str, path: Path) -> str:
    if match := _TENSOR.fullmatch(name):
        return str(Site(int(match[1])))
    try:
        return str(Site.parse(name))
    except SiteError:
        raise PlanError(
            f"{path}: the tensor {name[:100]!r} is named neither direction.LAYER nor by a site such as 12.resid_post."
        ) from None


def _check_kind(path: Path) -> None:
    if path.suffix not in KINDS:
        raise PlanError(f"Plain vectors are in a file that ends in {' or '.join(KINDS)}, got {path}.")
