"""NVIDIA's sparse-autoencoder recipe (bionemo-framework): a training checkpoint ``.pt`` of its top-k SAE. Read only.

``a = topk(relu(((x - mean) / std - pre_bias) W^T + latent_bias))``, and the output times std plus mean. Its ReLU SAE
divides each token by its norm and does not undo that, which has no form here.
"""

from saes.errors import FormatError
from saes.formats.files import Found, read_torch, setting, tensors_in
from saes.formats.given import Given
from saes.formats.weights import Weights, build
from saes.sae import SAE

KEYS = (frozenset({"model_state_dict"}),)
NORM_EPS = 1e-8


def read(found: Found, given: Given) -> SAE:
    """Read an SAE. Keys may carry the prefix ``module.`` of a distributed run.

    Raises:
        FormatError: the file is damaged, holds something else, or holds the ReLU SAE.
    """
    if (path := found.torch_file) is None:
        raise FormatError(f"{found.path} is no torch file: name the checkpoint's .pt file itself.")
    contents = read_torch(path)
    state = setting(contents, "model_state_dict", dict, path)
    stored = tensors_in(path, {str(name).removeprefix("module."): value for name, value in state.items()})
    if "model_config" not in contents:
        raise FormatError(
            f"{path} lacks model_config, which its top-k SAEs have. Its ReLU SAE divides each token by its norm and "
            "does not undo it, which an SAE here cannot do."
        )
    config = setting(contents, "model_config", dict, path)
    d_sae, d_in = stored.sides("encoder.weight")
    for key, side in (("input_dim", d_in), ("hidden_dim", d_sae)):
        if setting(config, key, int, path, side) != side:
            raise FormatError(
                f"{path}: model_config has {key} {config[key]}, but encoder.weight has shape {[d_sae, d_in]}."
            )
    shapes = {
        "encoder.weight": [d_sae, d_in],
        "decoder.weight": [d_in, d_sae],
        "latent_bias": [d_sae],
        "pre_bias": [d_in],
    }
    tensors = stored.take(shapes, ignored=("stats_last_nonzero",))
    weights = Weights(
        W_enc=tensors["encoder.weight"].T,
        W_dec=tensors["decoder.weight"].T,
        b_enc=tensors["latent_bias"],
        b_dec=tensors["pre_bias"],
        subtract_b_dec=True,
    )
    normalised = setting(config, "normalize_input", bool, path)
    return build(
        weights,
        path,
        given,
        k=given.k_beside(setting(config, "top_k", int, path, None), path),
        input_norm="layer_norm" if normalised else "none",
        norm_eps=NORM_EPS if normalised else 1e-5,
    )
