"""What has no exact form here is refused by its name, and docs/formats.md lists it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import saes
from saes import FormatError
from saes.formats.saelens import ARCHITECTURES

PAGE = Path(__file__).parents[3] / "docs" / "formats.md"
FILES = {
    "saelens": ("cfg.json", "sae_weights.safetensors"),
    "sparsify": ("cfg.json", "sae.safetensors"),
    "gemma_scope_2": ("config.json", "params.safetensors"),
    "llama_scope": ("hyperparams.json", "checkpoints/final.safetensors"),
    "llamascopium": ("config.json", "sae_weights.safetensors"),
}
LLAMA = {"d_model": 8, "d_sae": 16, "hook_point_in": "blocks.3.hook_resid_post", "norm_activation": "none"}
LINEAR = {
    "encoder.weight": torch.zeros(16, 8),
    "encoder.bias": torch.zeros(16),
    "decoder.weight": torch.zeros(8, 16),
    "decoder.bias": torch.zeros(8),
}


def refused_in_docs(format):
    """The cells of the page's table that say what is refused of a format."""
    table = PAGE.read_text(encoding="utf-8").split("## What is refused")[1].split("##")[0]
    of, found = "", ""
    for row in (line.split("|") for line in table.splitlines() if line.startswith("|")):
        of = row[1].strip() or of
        found += row[2] if of == f"`{format}`" else ""
    return found


def written(folder, format, config, tensors):
    """A folder with the files of a format."""
    settings, weights = FILES[format]
    (folder / weights).parent.mkdir(exist_ok=True)
    (folder / settings).write_text(json.dumps(config))
    save_file(tensors, folder / weights)
    return folder


@pytest.mark.parametrize("architecture", ["abstopk", "matching_pursuit", "temporal"])
def test_saelens(tmp_path, architecture):
    config = {"architecture": architecture, "d_in": 8, "d_sae": 16, "metadata": {}, "settings_of_its_own": 3}
    with pytest.raises(FormatError, match=f"architecture is '{architecture}', which has no exact form here"):
        saes.load(written(tmp_path, "saelens", config, {"W_enc": torch.zeros(8, 16)}))
    assert f"`{architecture}`" in refused_in_docs("saelens")


def test_every_architecture_of_saelens_is_read_or_listed():
    registry = pytest.importorskip("sae_lens.registry")
    there = {*registry.SAE_CLASS_REGISTRY, *registry.SAE_TRAINING_CLASS_REGISTRY}
    listed = {name for name in there if f"`{name}`" in refused_in_docs("saelens")}
    assert listed == there - {*ARCHITECTURES}


@pytest.mark.parametrize(
    ("format", "config", "tensors", "words", "name"),
    [
        ("sparsify", {"activation": "groupmax", "d_in": 8}, LINEAR, "activation is 'groupmax'", "groupmax"),
        ("sparsify", {"signed": True, "d_in": 8}, LINEAR, "signed is true", "signed"),
        ("gemma_scope_2", {}, {"w_dec": torch.zeros(16, 3, 8)}, "a cross-layer transcoder", "cross-layer transcoders"),
        ("llama_scope", {**LLAMA, "use_glu_encoder": True}, LINEAR, "use_glu_encoder is true", "use_glu_encoder"),
        ("llama_scope", {**LLAMA, "act_fn": "batchtopk"}, LINEAR, "act_fn is 'batchtopk'", "batchtopk"),
        *[
            ("llamascopium", {**LLAMA, "sae_type": kind}, LINEAR, f"sae_type is '{kind}'", kind)
            for kind in ("crosscoder", "clt", "lorsa", "molt")
        ],
        ("llamascopium", {**LLAMA, "use_glu_encoder": True}, LINEAR, "use_glu_encoder is true", "use_glu_encoder"),
        *[
            ("llamascopium", {**LLAMA, "act_fn": kind}, LINEAR, f"act_fn is '{kind}'", kind)
            for kind in ("batchtopk", "layertopk", "batchlayertopk")
        ],
    ],
)
def test_settings_of_other_formats(tmp_path, format, config, tensors, words, name):
    with pytest.raises(FormatError, match=words):
        saes.load(written(tmp_path, format, config, tensors))
    assert name in refused_in_docs(format)


@pytest.mark.parametrize("kind", ["CrossCoder", "BatchTopKCrossCoder", "IdentityDict"])
def test_classes_of_dictionary_learning(tmp_path, kind):
    torch.save(LINEAR, tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": kind}}))
    with pytest.raises(FormatError, match=f"dict_class is '{kind}', which is not known"):
        saes.load(tmp_path)
    assert f"`{kind}`" in refused_in_docs("dictionary_learning")


def test_a_crosscoder_of_dictionary_learning_is_named_without_its_config(tmp_path):
    """Its tensors have the names of AutoEncoderNew, with one more axis."""
    shapes = {"encoder.weight": (2, 8, 16), "decoder.weight": (2, 16, 8), "decoder.bias": (2, 8)}
    tensors = LINEAR | {name: torch.zeros(shape) for name, shape in shapes.items()}
    torch.save(tensors, tmp_path / "ae.pt")
    with pytest.raises(FormatError, match=r"encoder\.weight has shape \[2, 8, 16\], that of a CrossCoder"):
        saes.load(tmp_path / "ae.pt")


def test_distributed_files_of_llamascopium(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "sae_weights.dcp").mkdir()
    with pytest.raises(FormatError, match=r"\.dcp"):
        saes.load(tmp_path)
    assert ".dcp" in refused_in_docs("llamascopium")
