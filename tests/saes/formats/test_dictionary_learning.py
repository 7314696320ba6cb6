"""dictionary_learning: fixtures as the library writes them, compared with its formulas in float64."""

import json
from pathlib import Path

import pytest
import torch

import saes
from saes import ConfigError, FormatError
from tests.saes.formats.oracle import D_IN, D_SAE, Arrays, K, agree, back, inputs, jump, made, random, same, topk

THRESHOLD = 0.35
GROUPS = [8, 12, 20]
CLASSES = [
    "AutoEncoder",
    "AutoEncoderNew",
    "GatedAutoEncoder",
    "JumpReluAutoEncoder",
    "AutoEncoderTopK",
    "BatchTopKSAE",
    "MatryoshkaBatchTopKSAE",
]


def state(kind: str) -> Arrays:
    """The state dict of one of the library's classes."""
    a, b = random(), random(seed=1)
    linear = {"encoder.weight": a["W_enc"].T.contiguous(), "decoder.weight": a["W_dec"].T.contiguous()}
    counts = {"k": torch.tensor(K, dtype=torch.int32), "threshold": torch.tensor(THRESHOLD)}
    ours = {name: a[name] for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
    return {
        "AutoEncoder": {**linear, "encoder.bias": a["b_enc"], "bias": a["b_dec"]},
        "AutoEncoderNew": {**linear, "encoder.bias": a["b_enc"], "decoder.bias": a["b_dec"]},
        "GatedAutoEncoder": {
            **linear,
            "decoder_bias": a["b_dec"],
            "gate_bias": a["b_enc"],
            "mag_bias": b["b_enc"],
            "r_mag": 0.3 * b["b_enc"],
        },
        "JumpReluAutoEncoder": {**ours, "threshold": a["threshold"]},
        # its threshold is 1000, and it is not used
        "AutoEncoderTopK": {
            **linear,
            "encoder.bias": a["b_enc"],
            "b_dec": a["b_dec"],
            "k": counts["k"],
            "threshold": torch.tensor(1000.0),
        },
        "BatchTopKSAE": {**linear, "encoder.bias": a["b_enc"], "b_dec": a["b_dec"], **counts},
        "MatryoshkaBatchTopKSAE": {**ours, **counts, "group_sizes": torch.tensor(GROUPS)},
    }[kind]


def theirs(kind: str, weights: Arrays, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """encode and forward of that class."""
    w, x = {name: tensor.double() for name, tensor in weights.items()}, x.double()
    if "encoder.weight" in w:
        w |= {"W_enc": w["encoder.weight"].T, "W_dec": w["decoder.weight"].T, "b_enc": w.get("encoder.bias")}
    out_bias = next(w[name] for name in ("bias", "decoder.bias", "decoder_bias", "b_dec") if name in w)
    read = x if kind in ("AutoEncoderNew", "JumpReluAutoEncoder") else x - out_bias
    if kind == "GatedAutoEncoder":
        gate = read @ w["W_enc"] + w["gate_bias"] > 0
        latents = gate * (w["r_mag"].exp() * (read @ w["W_enc"]) + w["mag_bias"]).relu()
    else:
        pre = read @ w["W_enc"] + w["b_enc"]
        if kind == "AutoEncoderTopK":
            latents = topk(pre.relu(), int(w["k"]))
        elif "threshold" in w:
            latents = jump(pre, w["threshold"])
        else:
            latents = pre.relu()
    return latents, latents @ w["W_dec"] + out_bias


def trainer(kind: str, **settings) -> dict:
    return {
        "trainer_class": "Trainer",
        "dict_class": kind,
        "activation_dim": D_IN,
        "dict_size": D_SAE,
        "k": K,
        "layer": 8,
        "lm_name": "EleutherAI/pythia-70m",
        "submodule_name": "resid_post_layer_8",
        **settings,
    }


def write(folder: Path, kind: str, contents: dict, name: str = "ae.pt") -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    torch.save(contents, folder / name)
    (folder / "config.json").write_text(json.dumps({"trainer": trainer(kind), "buffer": {"ctx_len": 128}}))


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_gives_its_numbers(tmp_path, kind):
    """BatchTopK's threshold is not dropped, and the one of TopK is not used."""
    write(tmp_path, kind, state(kind))
    for path in (tmp_path, tmp_path / "ae.pt"):
        sae = saes.load(path)
        agree(sae, inputs(), *theirs(kind, state(kind), inputs()))
        assert (sae.config.model, sae.config.site) == ("EleutherAI/pythia-70m", "8.resid_post")
    assert sae.config.prefixes == ((8, 20, 40) if kind == "MatryoshkaBatchTopKSAE" else ())
    assert sae.config.k == (K if "TopK" in kind else None)


@pytest.mark.parametrize("kind", CLASSES)
def test_files_written_while_training_goes_on(tmp_path, kind):
    """checkpoints/ae_STEP.pt, and a backup, which holds biases that are not scaled yet."""
    write(tmp_path, kind, state(kind), name="checkpoints/ae_100.pt")
    agree(saes.load(tmp_path / "checkpoints" / "ae_100.pt"), inputs(), *theirs(kind, state(kind), inputs()))

    factor = 2.5
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(3))]).state_dict()
    backup = {"step": 7, "ae": state(kind), "optimizer": optimizer, "config": trainer(kind), "norm_factor": factor}
    torch.save(backup, tmp_path / "ae.pt")
    latents, output = theirs(kind, state(kind), inputs() / factor)
    sae = saes.load(tmp_path)
    agree(sae, inputs(), latents * factor, output * factor)
    assert sae.config.input_scale == 1 / factor


@pytest.mark.parametrize("kind", [kind for kind in CLASSES if kind not in ("AutoEncoderTopK", "BatchTopKSAE")])
def test_without_a_config_the_tensors_tell_the_class(tmp_path, kind):
    torch.save(state(kind), tmp_path / "some.pt")
    agree(saes.load(tmp_path / "some.pt"), inputs(), *theirs(kind, state(kind), inputs()))


def test_without_a_config_topk_is_told_only_where_it_has_no_threshold(tmp_path):
    contents = state("AutoEncoderTopK")
    torch.save(contents, tmp_path / "ae.pt")
    with pytest.raises(FormatError, match="is of AutoEncoderTopK or of BatchTopKSAE"):
        saes.load(tmp_path)
    del contents["threshold"]
    torch.save(contents, tmp_path / "ae.pt")
    agree(saes.load(tmp_path), inputs(), *theirs("AutoEncoderTopK", contents, inputs()))


def test_encoding_what_was_decoded_applies_the_threshold_once(tmp_path):
    """A threshold applied twice also cuts latents between it and twice it (their issue 55)."""
    write(tmp_path, "JumpReluAutoEncoder", state("JumpReluAutoEncoder"))
    sae = saes.load(tmp_path)
    x = inputs()
    dense = sae.encode(x).to_dense()
    pre = x @ sae.W_enc + sae.b_enc
    assert torch.equal(dense > 0, (pre > sae.threshold) & (pre > 0))
    between = (dense > 0) & (dense < 2 * sae.threshold)
    assert between.any()
    assert torch.equal(sae.encode(x).to_dense(), dense)


@pytest.mark.parametrize("kind", ["BatchTopKSAE", "MatryoshkaBatchTopKSAE"])
def test_a_threshold_that_is_not_set_is_refused(tmp_path, kind):
    write(tmp_path, kind, state(kind) | {"threshold": torch.tensor(-1.0)})
    with pytest.raises(FormatError, match=r"threshold is -1\.0, that is, not set yet"):
        saes.load(tmp_path)


@pytest.mark.parametrize(
    ("contents", "config", "words"),
    [
        ({"k": torch.tensor([1, 2])}, {}, r"tensor k has shape \[2\], expected one number"),
        ({"extra": torch.zeros(3)}, {}, r"holds the tensor extra of shape \[3\]"),
        ({"b_dec": torch.zeros(3)}, {}, r"tensor b_dec has shape \[3\], expected \[12\]"),
        ({}, {"dict_size": 41}, "says dict_size 41"),
        ({}, {"dict_class": "IdentityDict"}, "dict_class is 'IdentityDict', which is not known"),
        ({}, {"dict_class": "JumpReluAutoEncoder"}, "lacks the tensor W_enc"),
    ],
)
def test_inconsistent_files_are_refused(tmp_path, contents, config, words):
    write(tmp_path, "BatchTopKSAE", state("BatchTopKSAE") | contents)
    (tmp_path / "config.json").write_text(json.dumps({"trainer": trainer("BatchTopKSAE", **config)}))
    with pytest.raises(FormatError, match=words):
        saes.load(tmp_path)


@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize(
    ("activation", "kind", "config"),
    [
        ("relu", "AutoEncoderNew", {}),
        ("jumprelu", "JumpReluAutoEncoder", {}),
        ("topk", "AutoEncoderTopK", {}),
        ("batch_topk", "BatchTopKSAE", {}),
        ("batch_topk", "MatryoshkaBatchTopKSAE", {"prefixes": (8, 20, D_SAE)}),
    ],
)
def test_round_trip(tmp_path, activation, kind, config, subtract):
    sae = made(activation, subtract_b_dec=subtract, **config)
    again = back(sae, tmp_path, "dictionary_learning")
    same(sae, again)
    for field in ("model", "site", "activation", "k", "prefixes"):
        assert getattr(again.config, field) == getattr(sae.config, field)
    written = torch.load(tmp_path / "ae.pt", weights_only=True)
    assert written.keys() == state(kind).keys()
    agree(sae, inputs(), *theirs(kind, written, inputs()))


def test_what_it_has_no_form_for_is_not_written(tmp_path):
    for config in ({"input_norm": "layer_norm"}, {"subtract_b_dec": False, "site_out": "1.mlp_out"}):
        with pytest.raises(ConfigError, match="dictionary_learning holds autoencoders of raw activations"):
            saes.save(made("relu", **config), tmp_path / "new", "dictionary_learning")
    assert not (tmp_path / "new").exists()
