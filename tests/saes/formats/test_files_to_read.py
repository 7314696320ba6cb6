"""Which files of a folder are read, told from their names alone."""

import pytest

import saes
from saes.formats import files_to_read, recognise
from tests.saes.formats.oracle import made

SPARE = ["README.md", "sparsity.safetensors", "cfg.yaml"]


@pytest.mark.parametrize(
    ("names", "file", "needed", "beside"),
    [
        (
            ["cfg.json", "sae_weights.safetensors"],
            None,
            ["cfg.json", "sae_weights.safetensors"],
            "activation_scaler.json",
        ),
        (["config.json", "sae.safetensors"], None, ["config.json", "sae.safetensors"], None),
        (["cfg.json", "sae.safetensors"], None, ["cfg.json", "sae.safetensors"], "../config.json"),
        (["params.npz"], "params.npz", ["params.npz"], None),
        (["params.safetensors"], None, ["params.safetensors"], "config.json"),
        (
            ["hyperparams.json", "checkpoints/final.safetensors"],
            None,
            ["checkpoints/final.safetensors", "hyperparams.json"],
            None,
        ),
        (["config.json", "sae_weights.pt"], None, ["config.json", "sae_weights.pt"], None),
        (["layer0.sae.pt", "layer1.sae.pt"], "layer1.sae.pt", ["layer1.sae.pt"], None),
    ],
)
def test_files_by_their_names(names, file, needed, beside):
    if file != "layer1.sae.pt" and "sae_weights.pt" not in names:
        names = [*names, *SPARE]
    got, optional = files_to_read(names, file)
    assert got == needed
    assert beside is None or beside in optional


def test_names_that_no_format_has():
    with pytest.raises(saes.FormatError, match=r"cfg.json is missing for the format saelens"):
        files_to_read(["sae_weights.safetensors"])
    with pytest.raises(saes.FormatError, match="No SAE of a known format there"):
        files_to_read(["one.pt", "two.pt"])
    with pytest.raises(saes.FormatError, match=r"The format saelens needs cfg.json, which is not there"):
        files_to_read(["sae_weights.safetensors"], format="saelens")
    assert files_to_read(["one.pt", "two.pt"], "two.pt", "goodfire")[0] == ["two.pt"]


@pytest.mark.parametrize("format", ["saes", "saelens", "sparsify", "dictionary_learning", "llama_scope"])
def test_a_folder_of_these_files_alone_is_loaded(tmp_path, format):
    """What is recognised on the disk are the files told by their names, and they are enough."""
    saes.save(made(), tmp_path, format)
    names = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    needed, beside = files_to_read(names)
    found = recognise(tmp_path)
    assert found.format.name == format
    assert set(found.names) == {*needed, *(name for name in beside if name in names)}
    assert all(path.is_file() for path in found.paths)
