"""Qwen-Scope: ``layer{n}.sae.pt`` with a top-k SAE of the residual stream that leaves layer n. Read only.

``a = topk(x W_enc^T + b_enc)``, ``x_hat = a W_dec^T + b_dec``. k, width and model stand in the name of the repository
alone (``SAE-Res-Qwen3-1.7B-Base-W32K-L0_50``), so k is asked for where the path does not have it.
"""

import re

from saes.errors import FormatError
from saes.formats.files import Found, read_torch, tensors_in
from saes.formats.given import Given
from saes.formats.weights import Weights, build
from saes.sae import SAE

KEYS = (frozenset({"W_enc", "W_dec", "b_enc", "b_dec"}),)
_REPOSITORY = re.compile(r"SAE-Res-([\w.-]+)-W(\d+)K-L0_(\d+)")
_LAYER = re.compile(r"layer(\d+)\.sae\.pt")


def read(found: Found, given: Given) -> SAE:
    """Read an SAE.

    Raises:
        FormatError: the file is damaged or holds something else, its width is not the path's, or k is not known.
    """
    if (path := found.torch_file) is None:
        raise FormatError(f"{found.path} is no torch file: name the file of one layer, layerN.sae.pt.")
    stored = tensors_in(path, read_torch(path))
    d_sae, d_in = stored.sides("W_enc")
    tensors = stored.take({"W_enc": [d_sae, d_in], "W_dec": [d_in, d_sae], "b_enc": [d_sae], "b_dec": [d_in]})
    weights = Weights(tensors["W_enc"].T, tensors["W_dec"].T, tensors["b_enc"], tensors["b_dec"])
    named = _REPOSITORY.search(str(path.absolute()))
    if named and int(named[2]) * 1024 != d_sae:
        raise FormatError(f"{path}: tensor W_enc has {d_sae} rows, but the path says {int(named[2]) * 1024} latents.")
    layer = _LAYER.fullmatch(path.name)
    return build(
        weights,
        path,
        given,
        k=given.k_beside(int(named[3]) if named else None, path),
        model=f"Qwen/{named[1]}" if named else None,
        site=f"{int(layer[1])}.resid_post" if layer else None,
    )
