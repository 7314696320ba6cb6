"""SAELens: against the classes of the installed package, both ways."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import saes
from saes import ConfigError, FormatError
from tests.saes.formats.oracle import D_IN, D_SAE, K, agree, back, inputs, jump, made, random, same

sae_lens = pytest.importorskip("sae_lens")

from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.gated_sae import GatedSAE, GatedSAEConfig, GatedTrainingSAE, GatedTrainingSAEConfig
from sae_lens.saes.jumprelu_sae import (
    JumpReLUSAE,
    JumpReLUSAEConfig,
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
)
from sae_lens.saes.matryoshka_batchtopk_sae import (
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
)
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig, StandardTrainingSAE, StandardTrainingSAEConfig
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.saes.transcoder import (
    JumpReLUSkipTranscoder,
    JumpReLUSkipTranscoderConfig,
    JumpReLUTranscoder,
    JumpReLUTranscoderConfig,
    SkipTranscoder,
    SkipTranscoderConfig,
    Transcoder,
    TranscoderConfig,
)
from sae_lens.training.activation_scaler import ActivationScaler

PLACE = {"model_name": "gpt2", "hook_name": "blocks.3.hook_resid_post"}


def theirs(sae_class: type, config_class: type, **settings):
    """One of their SAEs with random weights in every parameter."""
    metadata = SAEMetadata(**{**PLACE, **settings.pop("metadata", {})})
    sae = sae_class(config_class(d_in=D_IN, d_sae=D_SAE, metadata=metadata, **settings))
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator) * 0.3
            parameter.copy_(drawn.abs() if name == "threshold" else drawn)
    return sae


def their_numbers(sae, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        return sae.encode(x), sae(x)


INFERENCE = [
    (StandardSAE, StandardSAEConfig, {}),
    (StandardSAE, StandardSAEConfig, {"apply_b_dec_to_input": False}),
    (StandardSAE, StandardSAEConfig, {"normalize_activations": "layer_norm"}),
    (StandardSAE, StandardSAEConfig, {"normalize_activations": "constant_norm_rescale"}),
    (TopKSAE, TopKSAEConfig, {"k": K}),
    (TopKSAE, TopKSAEConfig, {"k": K, "rescale_acts_by_decoder_norm": True}),
    (TopKSAE, TopKSAEConfig, {"k": K, "normalize_activations": "layer_norm", "apply_b_dec_to_input": False}),
    (GatedSAE, GatedSAEConfig, {}),
    (GatedSAE, GatedSAEConfig, {"apply_b_dec_to_input": False}),
    (JumpReLUSAE, JumpReLUSAEConfig, {}),
    (JumpReLUSAE, JumpReLUSAEConfig, {"apply_b_dec_to_input": False}),
    (Transcoder, TranscoderConfig, {"apply_b_dec_to_input": False, "d_out": 7}),
    (SkipTranscoder, SkipTranscoderConfig, {"apply_b_dec_to_input": False, "d_out": 7}),
    (JumpReLUTranscoder, JumpReLUTranscoderConfig, {"apply_b_dec_to_input": False, "d_out": D_IN}),
    (JumpReLUSkipTranscoder, JumpReLUSkipTranscoderConfig, {"apply_b_dec_to_input": False, "d_out": 7}),
]


@pytest.mark.parametrize(("sae_class", "config_class", "settings"), INFERENCE)
def test_what_they_save_gives_their_numbers_here(tmp_path, sae_class, config_class, settings):
    metadata = {"hook_name_out": "blocks.3.hook_mlp_out"} if "d_out" in settings else {}
    sae = theirs(sae_class, config_class, metadata=metadata, **settings)
    sae.save_model(tmp_path)
    ours = saes.load(tmp_path)
    agree(ours, inputs(), *their_numbers(sae, inputs()))
    assert (ours.config.model, ours.config.site) == ("gpt2", "3.resid_post")
    assert ours.config.site_out == ("3.mlp_out" if "d_out" in settings else None)


WRITTEN = [
    ("topk", {}),
    ("topk", {"subtract_b_dec": False, "input_norm": "layer_norm"}),
    ("relu", {"input_norm": "constant_norm"}),
    ("jumprelu", {}),
    ("batch_topk", {"prefixes": (10, D_SAE)}),
    ("relu", {"subtract_b_dec": False, "d_out": 7, "site_out": "1.mlp_out"}),
    ("relu", {"subtract_b_dec": False, "d_out": 7, "site_out": "1.mlp_out", "skip": True}),
    ("jumprelu", {"subtract_b_dec": False, "site_out": "1.mlp_out"}),
    ("batch_topk", {"subtract_b_dec": False, "site_out": "1.mlp_out", "skip": True}),
]


@pytest.mark.parametrize(("activation", "config"), WRITTEN)
def test_what_is_written_here_gives_the_same_numbers_there_and_back(tmp_path, activation, config):
    sae = made(activation, **config)
    again = back(sae, tmp_path, "saelens")
    same(sae, again)
    for field in ("model", "site", "site_out", "subtract_b_dec", "input_norm", "prefixes", "skip"):
        assert getattr(again.config, field) == getattr(sae.config, field)
    loaded = sae_lens.SAE.load_from_disk(tmp_path)
    agree(sae, inputs(), *their_numbers(loaded, inputs()))
    assert loaded.cfg.metadata.hook_name == "blocks.1.hook_resid_post"


TRAINING = [
    (StandardTrainingSAE, StandardTrainingSAEConfig, {}),
    (GatedTrainingSAE, GatedTrainingSAEConfig, {}),
    (JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig, {}),
    (TopKTrainingSAE, TopKTrainingSAEConfig, {"k": K}),
    (TopKTrainingSAE, TopKTrainingSAEConfig, {"k": K, "rescale_acts_by_decoder_norm": False}),
    (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, {"k": 4.5}),
    (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, {"k": K, "rescale_acts_by_decoder_norm": False}),
    (MatryoshkaBatchTopKTrainingSAE, MatryoshkaBatchTopKTrainingSAEConfig, {"k": K, "matryoshka_widths": [10, D_SAE]}),
]


@pytest.mark.parametrize("normalisation", ["none", "expected_average_only_in", "covariance_whitening"])
@pytest.mark.parametrize(("sae_class", "config_class", "settings"), TRAINING)
@pytest.mark.parametrize("apply_b_dec_to_input", [True, False])
def test_training_checkpoints_give_the_numbers_of_the_sae_that_is_saved_at_the_end(
    tmp_path, sae_class, config_class, settings, normalisation, apply_b_dec_to_input
):
    """Also those in the midst of training, which SAELens does not fold (its issue 381)."""
    settings = {**settings, "apply_b_dec_to_input": apply_b_dec_to_input, "normalize_activations": normalisation}
    sae = theirs(sae_class, config_class, **settings)
    if hasattr(sae, "topk_threshold"):
        sae.topk_threshold = torch.tensor(0.3, dtype=torch.float64)
    scaler, x = ActivationScaler(), inputs()
    if normalisation == "expected_average_only_in":
        scaler.estimate_scaling_factor(D_IN, iter([x]), 1)
    if normalisation == "covariance_whitening":
        scaler.estimate_whitening(D_IN, iter([x]), 1)
    sae.save_model(tmp_path / "midst")
    scaler.save(str(tmp_path / "midst" / "activation_scaler.json"))
    ours = saes.load(tmp_path / "midst")

    if scaler.scaling_factor is not None:
        sae.fold_activation_norm_scaling_factor(scaler.scaling_factor)
        assert ours.config.input_scale == scaler.scaling_factor
    if scaler.whitening is not None:
        sae.fold_activation_whitening(*vars(scaler.whitening).values())
    sae.save_inference_model(tmp_path / "end")
    end = sae_lens.SAE.load_from_disk(tmp_path / "end")
    agree(ours, x, *their_numbers(end, x))
    agree(saes.load(tmp_path / "end"), x, *their_numbers(end, x))
    assert saes.load(tmp_path / "end").config.prefixes == tuple(settings.get("matryoshka_widths", ()))


def test_a_log_threshold_of_an_older_training_checkpoint(tmp_path):
    sae = theirs(JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig)
    sae.save_model(tmp_path)
    weights = load_file(tmp_path / "sae_weights.safetensors")
    weights["log_threshold"] = weights.pop("threshold").log()
    save_file(weights, tmp_path / "sae_weights.safetensors")
    agree(saes.load(tmp_path), inputs(), *their_numbers(sae, inputs()))


def flat(folder: Path, weights: dict[str, torch.Tensor], **settings) -> None:
    """The layout before version 6."""
    config = {
        "d_in": D_IN,
        "d_sae": D_SAE,
        "dtype": "torch.float32",
        "device": "cuda",
        "model_name": "gpt2",
        **settings,
    }
    save_file(weights, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(config))


def standard() -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in random().items() if name in ("W_enc", "W_dec", "b_enc", "b_dec")}


@pytest.mark.parametrize(
    "settings",
    [
        {"hook_point": "blocks.3.hook_resid_pre", "normalize_activations": False, "lp_norm": 1.0, "context_size": 128},
        {"hook_name": "blocks.3.hook_resid_pre", "activation_fn": "relu", "architecture": "standard"},
        {"hook_name": "blocks.3.hook_resid_pre", "apply_b_dec_to_input": False, "normalize_activations": "layer_norm"},
        {"hook_name": "blocks.3.hook_resid_pre", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}},
    ],
)
def test_the_flat_layout_gives_their_numbers(tmp_path, settings):
    """A top-k SAE there has the architecture standard and is told by its activation (their issue 553)."""
    flat(tmp_path, {**standard(), "scaling_factor": torch.ones(D_SAE)}, **settings)
    ours = saes.load(tmp_path)
    flat(tmp_path, standard(), **settings)
    agree(ours, inputs(), *their_numbers(sae_lens.SAE.load_from_disk(tmp_path, device="cpu"), inputs()))
    assert (ours.config.model, ours.config.site) == ("gpt2", "3.resid_pre")
    assert ours.config.activation == ("topk" if "activation_fn_kwargs" in settings else "relu")


def test_the_factor_that_fine_tuning_learned_is_folded(tmp_path):
    factor = torch.rand(D_SAE) + 0.5
    flat(tmp_path, {**standard(), "scaling_factor": factor}, hook_name="x", finetuning_scaling_factor=True)
    a = random()
    latents = ((inputs() - a["b_dec"]).double() @ a["W_enc"].double() + a["b_enc"]).relu()
    agree(saes.load(tmp_path), inputs(), latents, (latents * factor) @ a["W_dec"].double() + a["b_dec"])
    flat(tmp_path, {**standard(), "scaling_factor": factor}, hook_name="x", finetuning_scaling_factor=False)
    with pytest.raises(FormatError, match="scaling_factor is not 1"):
        saes.load(tmp_path)


def test_thresholds_are_not_rounded_with_bfloat16_weights(tmp_path):
    """Their issue 728."""
    weights = {name: tensor.bfloat16() for name, tensor in standard().items()} | {"threshold": random()["threshold"]}
    flat(tmp_path, weights, architecture="jumprelu", dtype="torch.bfloat16", hook_name="x")
    ours = saes.load(tmp_path)
    assert torch.equal(ours.threshold, random()["threshold"])
    x = inputs()
    pre = (x - ours.b_dec).double() @ ours.W_enc.double() + ours.b_enc
    assert torch.equal(ours.encode(x).active(), (jump(pre, random()["threshold"].double()) > 0).sum(-1).float())


def test_heads_are_kept_by_name_or_refused(tmp_path):
    hook = {"hook_name": "blocks.3.attn.hook_z"}
    sae = theirs(StandardSAE, StandardSAEConfig, reshape_activations="hook_z", metadata=hook)
    sae.save_model(tmp_path)
    ours = saes.load(tmp_path)
    assert ours.config.site == "blocks.3.attn.hook_z"
    x = inputs()
    latents, output = their_numbers(sae, x.reshape(len(x), 3, 4))
    agree(ours, x, latents, output.reshape(x.shape))
    saes.save(ours, tmp_path / "again", "saelens")
    agree(
        ours,
        x,
        *(
            out.reshape(len(x), -1)
            for out in their_numbers(sae_lens.SAE.load_from_disk(tmp_path / "again"), x.reshape(len(x), 3, 4))
        ),
    )

    theirs(StandardSAE, StandardSAEConfig, metadata={**hook, "hook_head_index": 2}).save_model(tmp_path / "one")
    with pytest.raises(FormatError, match="hook_head_index is 2"):
        saes.load(tmp_path / "one")
    assert saes.load(tmp_path / "one", site="3.head2").config.site == "3.head2"


@pytest.mark.parametrize("hook", ["blocks.3.hook_resid_mid", "blocks.3.mlp.hook_post", "blocks.3.ln1.hook_normalized"])
def test_places_without_a_name_of_ours_keep_theirs(tmp_path, hook):
    theirs(StandardSAE, StandardSAEConfig, metadata={"hook_name": hook}).save_model(tmp_path)
    assert saes.load(tmp_path).config.site == hook
    assert back(saes.load(tmp_path), tmp_path / "again", "saelens").config.site == hook


def edit(folder: Path, **changes) -> None:
    path = folder / "cfg.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "abstopk"}, "architecture is 'abstopk', which has no exact form"),
        ({"architecture": "topk", "k": "five"}, "k is 'five', expected a whole number"),
        ({"architecture": "topk", "k": None}, "does not say how many latents"),
        ({"architecture": "jumprelu"}, r"lacks the tensor threshold, expected with shape \[40\]"),
        ({"normalize_activations": "expected_average_only_in"}, "scaling_factor in activation_scaler.json is missing"),
        ({"normalize_activations": "covariance_whitening"}, "activation_whitening.safetensors is missing"),
        ({"normalize_activations": "by_magic"}, "normalize_activations is 'by_magic'"),
        ({"reshape_activations": "hook_z"}, "reshape_activations is hook_z, but hook_name is"),
        ({"d_sae": 41}, r"tensor W_enc has shape \[12, 40\], expected \[12, 41\]"),
        ({"d_in": True}, "d_in is True, expected a whole number"),
        ({"new_gate": "soft"}, "setting new_gate = 'soft'"),
    ],
)
def test_what_cannot_be_read_rightly_is_refused(tmp_path, changes, words):
    theirs(StandardSAE, StandardSAEConfig).save_model(tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(FormatError, match=words) as caught:
        saes.load(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_scale_that_the_files_lack_may_be_given(tmp_path):
    sae = theirs(StandardSAE, StandardSAEConfig, normalize_activations="expected_average_only_in")
    sae.save_model(tmp_path)
    ours = saes.load(tmp_path, input_scale=0.25)
    sae.fold_activation_norm_scaling_factor(0.25)
    agree(ours, inputs(), *their_numbers(sae, inputs()))
    (tmp_path / "activation_scaler.json").write_text('{"scaling_factor": 0.5, "has_whitening": false}')
    with pytest.raises(FormatError, match=r"says input_scale 0\.5, but 0\.25 was given"):
        saes.load(tmp_path, input_scale=0.25)


@pytest.mark.parametrize(
    ("sae", "words"),
    [
        (lambda: made("topk", subtract_b_dec=False, site_out="2.mlp_out"), "no top-k transcoders"),
        (lambda: made("topk", input_norm="layer_norm", norm_eps=1e-8), "normalises with norm_eps"),
    ],
)
def test_what_they_have_no_form_for_is_not_written(tmp_path, sae, words):
    with pytest.raises(ConfigError, match=words):
        saes.save(sae(), tmp_path / "new", "saelens")
    assert not (tmp_path / "new").exists()
