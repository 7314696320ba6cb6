"""Null-space steering (AlphaSteer, arXiv 2506.07022): move malicious prompts towards refusal, benign ones hardly.

With rows as prompts: P projects on the directions that benign activations H_b use least, and D solves the ridge problem
``min |H_m P D - R|^2 + ridge |P D|^2`` for malicious activations H_m, where each row of R is the refusal vector. At the
chosen layers ``h' = h + strength * h P D``; no gate is needed, since h P is nearly zero for benign h.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steer.checks import require_finite
from steer.errors import DataError, PlanError
from steer.methods.fitted import Fitted, about, check_prompts, last_states
from steer.models.model import LanguageModel
from steer.models.site import Site
from steer.responders.responder import Prompts
from steer.steering.null_space import NullSpaceEdit
from steer.steering.window import Window


@dataclass(frozen=True)
class NullSpaceConfig:
    """How the maps are fitted and used."""

    layers: tuple[int, ...] | None = None
    """Layers whose input is changed; None: from a quarter to five eighths of the depth, as in the paper."""
    share: float = 0.5
    """Share of the directions kept by P: those that benign activations use least (paper: 0.3 to 0.6)."""
    ridge: float = 10.0
    """Weight of |P D|^2."""
    strength: float = 0.5
    """The paper's lambda at each layer, without unit. Its sign there is negative, its vector points to compliance."""
    window: Window = Window("prompt")  # noqa: RUF009  # frozen
    """On which tokens."""

    def __post_init__(self) -> None:
        for name in ("share", "ridge", "strength"):
            require_finite(name, getattr(self, name), PlanError)
        if not 0 < self.share <= 1 or self.ridge <= 0:
            raise PlanError(f"share lies in (0, 1] and ridge is above 0: got {self.share} and {self.ridge}.")
        if self.layers is not None and not self.layers:
            raise PlanError("layers needs a layer. Use None for those of the paper.")


def fit(
    lm: LanguageModel,
    benign: Prompts,
    malicious: Prompts,
    refused: Prompts | None = None,
    config: NullSpaceConfig | None = None,
) -> Fitted:
    """Fit a map for each layer from the last token of prompts.

    Args:
        lm: the model.
        benign: prompts that are to stay as they are; many more than dimensions are best.
        malicious: prompts that are to be refused.
        refused: prompts that the model refuses already: the refusal vector is their mean less that of the benign
            ones. None: the malicious ones.
        config: None: the defaults.

    Raises:
        DataError: a set is empty, activations are not finite, or those of benign and refused prompts do not differ.
        SiteError: the model lacks a layer.
    """
    config = config or NullSpaceConfig()
    refused = malicious if refused is None else refused
    check_prompts(benign=benign, malicious=malicious, refused=refused)
    sites = [Site(layer, "resid_pre") for layer in config.layers or _usual_layers(lm)]
    good, bad, model_case = (last_states(lm, sites, prompts)[:, :, 0] for prompts in (benign, malicious, refused))
    interventions, rows = [], []
    for place, site in enumerate(sites):
        vector = model_case[place].mean(0) - good[place].mean(0)
        if not vector.norm() > 1e-6 * good[place].mean(0).norm():  # of equal sets, only rounding is left
            raise DataError(
                f"Benign and refused prompts do not differ at {site}, so nothing leads from one to the other."
            )
        matrix = steering_matrix(projection(good[place], config.share), bad[place], vector, config.ridge)
        interventions.append(NullSpaceEdit(site, matrix.float(), config.strength, config.window))
        rows.append(_moved(site, matrix, good[place], bad[place], vector))
    record = {
        "method": "null-space",
        "share": config.share,
        "ridge": config.ridge,
        "strength": config.strength,
        "layers": rows,
        "prompts": {"benign": about(benign), "malicious": about(malicious), "refused": about(refused)},
    }
    return Fitted(tuple(interventions), record)


def projection(benign: Float[Tensor, "prompt d_model"], share: float) -> Float[Tensor, "d_model d_model"]:
    """P: on the ``share`` of the eigenvectors of ``H_b^T H_b`` with the smallest eigenvalues, at least one."""
    vectors = torch.linalg.eigh(benign.T @ benign).eigenvectors  # the smallest first
    kept = vectors[:, : max(1, int(share * benign.shape[1]))]
    return kept @ kept.T


def steering_matrix(
    P: Float[Tensor, "d_model d_model"],
    malicious: Float[Tensor, "prompt d_model"],
    vector: Float[Tensor, " d_model"],
    ridge: float,
) -> Float[Tensor, "d_model d_model"]:
    """P D with ``D = (X^T X + ridge P^T P)^+ X^T R`` and ``X = H_m P``."""
    X = malicious @ P
    R = vector.expand(len(malicious), -1)
    return P @ torch.linalg.pinv(X.T @ X + ridge * P.T @ P, hermitian=True) @ X.T @ R


def _moved(site: Site, matrix: Tensor, benign: Tensor, malicious: Tensor, vector: Tensor) -> dict[str, Any]:
    """How far prompts of each kind are moved at strength 1, in lengths of the refusal vector."""
    length = vector.norm().clamp_min(1e-300)
    good, bad = (((states @ matrix).norm(dim=-1).mean() / length).item() for states in (benign, malicious))
    return {"layer": site.layer, "vector_norm": length.item(), "benign_moved": good, "malicious_moved": bad}


def _usual_layers(lm: LanguageModel) -> range:
    first = min(max(1, lm.n_layers // 4), lm.n_layers - 1)  # the last token's embedding is alike in all prompts
    return range(first, max(first + 1, lm.n_layers * 5 // 8))
