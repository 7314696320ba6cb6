"""Several processes train as one does: the same losses, the same weights, whatever dies and however many go on."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import saes
from saes import ConfigError, RunConfig, SAEConfig, ShapeError, TrainConfig, World, WorldError
from saes.distributed.group import Group
from saes.distributed.select import kth_largest, topk_of_shards
from saes.fitting import Fitting
from tests.saes.ranks import ranks

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forks")

TOKENS, STEPS, WIDTH = 64, 16, 16
CASES: dict[str, tuple[SAEConfig, dict]] = {
    "topk, some latents dead": (SAEConfig(WIDTH, 128, 3, site="a"), {"dead_after_tokens": 64, "grad_clip": 0.1}),
    "matryoshka, outliers": (
        SAEConfig(WIDTH, 64, 4, site="a", prefixes=(8, 40, 64)),
        {"multi_topk_weight": 1 / 8, "k_start": 9, "b_dec_init": "geometric_median", "outlier_norm": 1.4},
    ),
    "batch_topk": (
        SAEConfig(WIDTH, 64, 4, site="a", activation="batch_topk", prefixes=(24, 64)),
        {"optimiser": "signum", "lr": 1e-3},
    ),
    "transcoder": (SAEConfig(WIDTH, 32, 20, site="a", site_out="b", skip=True, subtract_b_dec=False), {}),
    "layer_norm": (SAEConfig(WIDTH, 64, 4, site="a", input_norm="layer_norm"), {"dead_after_tokens": 64}),
    "jumprelu, some latents dead": (
        SAEConfig(WIDTH, 64, site="a", activation="jumprelu"),
        {"jumprelu_threshold": 2.0, "dead_after_tokens": 64},
    ),
    "relu": (SAEConfig(WIDTH, 64, site="a", activation="relu"), {"outlier_norm": 1.4}),
    "matryoshka relu transcoder": (
        SAEConfig(
            WIDTH, 64, site="a", site_out="b", skip=True, subtract_b_dec=False, activation="relu", prefixes=(24, 64)
        ),
        {"dead_after_tokens": 64},
    ),
}
COUNTED = [name for name, (config, _) in CASES.items() if config.k is not None]


class Stream:
    """Batches at two sites from one generator; ``kill`` kills the process, ``hang`` stops it, at that batch."""

    def __init__(self, tokens: int = TOKENS, seed: int = 5, kill: int = -1, hang: int = -1) -> None:
        self.tokens, self.kill, self.hang, self.given = tokens, kill, hang, 0
        self.generator = torch.Generator().manual_seed(seed)
        fixed = torch.Generator().manual_seed(1)
        self.directions, self.map = torch.randn(40, WIDTH, generator=fixed), torch.randn(WIDTH, WIDTH, generator=fixed)

    def __iter__(self):
        return self

    def __next__(self):
        if self.given == self.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.given == self.hang:
            time.sleep(3600)
        self.given += 1
        strengths = torch.rand(self.tokens, 40, generator=self.generator)
        x = (strengths * (strengths > 0.9)) @ self.directions + 0.1
        return {"a": x, "b": x @ self.map}

    def state(self):
        return {"generator": self.generator.get_state(), "given": self.given}

    def restore(self, state):
        self.generator.set_state(state["generator"])
        self.given = state["given"]


def settings(name: str) -> TrainConfig:
    return TrainConfig(TOKENS * STEPS, TOKENS, **{"lr": 3e-3, "measure_every_steps": 1, **CASES[name][1]})


def train(names, batches, world=World(), folder=None, **run):  # noqa: B008  # it holds nothing
    """The records of the training, and the weights."""
    records: list[saes.TrainRecord] = []
    kept = None if folder is None else RunConfig(folder, save_every_steps=4, **run)
    configs, trains = [CASES[name][0] for name in names], [settings(name) for name in names]
    trained = saes.fit(configs, batches, trains, records.append, kept, world)
    return [dataclasses.asdict(one) for one in records], [dict(one.state_dict()) for one in trained]


@pytest.fixture(scope="module")
def alone():
    """What one process gives, of every case."""
    records, weights = train(list(CASES), Stream())
    by_case = {name: [one for one in records if one["sae"] == number] for number, name in enumerate(CASES)}
    return by_case, dict(zip(CASES, weights, strict=True))


def assert_same_curves(records, names, alone):
    for number, name in enumerate(names):
        curve, expected = [one for one in records if one["sae"] == number], alone[0][name]
        assert len(curve) == len(expected) == STEPS
        for one, other in zip(curve, expected, strict=True):
            for key in ("loss", "fvu", "l0", "dead_fraction"):
                assert one[key] == pytest.approx(other[key], rel=1e-5), (name, key, one["tokens"])


def assert_same_weights(weights, names, alone):
    for of, name in zip(weights, names, strict=True):
        for key, tensor in alone[1][name].items():
            torch.testing.assert_close(of[key], tensor, rtol=1e-3, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}")


def test_the_cases_are_what_they_say(alone):
    for name, curve in alone[0].items():
        assert curve[-1]["fvu"] < curve[0]["fvu"], name
        if "dead" in name:
            assert 0.05 < curve[-1]["dead_fraction"] < 1, name


def test_processes_that_share_batches_give_the_curve_of_one(tmp_path, alone):
    outcomes = ranks(2, tmp_path, lambda world: train(list(CASES), saes.Slices(Stream(), world), world))
    assert_same_curves(outcomes[0][0], CASES, alone)
    assert_same_weights(outcomes[0][1], CASES, alone)
    for one, other in zip(outcomes[0][1], outcomes[1][1], strict=True):
        assert all(torch.equal(tensor, other[key]) for key, tensor in one.items()), "every process has the same bits"


@pytest.mark.parametrize(("size", "names"), [(2, list(CASES)), (4, [*COUNTED[:2], "jumprelu, some latents dead"])])
def test_processes_that_divide_latents_give_the_curve_of_one(tmp_path, alone, size, names):
    """Of two processes each has half of the latents; of four, two pairs share the batches, too."""
    folder = tmp_path / "run"
    work = lambda world: train(names, saes.Slices(Stream(), world), world, folder)  # noqa: E731
    outcomes = ranks(size, tmp_path, work, shards=2)
    for records, weights in outcomes:
        assert_same_curves(records, names, alone)
        assert [len(one["W_dec"]) for one in weights] == [CASES[name][0].d_sae // 2 for name in names]
    whole = [saes.load(folder / f"sae-{number}") for number in range(len(names))]
    assert_same_weights([one.state_dict() for one in whole], names, alone)
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert_same_curves(log, names, alone)


def test_a_rank_keeps_its_share_of_all_that_grows_with_the_latents(tmp_path):
    config = SAEConfig(WIDTH, 4096, 4, activation="batch_topk")  # which needs all pre-activations on one process, too
    train = TrainConfig(TOKENS, TOKENS)

    @torch.no_grad()
    def numbers(world):
        fitting = Fitting(config, train, world=world)
        fitting.advance(next(saes.Slices(Stream(), world))["a"])
        training = fitting._training
        moments = [tensor for kept in training.moments.values() for tensor in kept.values()]
        tensors = [*training.sae.state_dict().values(), *moments, training.buffer, training.silent_tokens]
        tensors.append(training.memory["pre"])
        return sum(tensor.numel() for tensor in tensors)

    whole = numbers(World())
    for part in ranks(2, tmp_path, numbers, shards=2):
        assert part == pytest.approx(whole / 2, rel=0.01)


@pytest.mark.parametrize("gathered", [0, 2048])
def test_the_selection_over_shards_is_exact_also_among_equal_values(tmp_path, monkeypatch, gathered):
    """Whether values travel, or histograms of their bits."""
    monkeypatch.setattr("saes.distributed.select.GATHERED", gathered)
    whole = torch.randint(-3, 6, (200, 24), generator=torch.Generator().manual_seed(0)).float()
    whole[100:] += torch.randn(100, 24, generator=torch.Generator().manual_seed(1))
    whole[0] = 0
    whole[1] = 5

    def chosen(world):
        mine, found = world.shard(24), {}
        for k in (1, 5, 9, 24):
            part = whole[:, mine.start : mine.stop]
            values, indices = part.sort(dim=-1, descending=True, stable=True)
            n = min(k, len(mine))
            indices, values = topk_of_shards(indices[:, :n], values[:, :n].contiguous(), k, world.latents)
            found[k] = torch.zeros_like(part).scatter_(-1, indices, values)
            found[-k] = kth_largest(part.relu().view(1, -1), 200 * k, world.all)
        return found

    parts = ranks(3, tmp_path, chosen, shards=3)
    for k in (1, 5, 9, 24):
        values, indices = whole.sort(dim=-1, descending=True, stable=True)  # of equal ones, the lowest index first
        expected = torch.zeros_like(whole).scatter_(-1, indices[:, :k], values[:, :k].relu())
        assert torch.equal(torch.cat([part[k] for part in parts], -1), expected)
        assert all(part[-k] == whole.relu().flatten().sort(descending=True).values[200 * k - 1] for part in parts)


def test_a_shard_of_random_weights_is_that_of_the_whole(monkeypatch):
    config = SAEConfig(7, 90, 3)
    whole = saes.SAE(config, 4)
    monkeypatch.setattr("saes.sae.CHUNK_ROWS", 16)
    for latents in (range(90), range(30, 60), range(89, 90)):
        part = saes.SAE(config, 4, latents)
        assert torch.equal(part.W_dec, whole.W_dec[latents.start : latents.stop])
        assert torch.equal(part.W_enc, whole.W_enc[:, latents.start : latents.stop])
    with pytest.raises(ShapeError, match="holds latents 30 to 59 of 90"):
        saes.SAE(config, 4, range(30, 60))(torch.zeros(1, 7))


LAYOUTS = {"one": (1, 1), "two that share batches": (2, 1), "two that divide latents": (2, 2)}


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("two that divide latents", "two that share batches"),
        ("two that share batches", "one"),
        ("one", "two that divide latents"),
    ],
)
def test_a_run_goes_on_with_other_processes_on_the_same_curve(tmp_path, alone, first, then):
    """Also one that was begun with latents divided in another way: the checkpoint is divided anew."""
    folder, names = tmp_path / "run", COUNTED[:3]

    def part(layout, **run):
        size, shards = LAYOUTS[layout]
        work = lambda world: train(names, saes.Slices(Stream(), world), world, folder, **run)  # noqa: E731
        return work(World()) if size == 1 else ranks(size, tmp_path / layout, work, shards)

    part(first, stop_after_steps=6)
    part(then)
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert_same_curves(log, names, alone)
    assert_same_weights([saes.load(folder / f"sae-{number}").state_dict() for number in range(3)], names, alone)


def test_a_stream_in_parts_gives_the_same_batches_to_any_number_of_processes(tmp_path):
    def batches(world, folder=None, **run):
        parts = saes.Parts(lambda part: Stream(TOKENS // 4, seed=part), 4, world)
        return train(COUNTED[:1], parts, world, folder, **run)

    whole, _ = batches(World())
    folder = tmp_path / "run"
    ranks(2, tmp_path, lambda world: batches(world, folder, stop_after_steps=6))
    batches(World(), folder)
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [one["loss"] for one in log] == pytest.approx([one["loss"] for one in whole], rel=1e-5)


@pytest.mark.parametrize(("how", "shards"), [("kill", 1), ("kill", 2), ("hang", 1)])
def test_a_dead_or_silent_process_ends_the_run_in_time_and_it_goes_on(tmp_path, alone, how, shards):
    folder, names, limit = tmp_path / "run", COUNTED[:1], 5.0 if how == "hang" else 60.0

    def work(world):
        begun = time.perf_counter()
        stream = Stream(**{how: 10}) if world.rank else Stream()
        try:
            return train(names, saes.Slices(stream, world), world, folder)
        except WorldError as error:
            return time.perf_counter() - begun, str(error)

    begun = time.perf_counter()
    outcomes = ranks(2, tmp_path, work, shards, timeout_s=limit, wait_for=1)
    seconds, message = outcomes[0]
    assert seconds < 30, "a dead process is noticed at once, a silent one after five seconds"
    assert time.perf_counter() - begun < 40
    assert "process of this run is gone, or has not answered for" in message
    assert "step-000000000008" in message
    again = ranks(2, tmp_path, lambda world: train(names, saes.Slices(Stream(), world), world, folder), shards)
    assert [one["tokens"] // TOKENS for one in again[0][0]] == list(range(9, STEPS + 1)), "from the newest checkpoint"
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert_same_curves(log, names, alone)


class Spoilt(Stream):
    def __next__(self):
        batch = super().__next__()
        if self.given == 3:
            batch["a"][0, 0] = torch.nan
        return batch


def test_what_one_process_raises_all_do(tmp_path):
    def work(world):
        stream = Spoilt(TOKENS // 2) if world.rank else Stream(TOKENS // 2)
        return train(COUNTED[:1], stream, world, tmp_path / "run")

    outcomes = ranks(2, tmp_path, work)
    assert [type(one) for one in outcomes] == [ShapeError, ShapeError]
    assert "Process 1 of 2: Activations must be finite" in str(outcomes[0])
    outcomes = ranks(2, tmp_path, lambda world: train(["relu"], Stream(), world, tmp_path / "run"))
    assert all(isinstance(one, ConfigError) and "other settings" in str(one) for one in outcomes)


def test_streams_of_their_own_need_as_many_processes(tmp_path):
    def work(world):
        return train(COUNTED[:1], Stream(TOKENS // world.size, world.rank), world, tmp_path / "run", stop_after_steps=2)

    ranks(2, tmp_path, work)
    with pytest.raises(ConfigError, match="was written by 2 processes, each with a stream of its own, and there are 1"):
        work(World())
    assert len(ranks(2, tmp_path, work)[0][0]) == 2


def test_damage_is_found_whoever_looks(tmp_path):
    def work(world, **run):
        return train(COUNTED[:1], saes.Slices(Stream(), world), world, tmp_path / "run", **run)

    ranks(2, tmp_path, lambda world: work(world, stop_after_steps=8), 2)
    newest = tmp_path / "run" / "checkpoints" / "step-000000000008"
    names = sorted(path.relative_to(newest).as_posix() for path in newest.rglob("*.safetensors"))
    assert names == [
        *(f"sae-0/sae-{rank}-of-2.safetensors" for rank in range(2)),
        *(f"{name}-{rank}-of-2.safetensors" for name in ("state", "stream") for rank in range(2)),
    ]
    with (newest / names[1]).open("r+b") as file:
        file.truncate(1000)
    outcomes = ranks(2, tmp_path, work, 2)
    assert all("sae-1-of-2.safetensors has been cut off" in str(one) for one in outcomes)
    records, _ = ranks(2, tmp_path, lambda world: work(world, use_older=True), 2)[0]
    assert records[0]["tokens"] == TOKENS * 5


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (lambda: World.joined(0, 3, 2), "latent_shards must divide the number of processes: got 2 shards on 3"),
        (lambda: World.joined(0, 1, timeout_s=0), "timeout_s must be a positive"),
        (lambda: World.joined(0, 1, backend="mpi"), "backend must be nccl or gloo"),
        (lambda: World.from_env({"WORLD_SIZE": "2", "RANK": "x"}), "RANK must be a whole number"),
        (lambda: saes.Parts(lambda part: Stream(), 0), "parts must be a multiple"),
    ],
)
def test_what_cannot_be_a_world_is_refused(problem, message):
    with pytest.raises(ConfigError, match=message):
        problem()


def test_what_cannot_be_divided_is_refused(tmp_path):
    def refused(config, tokens, run=None):
        def work(world):
            return saes.fit(config, Stream(tokens), TrainConfig(tokens, tokens), run=run, world=world)

        outcomes = ranks(2, tmp_path, work, shards=2)
        assert all(isinstance(one, ConfigError) for one in outcomes)
        return str(outcomes[0])

    run = RunConfig(tmp_path / "run")
    assert "33 latents for 2 shards" in refused(SAEConfig(WIDTH, 33, 3), 64, run)
    assert "got 63 tokens for 2 processes" in refused(SAEConfig(WIDTH, 32, 3), 63, run)
    assert "give run" in refused(SAEConfig(WIDTH, 32, 3), 64)


def test_torchrun_starts_it(tmp_path):
    """As documented: the launcher, the environment, one process each."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "tests.saes.launched", str(tmp_path / "run")],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert saes.load(tmp_path / "run" / "sae-0").config.d_sae == 64
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 3


def test_a_rank_at_work_tells_the_others_that_it_is_there(tmp_path, monkeypatch):
    """The work ends only when the ranks have exchanged something while it was under way."""
    monkeypatch.setattr("saes.distributed.world.SLICE_S", 0.01)
    largest, exchanged = Group.largest, []
    monkeypatch.setattr(Group, "largest", lambda group, value: exchanged.append(value) or largest(group, value))

    def work(world):
        def write():
            while len(exchanged) < 5:
                time.sleep(0.001)
            return world.rank

        def fail():
            raise saes.FormatError("no space")

        found = world.patiently(lambda: write() if world.rank == 0 else None)
        with pytest.raises(saes.FormatError, match="no space"):
            world.patiently(lambda: fail() if world.rank == 0 else None)
        return found, len(exchanged)

    (first, some), (second, others) = ranks(2, tmp_path, work)
    assert (first, second) == (0, None)
    assert some == others
