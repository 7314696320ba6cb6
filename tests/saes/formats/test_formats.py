"""What holds for all formats: recognition, damaged and hostile files, whole writes."""

import inspect
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import saes
from saes import ConfigError, FormatError, SAEConfig, ShapeError
from saes.formats import FORMATS
from saes.formats.names import lens_name, our_name
from tests.saes.formats.oracle import back, made, random, same

SAES = {
    "saes": lambda: made("topk"),
    "saelens": lambda: made("jumprelu"),
    "sparsify": lambda: made("topk"),
    "dictionary_learning": lambda: made("batch_topk"),
    "gemma_scope": lambda: made("jumprelu"),
    "openai": lambda: made("topk", input_norm="layer_norm"),
    "llama_scope": lambda: made("batch_topk"),
}
WEIGHTS = {
    "saes": "sae.safetensors",
    "saelens": "sae_weights.safetensors",
    "sparsify": "sae.safetensors",
    "dictionary_learning": "ae.pt",
    "gemma_scope": "params.npz",
    "openai": "autoencoder.pt",
    "llama_scope": "checkpoints/final.safetensors",
}
CONFIGS = {
    "saes": "config.json",
    "saelens": "cfg.json",
    "sparsify": "cfg.json",
    "dictionary_learning": "config.json",
    "llama_scope": "hyperparams.json",
}


def test_every_written_format_is_tried_here():
    assert set(SAES) == {one.name for one in FORMATS if one.save}


@pytest.mark.parametrize("format", SAES)
def test_a_written_folder_is_recognised_and_so_is_its_file(tmp_path, format):
    sae = SAES[format]()
    same(sae, back(sae, tmp_path, format))
    same(sae, saes.load(tmp_path / WEIGHTS[format]))
    same(sae, saes.load(str(tmp_path), format=format))


@pytest.mark.parametrize("format", SAES)
def test_a_format_that_is_not_the_file_s_is_refused(tmp_path, format):
    saes.save(SAES[format](), tmp_path, format)
    for other in FORMATS:
        if other.name != format and not (format == "sparsify" and other.name == "saelens"):
            with pytest.raises(FormatError, match=str(tmp_path)):
                saes.load(tmp_path, other.name)


def test_two_formats_in_one_folder_have_to_be_told_apart(tmp_path):
    saes.save(made("jumprelu"), tmp_path, "saelens")
    saes.save(made("jumprelu", seed=1), tmp_path, "gemma_scope")
    with pytest.raises(FormatError, match=r"formats saelens and gemma_scope\. Say which is meant with format="):
        saes.load(tmp_path)
    same(made("jumprelu"), saes.load(tmp_path, "saelens"))
    same(made("jumprelu", seed=1), saes.load(tmp_path / "params.npz"))


def overwrite(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def replace_tensor(path: Path, change) -> None:
    """Change a tensor of any of the containers."""
    from safetensors.torch import load_file, save_file

    if path.suffix == ".npz":
        with np.load(path) as arrays:
            changed = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        change(changed)
        np.savez(path, **{name: tensor.numpy() for name, tensor in changed.items()})
    elif path.suffix == ".pt":
        changed = torch.load(path, weights_only=True)
        change(changed)
        torch.save(changed, path)
    else:
        changed = load_file(path)
        change(changed)
        save_file({name: tensor.contiguous() for name, tensor in changed.items()}, path)


def widest(tensors: dict) -> str:
    return max(
        (name for name, value in tensors.items() if hasattr(value, "numel")), key=lambda name: tensors[name].numel()
    )


DAMAGE = {
    "empty": lambda path: overwrite(path, b""),
    "cut in the middle": lambda path: overwrite(path, path.read_bytes()[: path.stat().st_size // 2]),
    "cut by one byte": lambda path: overwrite(path, path.read_bytes()[:-1]),
    "zeros": lambda path: overwrite(path, bytes(4000)),
    "text": lambda path: overwrite(path, b"<html>404: not found</html>"),
    "not finite": lambda path: replace_tensor(path, lambda tensors: tensors[widest(tensors)].fill_(float("nan"))),
    "another shape": lambda path: replace_tensor(
        path, lambda tensors: tensors.update({widest(tensors): tensors[widest(tensors)][:-1].clone()})
    ),
    "one tensor less": lambda path: replace_tensor(path, lambda tensors: tensors.pop(widest(tensors))),
    "one tensor more": lambda path: replace_tensor(path, lambda tensors: tensors.update(extra=torch.zeros(2))),
    "whole numbers": lambda path: replace_tensor(
        path, lambda tensors: tensors.update({widest(tensors): tensors[widest(tensors)].to(torch.int32)})
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("format", SAES)
def test_damaged_weights_are_refused_with_their_name(tmp_path, format, damage):
    saes.save(SAES[format](), tmp_path, format)
    path = tmp_path / WEIGHTS[format]
    DAMAGE[damage](path)
    with pytest.raises(FormatError) as caught:
        saes.load(tmp_path)
    assert str(path.parent) in str(caught.value) or str(tmp_path) in str(caught.value)
    assert path.name in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b"{}"])
@pytest.mark.parametrize("format", [format for format in CONFIGS if format != "dictionary_learning"])
def test_damaged_configs_are_refused_with_their_name(tmp_path, format, content):
    saes.save(SAES[format](), tmp_path, format)
    (tmp_path / CONFIGS[format]).write_bytes(content)
    with pytest.raises(FormatError, match=CONFIGS[format]):
        saes.load(tmp_path)


@pytest.mark.parametrize("format", SAES)
def test_a_file_with_any_one_byte_changed_is_read_or_refused(tmp_path, format):
    """No other error, whatever the parsers of the containers trip over."""
    saes.save(SAES[format](), tmp_path, format)
    path = tmp_path / WEIGHTS[format]
    whole = path.read_bytes()
    positions = [*range(0, 400, 13), *range(len(whole) - 1, len(whole) - 900, -29)]
    for position in positions:
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            saes.load(tmp_path)
        except FormatError as error:
            assert str(tmp_path) in str(error)  # noqa: PT017


@pytest.mark.parametrize("value", [5, -1, 0, 2.5, 1e300, "x", "", [1], {"a": 1}, True, None, [[]]])
@pytest.mark.parametrize("format", CONFIGS)
def test_any_setting_changed_is_read_or_refused(tmp_path, monkeypatch, format, value):
    """Whatever kind of value stands in a config, there is no other error."""
    monkeypatch.setattr(SAEConfig, "__init__", inspect.unwrap(SAEConfig.__init__))  # without the tests' type checks
    saes.save(SAES[format](), tmp_path, format)
    path = tmp_path / CONFIGS[format]
    whole = json.loads(path.read_text())
    for config in (whole, *(inner for inner in whole.values() if isinstance(inner, dict))):
        for key in list(config):
            before, config[key] = config[key], value
            path.write_text(json.dumps(whole))
            config[key] = before
            try:
                saes.load(tmp_path)
            except FormatError as error:
                assert str(tmp_path) in str(error)  # noqa: PT017


class Hostile:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("name", ["ae.pt", "layer0.sae.pt", "some.pth", "params.npz", "sae_weights.pt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_is_not_executed(tmp_path, name, zipped):
    marker, path = tmp_path / "marker", tmp_path / "sae" / name
    path.parent.mkdir()
    (path.parent / "config.json").write_text(
        '{"act_fn": "relu", "hook_point_in": "x", "d_model": 2, "expansion_factor": 1}'
    )
    contents = {"W_enc": Hostile(marker), "encoder.weight": torch.zeros(2, 2)}
    if name.endswith(".npz"):
        arrays = {key: np.zeros((2, 2)) for key in ("w_dec", "b_enc", "b_dec", "threshold")}
        np.savez(path, w_enc=np.array([[Hostile(marker), None]], dtype=object), **arrays)
    elif zipped:
        torch.save(contents, path)
    else:
        path.write_bytes(pickle.dumps(contents))
    for at in (path, path.parent):
        with pytest.raises(FormatError):
            saes.load(at)
        for one in FORMATS:
            with pytest.raises(FormatError):
                saes.load(at, one.name)
    assert not marker.exists()
    if zipped and not name.endswith(".npz"):  # it would have been
        torch.load(path, weights_only=False)
        assert marker.exists()


def test_sizes_that_a_file_only_claims_are_not_allocated(tmp_path):
    """Ten terabytes by shape, a few bytes on the disk."""
    a = random()
    claimed = {"encoder_linear.weight": torch.zeros(1, 1).expand(10**6, 10**6), "encoder_linear.bias": torch.zeros(1)}
    torch.save(claimed | {"decoder_linear.weight": a["W_dec"], "decoder_linear.bias": a["b_dec"]}, tmp_path / "a.pt")
    with pytest.raises(FormatError, match="not stored in full"):
        saes.load(tmp_path / "a.pt")

    saes.save(made("jumprelu"), tmp_path / "npz", "gemma_scope")
    path = tmp_path / "npz" / "params.npz"
    whole = path.read_bytes()
    assert whole.count(b"(12, 40)") == 1
    path.write_bytes(whole.replace(b"(12, 40)", b"(9**99,)"[:8]))
    with pytest.raises(FormatError, match=r"params\.npz cannot be read"):
        saes.load(tmp_path / "npz")


@pytest.mark.parametrize("format", ["saes", "saelens", "sparsify", "dictionary_learning", "llama_scope"])
def test_a_disk_that_fills_up_leaves_what_was_there(tmp_path, monkeypatch, format):
    old = SAES[format]()
    saes.save(old, tmp_path, format)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    write_bytes, calls = Path.write_bytes, []

    def full(self, content):
        calls.append(self)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return write_bytes(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(FormatError, match=r"cannot be written to .*No space left"):
        saes.save(made(old.config.activation, seed=1), tmp_path, format)
    assert len(calls) == 2
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_mistakes_in_what_is_asked(tmp_path):
    sae = made("topk")
    with pytest.raises(ConfigError, match="There is no format 'sae_lens': expected one of saes, saelens"):
        saes.save(sae, tmp_path / "new", "sae_lens")
    with pytest.raises(ConfigError, match="has no place for training"):
        saes.save(sae, tmp_path / "new", "saelens", training={"tokens": 1})
    with pytest.raises(ShapeError, match="W_enc holds NaN"):
        broken = made("topk")
        broken.W_enc.fill_(float("nan"))
        saes.save(broken, tmp_path / "new", "saelens")
    with pytest.raises(FormatError, match="nothing is there"):
        saes.load(tmp_path / "new")
    with pytest.raises(ConfigError, match="There is no format"):
        saes.load(tmp_path, "nonsense")
    (tmp_path / "model.safetensors").write_text("")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FormatError, match=r"sae\.safetensors is missing for the format saes; sae_weights"):
        saes.load(tmp_path)
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(FormatError, match=r"other\.pt holds a\. Give format="):
        saes.load(tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("blocks.3.hook_resid_pre", "3.resid_pre"),
        ("blocks.12.hook_resid_post", "12.resid_post"),
        ("blocks.0.hook_attn_out", "0.attn_out"),
        ("blocks.0.hook_mlp_out", "0.mlp_out"),
    ],
)
def test_names_that_mean_the_same_are_mapped_both_ways(theirs, ours):
    assert (our_name(theirs), lens_name(ours)) == (ours, theirs)


@pytest.mark.parametrize(
    "name",
    [
        "blocks.3.hook_resid_mid",
        "blocks.3.attn.hook_z",
        "blocks.3.hook_mlp_in",
        "layers.3.mlp",
        "hook_embed",
        "3.head2",
    ],
)
def test_names_of_other_places_stay(name):
    assert our_name(name) == name == lens_name(name)


def test_modules_mean_what_leaves_them():
    assert {our_name(name) for name in ("layers.3", "model.layers.3", "transformer.h.3", "model.layers.3.output")} == {
        "3.resid_post"
    }
