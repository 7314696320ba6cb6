"""Qwen-Scope, Goodfire and NVIDIA: fixtures as released, compared with their formulas in float64."""

from pathlib import Path

import pytest
import torch

import saes
from saes import FormatError
from tests.saes.formats.oracle import D_IN, D_SAE, K, agree, inputs, random, topk


def doubles(seed: int = 0, **size: int) -> dict[str, torch.Tensor]:
    return {name: tensor.double() for name, tensor in random(seed, **size).items()}


def qwen(path: Path, d_sae: int = D_SAE) -> Path:
    a = random(d_sae=d_sae)
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {"W_enc": a["W_enc"].T, "W_dec": a["W_dec"].T, "b_enc": a["b_enc"], "b_dec": a["b_dec"]}
    torch.save({name: tensor.contiguous() for name, tensor in weights.items()}, path)
    return path


@pytest.mark.parametrize("before", ["", "models--Qwen--"])
def test_qwen_scope_takes_k_from_the_repository(tmp_path, before):
    repository = f"{before}SAE-Res-Qwen3-1.7B-Base-W2K-L0_7"
    path, a, x = (
        qwen(tmp_path / repository / "snapshots" / "layer4.sae.pt", 2048),
        doubles(d_sae=2048),
        inputs().double(),
    )
    latents = topk(x @ a["W_enc"] + a["b_enc"], 7)
    sae = saes.load(path)
    agree(sae, x, latents, latents @ a["W_dec"] + a["b_dec"])
    assert (sae.config.k, sae.config.model, sae.config.site) == (7, "Qwen/Qwen3-1.7B-Base", "4.resid_post")
    with pytest.raises(FormatError, match="says k = 7, but k = 8 was given"):
        saes.load(path, k=8)


def test_qwen_scope_elsewhere_has_to_be_told_k(tmp_path):
    path, a, x = qwen(tmp_path / "some.pt"), doubles(), inputs().double()
    with pytest.raises(FormatError, match="does not say how many latents"):
        saes.load(path)
    latents = topk(x @ a["W_enc"] + a["b_enc"], K)
    agree(saes.load(path, k=K), x, latents, latents @ a["W_dec"] + a["b_dec"])
    with pytest.raises(FormatError, match="W_enc has 40 rows, but the path says 2048"):
        saes.load(qwen(tmp_path / "SAE-Res-Qwen3-8B-Base-W2K-L0_7" / "layer0.sae.pt"))


def test_a_folder_of_many_torch_files_asks_for_one(tmp_path):
    qwen(tmp_path / "layer0.sae.pt")
    assert saes.load(tmp_path, k=K).config.site == "0.resid_post"
    qwen(tmp_path / "layer1.sae.pt")
    with pytest.raises(FormatError, match=r"or one \.pt file"):
        saes.load(tmp_path, k=K)


@pytest.mark.parametrize("name", ["Llama-3.1-8B-Instruct-SAE-l19.pth", "some.pt"])
def test_goodfire(tmp_path, name):
    r, a, x = random(), doubles(), inputs().double()
    weights = {"encoder_linear.weight": r["W_enc"].T, "encoder_linear.bias": r["b_enc"]}
    torch.save(weights | {"decoder_linear.weight": r["W_dec"].T, "decoder_linear.bias": r["b_dec"]}, tmp_path / name)
    latents = (x @ a["W_enc"] + a["b_enc"]).relu()
    sae = saes.load(tmp_path / name)
    agree(sae, x, latents, latents @ a["W_dec"] + a["b_dec"])
    named = name.startswith("Llama")
    assert sae.config.model == ("Llama-3.1-8B-Instruct" if named else None)
    assert sae.config.site == ("19.resid_post" if named else None)


def nvidia(path: Path, prefix: str = "", **config) -> Path:
    r = random()
    state = {
        "pre_bias": r["b_dec"],
        "latent_bias": r["b_enc"],
        "encoder.weight": r["W_enc"].T,
        "decoder.weight": r["W_dec"].T,
        "stats_last_nonzero": torch.zeros(D_SAE, dtype=torch.long),
    }
    settings = {"input_dim": D_IN, "hidden_dim": D_SAE, "top_k": K, "normalize_input": True, "auxk": None, **config}
    contents = {
        "model_state_dict": {prefix + name: tensor for name, tensor in state.items()},
        "optimizer_state_dict": torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))]).state_dict(),
        "global_step": 3,
        "config": {"lr": 3e-4, "n_epochs": 1},
        "model_config": settings,
    }
    torch.save(contents, path)
    return path


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("size", [1.0, 1e-3])
def test_nvidia(tmp_path, prefix, normalised, size):
    path = nvidia(tmp_path / "checkpoint_final.pt", prefix, normalize_input=normalised)
    a, x = doubles(), size * inputs().double()
    mean, deviation = x.mean(-1, keepdim=True), x.std(-1, keepdim=True) + 1e-8
    read = (x - mean) / deviation if normalised else x
    latents = topk((read - a["b_dec"]) @ a["W_enc"] + a["b_enc"], K)
    output = latents @ a["W_dec"] + a["b_dec"]
    agree(saes.load(path), x, latents, output * deviation + mean if normalised else output)


def test_nvidia_s_relu_sae_is_refused_with_the_reason(tmp_path):
    contents = torch.load(nvidia(tmp_path / "a.pt"), weights_only=True)
    del contents["model_config"]
    torch.save(contents, tmp_path / "a.pt")
    with pytest.raises(FormatError, match="divides each token by its norm and does not undo it"):
        saes.load(tmp_path / "a.pt")
    with pytest.raises(FormatError, match=r"model_config has hidden_dim 41, but encoder\.weight has shape"):
        saes.load(nvidia(tmp_path / "b.pt", hidden_dim=41))
