"""Goodfire's SAEs: a ``.pt`` or ``.pth`` file with two linear layers and ReLU. Read only.

``f = relu(encoder_linear(x))``, ``x_hat = decoder_linear(f)``. The file's name gives the model and the layer, whose
output it reads: ``Llama-3.1-8B-Instruct-SAE-l19.pth``.
"""

import re

from saes.errors import FormatError
from saes.formats.files import Found, read_torch, tensors_in
from saes.formats.given import Given
from saes.formats.weights import Weights, build
from saes.sae import SAE

KEYS = (frozenset({"encoder_linear.weight", "encoder_linear.bias", "decoder_linear.weight", "decoder_linear.bias"}),)
_NAME = re.compile(r"(.+)-SAE-l(\d+)")


def read(found: Found, given: Given) -> SAE:
    """Read an SAE.

    Raises:
        FormatError: the file is damaged or holds something else.
    """
    if (path := found.torch_file) is None:
        raise FormatError(f"{found.path} is no torch file: name the .pt or .pth file itself.")
    stored = tensors_in(path, read_torch(path))
    d_sae, d_in = stored.sides("encoder_linear.weight")
    tensors = stored.take(
        {
            "encoder_linear.weight": [d_sae, d_in],
            "encoder_linear.bias": [d_sae],
            "decoder_linear.weight": [d_in, d_sae],
            "decoder_linear.bias": [d_in],
        }
    )
    weights = Weights(
        W_enc=tensors["encoder_linear.weight"].T,
        W_dec=tensors["decoder_linear.weight"].T,
        b_enc=tensors["encoder_linear.bias"],
        b_dec=tensors["decoder_linear.bias"],
    )
    name = _NAME.fullmatch(path.stem)
    where = {"model": name[1], "site": f"{int(name[2])}.resid_post"} if name else {}
    return build(weights, path, given, activation="relu", **where)
