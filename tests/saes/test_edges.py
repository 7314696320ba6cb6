"""SAEs at the edges: odd scales, callers without gradients, odd files, weights that are not to be kept."""

import dataclasses
import inspect
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import saes
from saes import SAE, ConfigError, FormatError, SAEConfig, ShapeError, TrainConfig
from tests.conftest import random_sae
from tests.saes.test_run import Stream
from tests.saes.test_sae import CONFIG, TRAIN, edit_config, planted

SHORT = dataclasses.replace(TRAIN, total_tokens=256 * 20)


@pytest.mark.parametrize("power", [-105, -60, 60, 110])
def test_activations_of_any_scale_train_to_the_same_sae(power):
    """A power of two changes nothing but the exponents, also where squares and scales leave float32's range."""
    plain = saes.fit(CONFIG, planted(), SHORT)
    scaled = saes.fit(CONFIG, (x * 2.0**power for x in planted()), SHORT)
    assert torch.equal(plain.W_enc, scaled.W_enc)
    assert torch.equal(plain.b_enc * 2.0**power, scaled.b_enc)
    assert torch.equal(plain.b_dec * 2.0**power, scaled.b_dec)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_training_works_where_gradients_are_off(context):
    with context():
        sae = saes.fit(CONFIG, (x.clone() for x in planted()), SHORT)
    assert torch.equal(sae.W_enc, saes.fit(CONFIG, planted(), SHORT).W_enc)


def test_empty_batches_are_passed_over_when_measuring():
    sae, x = random_sae(), torch.randn(20, 32)
    (got, firing), (plain, _) = saes.measure(sae, [x[:0], x, x[:0]]), saes.measure(sae, [x])
    assert got == plain
    assert firing.maximum.max() > 0
    with pytest.raises(ShapeError, match="0 tokens"):
        saes.measure(sae, [x[:0]])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lr": float("nan")}, "lr must be a finite number"),
        ({"grad_clip": float("inf")}, "grad_clip must be a finite number"),
        ({"adam_beta2": 1.0}, "adam_beta2 must be at least 0 and less than 1, or None: got 1.0"),
        ({"adam_beta2": -0.1}, "adam_beta2 must be at least 0 and less than 1, or None: got -0.1"),
        ({"auxk_weight": float("nan")}, "auxk_weight must be a finite number"),
        ({"total_tokens": True}, "total_tokens must be a whole number"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
        ({"seed": 2**70}, "seed must be a whole number"),
        ({"batch_tokens": 0}, "batch_tokens must be a whole number of at least 1"),
        ({"decay_frac": 1.5}, "decay_frac must lie between 0 and 1"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"lr": 10**400}, "lr must be a finite number, got a number of more than 300 digits"),
        ({"seed": 10**5000}, "seed must be a whole number of at least 0, and less than 2.63, but is larger"),
    ],
)
def test_settings_of_the_training_that_cannot_work(change, words):
    with pytest.raises(ConfigError, match=words):
        dataclasses.replace(TRAIN, **change)


def test_an_sae_too_large_for_memory_is_refused():
    for d_sae in (10**13, 2**62):
        with pytest.raises(ConfigError, match="does not fit into memory"):
            saes.SAE(SAEConfig(d_in=16, d_sae=d_sae, k=4))


def edit_weights(folder: Path, **changes: torch.Tensor) -> None:
    path = folder / "sae.safetensors"
    save_file({**load_file(path), **changes}, path)
    drop_from_config(folder, "weights_sha256")  # as somebody does who means it


def drop_from_config(folder: Path, name: str) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != name}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: edit_config(folder, d_sae=2**62, k=4), "does not fit its config.json"),
        (lambda folder: edit_config(folder, d_sae=10**400), "d_sae must be a whole number"),
        (lambda folder: drop_from_config(folder, "d_in"), "lacks d_in"),
        (lambda folder: (folder / "config.json").write_text("[" * 100_000), "not JSON"),
        (lambda folder: edit_weights(folder, b_enc=torch.zeros(96, dtype=torch.int64)), "b_enc has dtype I64"),
        (lambda folder: edit_weights(folder, b_enc=1e300 * torch.ones(96).double()), "b_enc holds NaN or inf"),
        (lambda folder: edit_weights(folder, b_enc=torch.full((96,), float("nan"))), "b_enc holds NaN or inf"),
        (lambda folder: edit_weights(folder, other=torch.zeros(2)), "does not fit its config.json"),
    ],
)
def test_odd_files_are_refused_with_their_name(tmp_path, damage, words):
    saes.save(random_sae(), tmp_path)
    damage(tmp_path)
    with pytest.raises(FormatError, match=words) as caught:
        saes.load(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": "six"}, "k must be a whole number of at least 1, got 'six'"),
        ({"d_sae": 96.0}, "d_sae must be a whole number"),
        ({"d_in": True}, "d_in must be a whole number"),
        ({"site": 5}, "site must be text or None, got 5"),
        ({"model": ["tiny"]}, "model must be text or None"),
    ],
)
def test_a_config_of_other_types_is_refused_with_its_name(tmp_path, monkeypatch, change, words):
    monkeypatch.setattr(SAEConfig, "__init__", inspect.unwrap(SAEConfig.__init__))  # without the tests' type checks
    saes.save(random_sae(), tmp_path)
    edit_config(tmp_path, **change)
    with pytest.raises(FormatError, match=words) as caught:
        saes.load(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("change", [{"total_tokens": 512.0}, {"lr": "fast"}, {"grad_clip": True}, {"seed": None}])
def test_settings_of_other_types_are_refused(monkeypatch, change):
    monkeypatch.setattr(TrainConfig, "__init__", inspect.unwrap(TrainConfig.__init__))
    with pytest.raises(ConfigError, match=f"{next(iter(change))} must be a"):
        TrainConfig(**{"total_tokens": 512, "batch_tokens": 256, **change})


def test_files_that_may_not_be_read_are_refused(tmp_path, monkeypatch):
    def denied(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    saes.save(random_sae(), tmp_path)
    monkeypatch.setattr(Path, "read_text", denied)
    with pytest.raises(FormatError, match=r"cannot be read .*Permission denied"):
        saes.load(tmp_path)
    monkeypatch.setattr(Path, "is_file", denied)
    with pytest.raises(FormatError, match=r"cannot be read .*Permission denied"):
        saes.load(tmp_path)


def test_half_precision_weights_are_read_as_float32(tmp_path):
    sae = random_sae()
    saes.save(sae, tmp_path)
    edit_weights(tmp_path, W_enc=sae.W_enc.half().contiguous())
    again = saes.load(tmp_path)
    assert again.W_enc.dtype == torch.float32
    assert torch.equal(again.W_enc, sae.W_enc.half().float())


def test_what_cannot_be_written_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    broken = random_sae()
    with torch.no_grad():
        broken.b_dec[3] = float("nan")
    with pytest.raises(ShapeError, match="b_dec holds NaN"):
        saes.save(broken, tmp_path / "new")
    for training in ({"fvu": float("nan")}, {"path": Path("x")}):
        with pytest.raises(ConfigError, match="training must be JSON"):
            saes.save(random_sae(), tmp_path / "new", training=training)
    assert not (tmp_path / "new").exists()

    saes.save(random_sae(seed=1), tmp_path / "old")
    before = {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(FormatError, match=r"cannot be written to .*No space left"):
        saes.save(random_sae(seed=2), tmp_path / "old")
    assert {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()} == before


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FormatError, match="cannot be written to"):
        saes.save(random_sae(), tmp_path / "file")
    with pytest.raises(FormatError, match=r"No SAE of a known format .*expected config.json and sae.safetensors"):
        saes.load(tmp_path / "file")


def test_the_schedule_of_one_step_is_a_whole_step():
    records = []
    saes.fit(CONFIG, planted(), TrainConfig(256, 256, lr=1e-3), records.append)
    assert [record.tokens for record in records] == [256]


@pytest.mark.parametrize(
    ("path", "words"),
    [("", "must be a path"), ("a\0b", "no name holds a zero byte"), ("\ud800", "no text that names a file")],
)
def test_paths_that_name_nothing_are_refused_everywhere(path, words):
    sae = SAE(SAEConfig(4, 8, 2))
    for error, use in (
        (FormatError, lambda: saes.save(sae, path)),
        (FormatError, lambda: saes.load(path)),
        (ConfigError, lambda: saes.RunConfig(path)),
    ):
        with pytest.raises(error, match=words):
            use()


def test_names_that_are_too_long_for_a_file_are_refused(tmp_path):
    for use in (lambda path: saes.save(SAE(SAEConfig(4, 8, 2)), path), saes.load):
        with pytest.raises(FormatError, match="File name too long"):
            use(tmp_path / ("n" * 300))
    with pytest.raises(FormatError, match="File name too long"):
        saes.fit(CONFIG, Stream(), TRAIN, run=saes.RunConfig(tmp_path / ("n" * 300)))


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (torch.randn(64, 4).to_sparse(), r"sparse_coo, cpu\). Make it dense where it is made: x.to_dense\(\)"),
        (torch.empty(64, 4, device="meta"), "The device meta holds no numbers"),
        (torch.ones(64, 4, dtype=torch.long), r"Convert it where it is made: torch.as_tensor"),
    ],
)
def test_batches_that_hold_no_numbers_are_refused(batch, words):
    with pytest.raises(ShapeError, match=words):
        saes.fit(SAEConfig(4, 8, 2), iter([batch]), TrainConfig(64, 64))
    with pytest.raises(ShapeError, match=words):
        saes.measure(SAE(SAEConfig(4, 8, 2)), iter([batch]))


@pytest.mark.parametrize("block_tokens", [0, -1, 2.0, True, None, "2048"])
def test_blocks_of_no_size_are_refused(block_tokens):
    with pytest.raises(ShapeError, match="block_tokens must be a whole number of at least 1"):
        inspect.unwrap(saes.measure)(SAE(SAEConfig(4, 8, 2)), [torch.randn(64, 4)], block_tokens)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"activation": "relu", "l1_weight": 1e38}, r"learning rate or l1_weight \(1e\+38\)"),
        ({"activation": "jumprelu", "l0_weight": 1e38}, r"learning rate or l0_weight \(1e\+38\)"),
    ],
)
def test_a_loss_that_a_weight_has_made_infinite_names_the_weight(change, words):
    activation = change.pop("activation")
    batches = [64 * torch.randn(64, 4) for _ in range(4)]
    train = TrainConfig(256, 64, sparsity_warmup_frac=0, lr=1e3, grad_clip=1e30, **change)
    with pytest.raises(saes.DivergedError, match=words):
        saes.fit(SAEConfig(4, 8, activation=activation), batches, train)
