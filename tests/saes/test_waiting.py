"""What a training step asks of the device: on a GPU each answer makes the CPU wait until the queue is empty.

No GPU is needed: the steps run on the CPU as they would there, and every operation that would wait is seen as torch
dispatches it.
"""

import dataclasses
from collections import Counter

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import saes
from saes import DivergedError, RunConfig, SAEConfig, ShapeError, TrainConfig
from saes.distributed.reduce import gradient_norm
from saes.fitting import Fitting
from saes.gradients import gradients, sparse
from saes.step import Training, step
from saes.train import _on_one_device
from saes.training import LOOK_STEPS, require_trainable_on
from tests.saes.test_sae import planted

WAITING = {
    "aten::_local_scalar_dense",  # item, tolist, bool, int and float of a tensor
    "aten::item",
    "aten::equal",
    "aten::is_nonzero",
    "aten::nonzero",
    "aten::masked_select",
    "aten::bincount",
    "aten::unique_consecutive",
    "aten::_unique2",
    "aten::lift_fresh",  # torch.tensor: from the CPU to the GPU
}
BY_MASK = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
TOPK = SAEConfig(16, 64, 4)
TRAIN = TrainConfig(256 * 100, 256, dead_after_tokens=2560, grad_clip=0.1, measure_every_steps=1000)
CODER = {"site": "a", "site_out": "b", "subtract_b_dec": False, "skip": True}
RELU = dataclasses.replace(TOPK, k=None, activation="relu")
KINDS = {
    "topk": (TOPK, {}),
    "topk, bfloat16": (TOPK, {"compute_dtype": "bfloat16"}),
    "topk, fast": (TOPK, {"selection": "fast"}),
    "matryoshka, multi-topk": (dataclasses.replace(TOPK, prefixes=(16, 64)), {"multi_topk_weight": 1 / 8}),
    "skip transcoder": (dataclasses.replace(TOPK, **CODER), {}),
    "layer_norm": (dataclasses.replace(TOPK, input_norm="layer_norm"), {}),
    "adam_bf16": (TOPK, {"optimiser": "adam_bf16"}),
    "signum": (TOPK, {"optimiser": "signum"}),
    "relu": (RELU, {}),
    "jumprelu": (dataclasses.replace(RELU, activation="jumprelu"), {"jumprelu_threshold": 0.5}),
}


class Read(TorchFunctionMode):
    """Counts the calls that read a CPU's memory past torch's dispatch."""

    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu):
            self.found[func.__name__] += 1
        return func(*args, **(kwargs or {}))


class Waits(TorchDispatchMode):
    """Counts the operations for which a GPU would be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.read = Read(self.found)

    def __enter__(self):
        self.read.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.read.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        by_mask = name in BY_MASK and any(one is not None and one.dtype in (torch.bool, torch.uint8) for one in args[1])
        if name in WAITING or by_mask:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


def batches(config, seed=0):
    linear = torch.randn(16, 16, generator=torch.Generator().manual_seed(7)) / 4
    for x in planted():
        yield x if config.site is None else {"a": x, "b": x @ linear}


def begun(monkeypatch, config, change):
    """An SAE that has learnt for some steps, half of its latents dead; from now on nothing looks, as on a GPU."""
    monkeypatch.setenv("SAES_KERNELS", "eager")
    monkeypatch.setattr(sparse, "_counting_is_free", lambda x: False)
    fitting, stream = Fitting(config, dataclasses.replace(TRAIN, **change)), batches(config)
    for _ in range(3):
        fitting.advance(next(stream))
    training = fitting._training
    training.silent_tokens[::2] = 10**6
    assert training.most_dead >= 32
    training.look_every = 1000
    return fitting, stream


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_no_step_waits_for_a_gpu(monkeypatch, kind):
    fitting, stream = begun(monkeypatch, *KINDS[kind])
    given = [next(stream) for _ in range(3)]
    with Waits() as waits:
        for batch in given:
            fitting.advance(batch)
    assert not waits.found
    training = fitting._training
    assert training.steps_done == 6
    if fitting.config.k is not None:
        assert training.moments["W_dec"]["mean"][::2].abs().amax(-1).gt(0).any(), "AuxK reaches dead latents"


@torch.no_grad()
@pytest.mark.parametrize(
    ("config", "change", "wanted"),
    [
        (dataclasses.replace(TOPK, activation="batch_topk"), {}, {"tolist": 2}),  # here some token has more than 2 k
        (TOPK, {"outlier_norm": 5.0}, {"aten::_local_scalar_dense": 1, "aten::index": 1}),
    ],
)
def test_what_waits_and_why(monkeypatch, config, change, wanted):
    """How wide batch_topk's codes are, and which tokens are outliers, decide the shapes of what follows."""
    fitting, stream = begun(monkeypatch, config, change)
    batch = next(stream)
    with Waits() as waits:
        fitting.advance(batch)
    assert waits.found == wanted


@torch.no_grad()
def test_the_counting_of_waits_finds_them():
    x = torch.arange(4.0)
    with Waits() as waits:
        x[x > 1], x.sum().item(), x.nonzero(), torch.tensor(3.0), bool(x.any())
        x.tolist(), x.numpy()
        x[x > 1] = torch.ones(2)
    assert waits.found["aten::_local_scalar_dense"] == 2
    assert waits.found.keys() == {
        "aten::_local_scalar_dense", "aten::index", "aten::nonzero", "aten::lift_fresh", "aten::index_put_",
        "tolist", "numpy",
    }  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("kind", ["topk", "relu", "matryoshka, multi-topk"])
def test_steps_that_do_not_look_are_those_that_do(monkeypatch, kind):
    """Also as latents die and come back between two looks: unused places for the dead change nothing."""
    monkeypatch.setenv("SAES_KERNELS", "eager")
    config, change = KINDS[kind]
    trained = []
    for every in (1, 4):
        fitting = Fitting(config, dataclasses.replace(TRAIN, dead_after_tokens=768, auxk_weight=0.5, **change))
        stream, room = batches(config), 0
        for number in range(14):
            fitting.advance(next(stream))
            training = fitting._training
            training.look_every = every
            if number % 4:
                dead = int(training.dead.sum())
                assert training.most_dead >= dead
                room += training.most_dead - dead
        assert (room > 0) == (every > 1 and config.k is not None)
        trained.append(training)
    one, other = trained
    assert torch.equal(one.silent_tokens, other.silent_tokens)
    for name, weight in one.sae.state_dict().items():
        torch.testing.assert_close(weight, other.sae.state_dict()[name], rtol=1e-4, atol=1e-5)


def test_a_loss_that_is_not_finite_is_found_at_the_next_look():
    """Also if the steps after it look well again, as they do where only the loss was too large."""
    training = Training(saes.SAE(TOPK), TRAIN)
    training.look_every = 4
    good = [x for x, _ in zip(planted(), range(9), strict=False)]
    assert step(training, good[0], 1e-3).loss < 10
    spoilt = good[1].clone()
    spoilt[0, 0] = 1e25  # its square is beyond float32
    before = training.sae.b_enc.clone()
    step(training, spoilt, 0.0)
    assert training.steps_done == 2, "it was taken without looking"
    with torch.no_grad():
        for name, weight in saes.SAE(TOPK).state_dict().items():
            training.sae.state_dict()[name].copy_(weight)
    assert before.isfinite().all()
    losses = [step(training, x, 1e-3).loss for x in good[2:6]]
    assert all(loss != loss for loss in losses)
    assert training.steps_done == 4, "the look refused a step, and all that come after it"


class Stream:
    """Planted activations, of which those of one batch are spoilt."""

    def __init__(self, spoilt):
        self.batches, self.given, self.spoilt = planted(), 0, spoilt

    def __iter__(self):
        return self

    def __next__(self):
        x = next(self.batches).clone()
        if self.given == self.spoilt:
            x[3, 2] = torch.nan
        self.given += 1
        return x

    def state(self):
        return {"given": self.given}

    def restore(self, state):
        for _ in range(state["given"]):
            next(self)


@pytest.mark.parametrize("spoilt", [13, 19])
def test_without_looking_at_each_step_a_run_ends_in_time_and_keeps_its_last_good_checkpoint(
    monkeypatch, tmp_path, spoilt
):
    """Whether the next thing is a look or a checkpoint."""
    begin = Training.__post_init__

    def as_on_a_gpu(training):
        begin(training)
        training.look_every = 6

    monkeypatch.setattr(Training, "__post_init__", as_on_a_gpu)
    stream, run = Stream(spoilt), RunConfig(tmp_path / "run", save_every_steps=5)
    with pytest.raises(DivergedError, match=r"The loss became nan at step .* last good checkpoint is .*step-0+1"):
        saes.fit(TOPK, stream, TRAIN, run=run)
    assert spoilt < stream.given <= spoilt + 6
    saved = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert [path.name for path in saved] == ["step-000000000005", "step-000000000010"][-2:] if spoilt == 13 else True
    sae = saes.load(saved[-1] / "sae-0")
    assert all(tensor.isfinite().all() for tensor in sae.state_dict().values())


def test_a_cpu_looks_at_every_step_and_other_devices_do_not():
    assert Training(saes.SAE(TOPK), TRAIN).look_every == 1
    with pytest.raises(ShapeError, match="Activations must be finite"):
        saes.fit(TOPK, Stream(1), TRAIN)
    elsewhere = saes.SAE(TOPK).to("meta")
    assert Training(elsewhere, TRAIN).look_every == 1, "latents die within ten steps"
    assert Training(elsewhere, dataclasses.replace(TRAIN, dead_after_tokens=256 * 120)).look_every == 12
    assert Training(elsewhere, dataclasses.replace(TRAIN, dead_after_tokens=10**7)).look_every == LOOK_STEPS


@torch.no_grad()
def test_a_gradient_that_is_no_number_has_no_norm():
    training = Training(saes.SAE(TOPK), TRAIN)
    made = gradients(training, *[next(planted())] * 2)
    assert gradient_norm(training, made) > 0
    made.of["b_dec"][0] = torch.nan
    assert gradient_norm(training, made).isnan()


def test_what_was_looked_at_last_is_kept_until_the_next_look(monkeypatch):
    """Else the shapes between two looks would be others after a resumption, and so the bits."""
    init = Training.__post_init__

    def seldom(training):
        init(training)
        training.look_every = 7

    monkeypatch.setattr(Training, "__post_init__", seldom)
    training, again, older, elsewhere = (Training(saes.SAE(TOPK, 0), TRAIN) for _ in range(4))
    training.steps_done = 7
    training.silent_tokens[::2] = 10**6
    assert training.most_dead == 32
    training.steps_done = 9
    training.silent_tokens[:8] = 0
    state = training.state()
    again.restore(state)
    assert again.most_dead == training.most_dead == 32
    older.restore({name: value for name, value in state.items() if name != "most_dead"})
    elsewhere.restore({**state, "most_dead": [32, 1]})
    assert older.most_dead == elsewhere.most_dead == 28
    again.steps_done = 14
    assert again.most_dead == 28


def test_training_on_a_device_without_float64_is_refused():
    with pytest.raises(saes.ConfigError, match="not trained on mps"):
        require_trainable_on(torch.device("mps"))


def test_saes_that_were_finished_before_come_back_where_the_others_are():
    trains = [TRAIN, dataclasses.replace(TRAIN, total_tokens=2 * TRAIN.total_tokens)]
    fittings = [Fitting(TOPK, train, number) for number, train in enumerate(trains)]
    there = _on_one_device([saes.SAE(TOPK, 0), saes.SAE(TOPK, 1).to("meta")], fittings)
    assert [sae.W_dec.device.type for sae in there] == ["meta", "meta"]
