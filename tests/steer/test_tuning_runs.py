"""Runs of ``steer tune``: what they train, how they go on, and what they refuse."""

import dataclasses
import json
import signal
from copy import deepcopy
from functools import partial

import peft
import pytest
import torch
from safetensors.torch import load_file

from saes.checkpoints import checkpoints
from saes.errors import DivergedError
from steer.cli.app import run
from steer.errors import DataError, ModelError, OutputError
from steer.models.load import load_model
from steer.models.site import Site
from steer.responders.tuned import Tuned
from steer.tuning.adapter import Adapter, lora_config
from steer.tuning.adapter_files import WEIGHTS
from steer.tuning.examples import tokenised
from steer.tuning.job import tune
from steer.tuning.rows import read_examples
from steer.tuning.training import Tuning, loss_sum
from tests.conftest import PROMPTS
from tests.steer.killed_training import forked
from tests.steer.killed_training import reached as reached_lines
from tests.steer.training_data import options, write_model
from tests.steer.tuning_data import short, write_examples

LAYERS = ("o_proj", "gate_proj", "up_proj", "down_proj", "lm_head")


class Stop:
    """Asked after every step; true after so many."""

    def __init__(self, steps):
        self.left = steps

    def __call__(self):
        self.left -= 1
        return self.left <= 0


class Notes:
    """Progress that keeps what it is told."""

    def __init__(self):
        self.notes, self.totals, self.done = [], {}, 0

    def stage(self, title, total=None):
        from contextlib import nullcontext

        self.totals[title] = total
        return nullcontext()

    def advance(self, count=1, note=""):
        self.done += count

    def note(self, message):
        self.notes.append(message)


def outcome(folder):
    """What must be the same: every weight, every moment, and the log but for its times."""
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    last = checkpoints(folder / "checkpoints")[0]
    files = [folder / "adapter" / WEIGHTS, *(last / name for name in (WEIGHTS, "optimiser.safetensors", "state.json"))]
    return [last.name, [{**line, "seconds": 0} for line in log], *(path.read_bytes() for path in files)]


@pytest.fixture
def whole(llama, tmp_path):
    """A run from beginning to end."""
    return tune(short(tmp_path / "data", tmp_path / "whole"), lm=llama)


def test_a_run_learns_leaves_the_model_alone_and_says_what_it_did(llama, tmp_path):
    before = {name: tensor.clone() for name, tensor in llama.model.state_dict().items()}
    state, progress = torch.get_rng_state(), Notes()
    replies = llama.generate(PROMPTS)
    config = short(
        tmp_path,
        tmp_path / "run",
        steps=40,
        lr=0.03,
        batch=8,
        micro_batch=8,
        rank=8,
        target=LAYERS,
        measure_every_steps=20,
    )
    found = tune(config, lm=llama, progress=progress)
    assert (found.done, found.steps, found.of_steps, found.left_out) == (True, 40, 40, 0)
    assert (progress.totals["tuning"], progress.done) == (40, 40)
    assert found.mixture["share"] == found.mixture["safety"] / (found.mixture["general"] + found.mixture["safety"])
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [20, 40]
    assert lines[-1]["loss"] == found.loss < 0.5 * lines[0]["loss"]
    assert found.validation_safety == lines[-1]["validation_safety"] < lines[0]["validation_safety"]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in llama.model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in llama.model.parameters())
    assert llama.generate(PROMPTS) == replies
    with Tuned(llama, tmp_path / "run").attached():
        examples = tokenised(llama, read_examples(config.safety).conversations, 256, on_prompt=False)
        with torch.no_grad():
            tuned = loss_sum(llama, examples).item()
    with torch.no_grad():
        assert tuned < 0.5 * loss_sum(llama, examples).item()


def test_the_adapter_and_every_checkpoint_load_in_plain_peft(llama, whole):
    for folder in (whole.adapter, *checkpoints(whole.folder / "checkpoints")):
        other = deepcopy(llama)
        peft.PeftModel.from_pretrained(other.model, str(folder)).eval()
        with Tuned(llama, folder).attached():
            expected = llama.activations(llama.pad(llama.prompt_ids(PROMPTS)), [Site(2)])
        assert torch.equal(
            other.activations(other.pad(other.prompt_ids(PROMPTS)), [Site(2)])[Site(2)], expected[Site(2)]
        )
    assert json.loads((whole.adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == "tiny-llama"


def test_smaller_passes_make_the_same_steps(llama, tmp_path):
    weights = []
    for size in (1, 4):
        config = short(tmp_path, tmp_path / str(size), micro_batch=size, dropout=0.0)
        weights.append(load_file(tune(config, lm=llama).adapter / WEIGHTS))
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-2, atol=1e-4)


def test_a_step_is_adamw_on_the_mean_loss_of_a_token(llama, tmp_path):
    config = short(tmp_path, tmp_path / "run", dropout=0.0, grad_clip=0.5, warmup_steps=0)
    rows = read_examples(config.data).conversations[:4]
    examples = tokenised(llama, rows, 256, on_prompt=False)
    tuning = Tuning(Adapter(llama, lora_config(llama, 2, 4.0, 0.0, ())), examples, config, steps=10)
    weights = tuning.adapter.parameters()
    with tuning.adapter.attached():
        tuning.adapter.train()
        (loss_sum(llama, examples) / sum(sum(one.counted) for one in examples)).backward()
        grads = {name: weight.grad.double() for name, weight in weights.items()}
        tuning.adapter.eval()
        start = {name: weight.detach().double() for name, weight in weights.items()}
        tuning.step()
        tuning.adapter.eval()
    norm = sum(grad.square().sum() for grad in grads.values()).sqrt()
    assert norm > 0.5
    for name, weight in weights.items():
        grad = grads[name] * 0.5 / norm
        expected = start[name] - config.lr * grad / (grad.abs() + 1e-8)  # both moments are corrected to the gradient's
        torch.testing.assert_close(weight.double(), expected, rtol=1e-3, atol=1e-4)
    assert tuning.lr == pytest.approx(config.lr * 9 / 10)


@pytest.mark.parametrize("after", [1, 3, 7])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(llama, whole, tmp_path, after):
    config = short(tmp_path / "data", tmp_path / "run")
    stopped = tune(config, stop=Stop(after), lm=llama)
    assert (stopped.done, stopped.steps, stopped.adapter) == (False, after, None)
    with pytest.raises(ModelError, match="holds no adapter"):
        Tuned(llama, stopped.folder)
    torch.manual_seed(99)
    assert tune(config, lm=llama).done
    assert outcome(tmp_path / "run") == outcome(whole.folder)
    again = tune(config, lm=llama)
    assert (again.done, again.loss) == (True, whole.loss)
    assert outcome(tmp_path / "run") == outcome(whole.folder)


@pytest.mark.parametrize("reached", [3, 6, 9])
def test_a_run_that_was_killed_goes_on_to_the_same_bits(llama, whole, tmp_path, reached):
    config = short(tmp_path / "data", tmp_path / "run")

    def work():
        tune(config, lm=llama)
        return 0

    def there():
        return any(int(path.name[-12:]) >= reached for path in checkpoints(tmp_path / "run" / "checkpoints"))

    code, said = forked(work, there)
    assert code in (-signal.SIGKILL, 0), said
    for checkpoint in checkpoints(tmp_path / "run" / "checkpoints"):
        Tuned(llama, checkpoint)
    assert tune(config, lm=llama).done
    assert outcome(tmp_path / "run") == outcome(whole.folder)


def test_a_checkpoint_is_gone_on_from_in_another_folder(llama, whole, tmp_path):
    first = short(tmp_path / "data", tmp_path / "first")
    tune(first, stop=Stop(7), lm=llama)
    for given in (tmp_path / "first", checkpoints(tmp_path / "first" / "checkpoints")[0]):
        second = dataclasses.replace(first, out=str(tmp_path / f"second-{given.name}"), resume_from=str(given))
        assert tune(second, lm=llama).done
        assert outcome(tmp_path / f"second-{given.name}")[2:] == outcome(whole.folder)[2:]
    with pytest.raises(OutputError, match="other settings: lr is"):
        tune(dataclasses.replace(second, out=str(tmp_path / "third"), lr=0.02), lm=llama)
    with pytest.raises(OutputError, match="no checkpoint of a run"):
        tune(dataclasses.replace(first, out=str(tmp_path / "third"), resume_from=str(tmp_path)), lm=llama)
    assert not (tmp_path / "third").exists()
    assert not (tmp_path / "third" / "run.json").exists()


def test_a_damaged_checkpoint_is_set_aside_and_an_older_one_gone_on_from(llama, whole, tmp_path):
    config, progress = short(tmp_path / "data", tmp_path / "run"), Notes()
    tune(config, stop=Stop(7), lm=llama)
    weights = checkpoints(tmp_path / "run" / "checkpoints")[0] / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1])
    assert tune(config, lm=llama, progress=progress).done
    assert "has been cut off or altered" in progress.notes[0]
    assert outcome(tmp_path / "run") == outcome(whole.folder)
    for path in checkpoints(tmp_path / "run" / "checkpoints"):
        (path / "state.json").write_text("{}")
    with pytest.raises(OutputError, match=r"All checkpoints in .* are damaged"):
        tune(config, lm=llama)


def test_a_model_in_half_precision_is_tuned_in_float32(llama, tmp_path):
    lm = deepcopy(llama)
    lm.model.bfloat16()
    found = tune(short(tmp_path, tmp_path / "run", steps=3), lm=lm)
    assert {tensor.dtype for tensor in load_file(found.adapter / WEIGHTS).values()} == {torch.float32}
    assert {parameter.dtype for parameter in lm.model.parameters()} == {torch.bfloat16}
    plain = lm.forward(lm.pad([[5, 6, 7]]))
    with Tuned(lm, found.adapter).attached():
        assert lm.forward(lm.pad([[5, 6, 7]])).dtype == plain.dtype


def test_folders_of_others_are_left_alone(llama, whole, tmp_path):
    config = short(tmp_path / "data", whole.folder)
    with pytest.raises(OutputError, match=r"other settings: share is 0.1 there, but 0.05 was asked for"):
        tune(dataclasses.replace(config, share=0.05), lm=llama)
    with pytest.raises(OutputError, match=r"other settings: mixture.general_sha256 is"):
        data = tmp_path / "data" / "general.jsonl"
        (tmp_path / "other.jsonl").write_text(data.read_text().replace("23 it is", "23 it was"))
        tune(dataclasses.replace(config, data=str(tmp_path / "other.jsonl")), lm=llama)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"has written: notes.txt"):
            tune(dataclasses.replace(config, out=str(tmp_path / "mine")), overwrite, lm=llama)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "x"
    again = tune(dataclasses.replace(config, share=0.05), overwrite=True, lm=llama)
    assert (again.done, again.mixture["safety"]) == (True, 1)


def test_a_loss_that_is_not_finite_ends_the_run_and_the_last_checkpoint_stays(llama, tmp_path):
    replies = llama.generate(PROMPTS)
    config = short(
        tmp_path, tmp_path / "run", lr=1e25, target=("lm_head",), warmup_steps=0, save_every_steps=1, dropout=0.0
    )
    with pytest.raises(DivergedError, match=r"Tuning diverged in step 2: the (loss|gradient's norm) is (nan|inf)"):
        tune(config, lm=llama)
    assert [path.name[-1] for path in checkpoints(tmp_path / "run" / "checkpoints")] == ["1"]
    assert llama.generate(PROMPTS) == replies
    assert not hasattr(llama.model, "peft_config")


def test_nothing_to_learn_is_said_before_anything_is_written(llama, tmp_path):
    config = short(tmp_path, tmp_path / "run", cutoff=3)
    with pytest.raises(DataError, match="Nothing to learn is left of 24 examples"):
        tune(config, lm=llama)
    with pytest.raises(DataError, match="the settings name tiny-llama"):
        tune(short(tmp_path, tmp_path / "run"), lm=dataclasses.replace(llama, name="another"))
    assert not (tmp_path / "run").exists()


# the command line


def command(folder, **more):
    data, safety = write_examples(folder)
    given = {"data": data, "safety": safety, "share": 0.1, "out": folder / "run", "steps": 4, "batch": 4, "threads": 1}
    return ["tune", *options(**{**given, **more})]


def test_the_command_trains_and_tells(tmp_path, capsys):
    model = write_model(tmp_path / "model")
    weights = (model / "model.safetensors").read_bytes()
    assert run(command(tmp_path, model=model, json=True, target="up_proj,o_proj", dry_run=True)) == 0
    planned = json.loads(capsys.readouterr().out)
    assert (planned["steps"], planned["of_steps"], planned["target"]) == (0, 4, ["o_proj", "up_proj"])
    assert not (tmp_path / "run").exists()
    assert run(command(tmp_path, model=model, json=True)) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["done"], found["steps"], found["mixture"]["safety"]) == (True, 4, 2)
    assert run(command(tmp_path, model=model, dry_run=True, lr=0.1)) == 2
    assert "lr" in capsys.readouterr().err
    lost = command(tmp_path, model=model, dry_run=True, resume_from=tmp_path / "nowhere")
    lost += ["--out", str(tmp_path / "b")]
    assert run(lost) == 2
    assert "no checkpoint of a run" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
    assert run(command(tmp_path, model=model)) == 0
    shown = capsys.readouterr()
    assert "22 general and 2 safety (8.33 %)" in shown.out
    assert "4 of 4" in shown.out
    assert found["mixture"]["safety_sha256"] in "".join(shown.out.split())
    assert (model / "model.safetensors").read_bytes() == weights
    tuned = Tuned(load_model(model), tmp_path / "run")
    assert tuned.settings()["base"]["model"] == str(model)


@pytest.mark.parametrize(("told", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_told_to_end_saves_and_goes_on(tmp_path, capsys, told, code):
    arguments = command(tmp_path, model=write_model(tmp_path / "model"), steps=40, measure_every_steps=1)
    log = tmp_path / "run" / "log.jsonl"
    ended, said = forked(lambda: run(arguments), partial(reached_lines, tmp_path / "run", 3), told)
    assert ended == code, said
    assert "Stopping after this step" in said
    (saved,) = checkpoints(tmp_path / "run" / "checkpoints")
    assert int(saved.name[-12:]) == log.read_text().count("\n") < 40
    assert run([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 40
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == list(range(1, 41))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"data": "none.jsonl"}, "No examples at none.jsonl"),
        ({"safety": None}, "there are no safety examples"),
        ({"share": 3}, "share must be less than 1"),
        ({"share": 0.5}, "takes 22 safety examples, but 7 are there"),
        ({"epochs": 1, "steps": 3}, "give one of them"),
        ({"rank": 0}, "rank must be a whole number"),
        ({"target": "c_attn"}, "has no layer named 'c_attn'"),
        ({"data": None}, "Missing option"),
    ],
)
def test_mistakes_end_with_2_before_any_training(tmp_path, capsys, more, words):
    assert run(command(tmp_path, **more)) == 2
    assert words in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert not (tmp_path / "run").exists()
