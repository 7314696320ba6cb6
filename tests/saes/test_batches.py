"""Batches of activations, and streams of them, are checked wherever they come in."""

import inspect

import pytest
import torch

import saes
from saes import ConfigError, Parts, RunConfig, SAEConfig, ShapeError, Slices, TrainConfig
from tests.conftest import D_MODEL, random_sae
from tests.saes.test_run import Stream

untyped_measure = inspect.unwrap(saes.measure)
untyped_fit = torch.no_grad()(inspect.unwrap(saes.fit))
X = torch.randn(8, D_MODEL)
SMALL, SHORT = SAEConfig(D_MODEL, 64, 4), TrainConfig(32, 8)
CODER = SAEConfig(D_MODEL, 64, 4, site="a", site_out="b", subtract_b_dec=False)

NOT_BATCHES = [
    (X, r"shape \[.*32\], got \[32\].*in"),
    ([X[:, :5]], r"got \[8, 5\]"),
    ([X[None]], r"got \[1, 8, 32\]"),
    ([X * float("nan")], "must be finite: 8 of 8"),
    ([X.to(torch.complex64)], "floating-point numbers, got a tensor of torch.complex64"),
    ([X.to(torch.int64)], "floating-point numbers, got a tensor of torch.int64"),
    ([X > 0], "floating-point numbers, got a tensor of torch.bool"),
    ([X.to_sparse()], "dense tensor .* got a tensor of torch.float32"),
    ([[1.0]], "got list"),
    ([None], "got NoneType"),
    (X.numpy(), "got ndarray"),
    ([X.numpy()], r"got ndarray.*torch.as_tensor\(x, dtype=torch.float32\)"),
    ([X, X.half(), X, X], "one dtype: got torch.float16, expected torch.float32, as the first had"),
    ([X.half(), X, X, X], "one dtype: got torch.float32, expected torch.float16"),
    ([X, X.double(), X, X], "one dtype: got torch.float64"),
    ([X, X.long(), X, X], "one dtype: got torch.int64"),
    ([X, X.to("meta"), X, X], "one device: got meta, expected cpu"),
]


@pytest.mark.parametrize(("batches", "words"), NOT_BATCHES)
def test_measuring_and_training_refuse_the_same(batches, words):
    with pytest.raises(ShapeError, match=words):
        untyped_measure(random_sae(), batches)
    with pytest.raises(ShapeError, match=words):
        untyped_fit(SMALL, batches, SHORT)


@pytest.mark.parametrize("batches", [None, 3, "activations", {"a": [X]}, {"a": X}])
def test_what_is_no_stream_is_refused(batches):
    with pytest.raises(ConfigError, match=rf"iterable of tensors .* got {type(batches).__name__}"):
        untyped_fit(SMALL, batches, SHORT)
    with pytest.raises(ConfigError, match="iterable of tensors"):
        untyped_measure(random_sae(), batches)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_streams_of_any_one_dtype_are_trained_and_measured_on_in_float32(dtype):
    batches = [torch.randn(8, D_MODEL).to(dtype) for _ in range(4)]
    sae = saes.fit(SMALL, batches, SHORT)
    plain = saes.fit(SMALL, [x.float() for x in batches], SHORT)
    assert torch.equal(sae.W_enc, plain.W_enc)
    assert saes.measure(sae, batches)[0] == saes.measure(sae, [x.float() for x in batches])[0]


def test_sites_may_have_a_dtype_each():
    batches = [{"a": torch.randn(8, D_MODEL).half(), "b": torch.randn(8, D_MODEL)} for _ in range(4)]
    saes.fit(CODER, batches, SHORT)
    batches[2]["b"] = batches[2]["b"].bfloat16()
    with pytest.raises(ShapeError, match=r"got torch.bfloat16 at b, expected torch.float32"):
        saes.fit(CODER, batches, SHORT)


def test_placed_batches_are_of_one_dtype():
    place = torch.arange(8)
    with pytest.raises(ShapeError, match="one dtype"):
        saes.measure(random_sae(), [saes.Placed(X, place, place), saes.Placed(X.half(), place, place)])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sae": "topk"}, "sae must be of the kind SAEConfig or SAE, or a list of such: got str"),
        ({"sae": None}, "sae must be of the kind SAEConfig or SAE, or a list of such: got NoneType"),
        ({"sae": [SMALL, random_sae(), 3]}, "sae must be of the kind SAEConfig or SAE, or a list of such: got int"),
        ({"train": None}, "train must be of the kind TrainConfig, or a list of such: got NoneType"),
        ({"train": {"total_tokens": 32}}, "train must be of the kind TrainConfig, or a list of such: got dict"),
        ({"on_record": 3}, "on_record must be a function"),
        ({"run": "runs/first"}, r"run must be a RunConfig or None, got 'runs/first'"),
        ({"world": None}, "world must be a World, got None"),
    ],
)
def test_arguments_of_another_kind_are_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        untyped_fit(**{"sae": SMALL, "batches": [X] * 4, "train": SHORT, **change})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"about": {"path": object()}}, "about must be JSON data without NaN"),
        ({"about": {"lr": float("nan")}}, "about must be JSON data without NaN"),
        ({"about": {("a", 1): 2}}, "about must be JSON data"),
        ({"about": "text"}, "about must be a dict of JSON data, got 'text'"),
        ({"save_every_seconds": "3"}, "save_every_seconds must be a number of at least 0, or None: got '3'"),
        ({"stop_after_seconds": True}, "stop_after_seconds must be a number"),
        ({"save_every_steps": "3"}, "save_every_steps must be a whole number"),
        ({"keep": None}, "keep must be a whole number"),
        ({"use_older": "yes"}, "use_older must be true or false, got 'yes'"),
        ({"stop": True}, "stop must be a function"),
        ({"folder": None}, "folder must be a path, as text or a Path, got None"),
        ({"folder": "a\0b"}, "folder must be a path"),
        ({"names": ["a"]}, "names must be different names .* as a tuple"),
        ({"names": "ab"}, "names must be different names .* as a tuple"),
        ({"names": ("..",)}, "names must be different names"),
        ({"names": ("checkpoints",)}, r"none of them run\.json, log\.jsonl, checkpoints: got"),
    ],
)
def test_run_settings_of_another_kind_are_refused(monkeypatch, change, words):
    monkeypatch.setattr(RunConfig, "__init__", inspect.unwrap(RunConfig.__init__))  # without the tests' type checks
    with pytest.raises(ConfigError, match=words):
        RunConfig(**{"folder": "run", **change})


def test_true_is_no_number_of_latents(monkeypatch):
    monkeypatch.setattr(SAEConfig, "__init__", inspect.unwrap(SAEConfig.__init__))
    with pytest.raises(ConfigError, match=r"prefixes must be a tuple of whole numbers, got \(True, 64\)"):
        SAEConfig(D_MODEL, 64, 4, prefixes=(True, 64))


def test_a_stream_that_ends_early_is_told_with_its_length():
    with pytest.raises(ShapeError, match=r"ended early: there were 24 tokens .* total_tokens is 32 in batches of 8"):
        saes.fit(SMALL, [X] * 3, SHORT)
    with pytest.raises(ShapeError, match="ended early: there were 0 tokens"):
        saes.fit(SMALL, [], SHORT)


class Bad(Stream):
    """Gives what is no tensor."""

    def __init__(self, batch):
        self.batch = batch

    def __next__(self):
        return self.batch


def test_divided_streams_pass_on_what_is_no_batch_to_be_refused():
    for batch, words in ((X.numpy(), "got ndarray"), ([1.0] * 8, "got list"), (None, "got NoneType")):
        with pytest.raises(ShapeError, match=words):
            untyped_fit(SMALL, Slices(Bad(batch)), SHORT)
        with pytest.raises(ShapeError, match=f"{words} from a part"):
            untyped_fit(SMALL, Parts(lambda _, batch=batch: Bad(batch), 2), SHORT)
    parts = (X[:4], X[4:].half())
    with pytest.raises(ShapeError, match="one dtype"):
        saes.fit(SMALL, Parts(lambda part: Bad(parts[part]), 2), SHORT)
