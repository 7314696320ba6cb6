"""``steer train``: what cannot work ends in one message and exit code 2, with nothing half-written."""

import json
import resource
import shutil

import pytest
import torch

import saes
from steer.cli.app import run
from steer.training.folder import mend, set_aside
from tests.conftest import tiny_model
from tests.steer.activation_data import write_lines
from tests.steer.training_data import SMALL, options, small, write_model, write_text


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Models and texts, good and bad."""
    folder = tmp_path_factory.mktemp("data")
    write_model(folder / "model")
    for name, value in (("nan", float("nan")), ("zero", 0.0)):
        lm = tiny_model("llama")
        with torch.no_grad():
            lm.model.get_input_embeddings().weight.fill_(value)
        write_model(folder / name, lm)
    write_text(folder / "a.jsonl")
    write_text(folder / "short.jsonl", 1)
    write_lines(folder / "columns.jsonl", [{"body": "text", "id": 1}])
    write_lines(folder / "talk.jsonl", [{"messages": [{"role": "user"}]}])
    (folder / "broken.toml").write_text("k = = 3")
    (folder / "list.json").write_text("[1]")
    (folder / "typo.toml").write_text("batch_token = 3")
    (folder / "kind.toml").write_text('batch_tokens = "3"')
    (folder / "true.json").write_text(json.dumps({"grad_clip": True}))
    (folder / "empty.toml").write_text('subset = ""')
    (folder / "choice.toml").write_text('activation = "tanh"')
    return folder


def refused(capsys, *arguments):
    """Run the command, which must end with exit code 2 and one message on stderr; returns the message."""
    assert run(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return " ".join(err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"k": 65}, "k must not exceed d_sae: got k = 65 with d_sae = 64"),
        ({"k": "4,4"}, "k names at least one value, and each once: got 4, 4"),
        ({"d_sae": "many"}, "expected whole numbers separated by commas"),
        ({"prefixes": "80"}, "prefixes must rise from at least 1 to d_sae = 64"),
        ({"activation": "relu"}, "k goes with the activations topk and batch_topk"),
        (
            {"activation": "tanh"},
            "--activation: Input should be 'topk', 'batch_topk', 'jumprelu' or 'relu', got 'tanh'",
        ),
        ({"optimiser": "sgd"}, "--optimiser: Input should be 'adam', 'adam_bf16', 'adam_8bit' or 'signum', got 'sgd'"),
        ({"lr": "nan"}, "--lr: Input should be a finite number"),
        ({"lr": "-1"}, "lr must be positive or None, got -1.0"),
        ({"adam_beta2": "1"}, "adam_beta2 must be at least 0 and less than 1, or None: got 1.0"),
        ({"k_start": 2}, "k_start falls to k"),
        ({"skip": True}, "Name what it writes (site_out)"),
        ({"skip": True, "site_out": "2.mlp_out", "subtract_b_dec": True}, "b_dec belongs to its output"),
        ({"site_out": "0.mlp_out"}, "which a pass of the model reaches earlier"),
        ({"ring_tokens": 31}, "ring_tokens must be at least a batch (32 tokens), got 31"),
        ({"site": "resid"}, "Cannot read the site 'resid'"),
        ({"site": "9.resid_post"}, "Layer 9 is out of range"),
        ({"site_out": "0.mlp_out,1.mlp_out"}, "got 2 for 1 sites"),
        ({"total_tokens": None}, "--total-tokens is needed"),
        ({"total_tokens": 3}, "total_tokens must cover at least one batch"),
        ({"text": None}, "One of text, dataset and shards says what is read: got none"),
        ({"dataset": "owner/name"}, "got text and dataset"),
        ({"text": "absent.jsonl"}, "there is no such file"),
        ({"text": "columns.jsonl"}, "expected a column 'messages' or 'text', got 'body', 'id'"),
        ({"text": "talk.jsonl"}, "talk.jsonl, line 1"),
        ({"form": "chat"}, "needs conversations, got a plain text"),
        ({"text": "short.jsonl"}, "there were 44 tokens that count, but total_tokens is 640"),
        ({"text": "short.jsonl", "batch_tokens": 96}, "there were 44 tokens that count"),
        (
            {"total_tokens": 32 * 500, "save_every_steps": 999},
            "tokens that count, but total_tokens is 16,000 in batches of 32",
        ),
        ({"model": "nan"}, "1.resid_post: Activations must be finite: 32 of 32 tokens"),
        ({"model": "zero"}, "All activations of the first batch at 1.resid_post are zero"),
        ({"model": "absent"}, "absent"),
        ({"shards": "model", "text": None, "model": None}, "No activations at"),
        ({"context_size": 4096}, "context_size must be at most the model's context of 128"),
        ({"config": "broken.toml"}, "broken.toml cannot be read as TOML"),
        ({"config": "list.json"}, "expected fields and their values, got list"),
        ({"config": "a.jsonl"}, "expected a name that ends in .toml or .json"),
        ({"config": "absent.toml"}, "absent.toml cannot be read"),
        ({"config": "typo.toml"}, "unknown field 'batch_token'. Did you mean batch_tokens?"),
        ({"config": "kind.toml", "batch_tokens": None}, "kind.toml, batch_tokens: Input should be a valid integer"),
        ({"config": "true.json"}, "true.json, grad_clip: Input should be a valid number, got True"),
        ({"ring_device": "meta"}, "The device 'meta' holds no numbers"),
        ({"ring_device": "tpu"}, "The device 'tpu' cannot be used"),
        ({"ring_tokens": 0}, "ring_tokens must be a whole number of at least 1"),
        ({"ring_tokens": 10**12}, "Make it smaller (`--ring-tokens`)"),
        ({"dataset": "owner/name", "text": None, "offline": True}, "the network is not to be used (--offline)"),
        (
            {"subset": "en"},
            "subset is a setting of a data set of the hub (--dataset), which is not read here: got 'en'",
        ),
        ({"split": "test"}, "split is a setting of a data set of the hub"),
        ({"dataset_revision": "v1"}, "dataset_revision is a setting of a data set of the hub"),
        ({"shards": "model", "text": None, "text_column": "body"}, "text_column is a setting of text"),
        ({"revision": "v1"}, "revision is that of a model of the hub, and model is local: got 'v1'"),
        ({"wandb": ""}, "an empty text after --wandb names nothing"),
        ({"split": " "}, "an empty text after --split names nothing"),
        ({"config": "empty.toml"}, "empty.toml, subset: Input should be a name, got ''"),
        ({"text": "t" * 300 + ".txt"}, "File name too long"),
        ({"text": "\udcff.txt"}, "there is no such file"),
        ({"text": "\ud800.txt"}, "no text that names a file"),
        ({"text": "a\0b.txt"}, "no name holds a zero byte"),
        ({"out": "o" * 300}, "File name too long"),
        ({"out": "\ud800"}, "no text that names a file"),
        ({"shards": "s" * 300, "text": None}, "File name too long"),
        ({"config": "c" * 300 + ".toml"}, "File name too long"),
        ({"lr": "1e400"}, "--lr: Input should be a finite number"),
        ({"seed": 2**63}, "seed must be a whole number of at least 0, and less than 2^63, but is larger"),
        ({"total_tokens": 2**63}, "total_tokens must be a whole number of at least 1, and less than 2^63"),
        ({"ring_tokens": 2**62}, "ring_tokens must be a whole number of at least 1, and less than 2^62"),
        ({"activation": "batch_topk", "selection": "fast"}, "selection fast is a way to find the k largest of topk's"),
        ({"multi_topk_weight": 0.1, "selection": "proven"}, "has no effect with activation topk"),
        ({"compute_dtype": "bfloat16", "selection": "fast"}, "has no effect with activation topk"),
        ({"config": "choice.toml"}, "choice.toml, activation: Input should be 'topk'"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(capsys, data, tmp_path, monkeypatch, more, words):
    monkeypatch.chdir(data)
    given = {"model": "model", "text": "a.jsonl", "out": tmp_path / "run", **SMALL, **more}
    assert words in refused(capsys, "train", *options(**given))
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_refuses_the_same(capsys, data, tmp_path):
    given = small(data / "model", data / "a.jsonl", tmp_path / "run", k=65, dry_run=True)
    assert "k must not exceed d_sae" in refused(capsys, *given)


def test_folders_that_hold_something_else_are_left_alone(capsys, data, tmp_path):
    (tmp_path / "mine.txt").write_text("a note")
    given = small(data / "model", data / "a.jsonl", tmp_path)
    for more in ([], ["--overwrite"], ["--dry-run"]):
        assert "is not empty and holds no run: mine.txt" in refused(capsys, *given, *more)
    assert "is a file" in refused(capsys, *small(data / "model", data / "a.jsonl", tmp_path / "mine.txt"))
    (tmp_path / "mine.txt").unlink()
    (tmp_path / "run.json").write_text("{")
    assert "run.json cannot be read" in refused(capsys, *given)


def test_a_text_that_ends_after_a_checkpoint_leaves_the_checkpoint(capsys, data, tmp_path):
    given = small(data / "model", data / "a.jsonl", tmp_path / "run", total_tokens=32 * 500, save_every_steps=20)
    assert "there were" in refused(capsys, *given)
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))


def test_a_run_whose_text_has_ended_goes_on_with_repeat_as_if_it_always_had(capsys, data, tmp_path):
    long = {"total_tokens": 32 * 100, "save_every_steps": 25, "keep": 9}
    given = small(data / "model", data / "a.jsonl", tmp_path / "run", **long)
    assert "ended early" in refused(capsys, *given)
    assert run([*given, "--repeat"]) == 0
    assert run(small(data / "model", data / "a.jsonl", tmp_path / "whole", repeat=True, **long)) == 0
    ours, theirs = (saes.load(tmp_path / name / "sae").state_dict() for name in ("run", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_ring_that_was_no_longer_full_does_not_go_on_with_repeat(capsys, data, tmp_path):
    given = small(data / "model", data / "a.jsonl", tmp_path / "run", total_tokens=32 * 500, save_every_steps=1)
    assert "ended early" in refused(capsys, *given)
    assert "The text had ended when this state was taken" in refused(capsys, *given, "--repeat")


def test_a_run_that_repeats_goes_on_only_so(capsys, data, tmp_path):
    given = small(data / "model", data / "a.jsonl", tmp_path / "run")
    assert run([*given, "--repeat", "--stop-after-steps", "5"]) == 0
    capsys.readouterr()
    assert "endless is true there, but false here" in refused(capsys, *given)
    assert run([*given, "--repeat"]) == 0


def test_a_full_disk_leaves_what_was_saved(capsys, data, tmp_path):
    given = small(data / "model", data / "a.jsonl", tmp_path / "run")
    assert run([*given, "--stop-after-steps", "5"]) == 0
    capsys.readouterr()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        message = refused(capsys, *given)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "cannot be written" in message
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000000000005"]
    assert run(given) == 0


def test_a_loss_that_is_not_finite_keeps_the_log(capsys, data, tmp_path):
    """A learning rate that float32 cannot bear."""
    given = small(data / "model", data / "a.jsonl", tmp_path / "run", lr=1e30, measure_every_steps=1, warmup_frac=0)
    assert "The loss became" in refused(capsys, *given)
    assert (tmp_path / "run" / "log.jsonl").exists()
    assert run(small(data / "model", data / "a.jsonl", tmp_path / "run")) == 0, "the remedy may be tried"


def everything(folder):
    """All files below a folder, but for locks, with their content."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"total_tokens": 32 * 500, "save_every_steps": 1000}, "The activations ended early"),
        ({"lr": 1e30, "warmup_frac": 0}, "The loss became"),
        ({"d_sae": 10**12}, "memory"),
    ],
)
def test_a_run_is_replaced_only_once_the_new_one_has_a_checkpoint(capsys, data, tmp_path, more, words):
    given = small(data / "model", data / "a.jsonl", tmp_path / "run")
    assert run(given) == 0
    capsys.readouterr()
    before = everything(tmp_path / "run")
    new = small(data / "model", data / "a.jsonl", tmp_path / "run", overwrite=True, **more)
    assert words in refused(capsys, *new)
    assert everything(tmp_path / "run") == before


def test_a_run_put_aside_by_one_that_was_killed_comes_back(capsys, data, tmp_path):
    given, folder = small(data / "model", data / "a.jsonl", tmp_path / "run"), tmp_path / "run"
    assert run([*given, "--stop-after-steps", "5"]) == 0
    before = everything(folder)
    set_aside(folder)
    (folder / "run.json").write_text("{}")  # of the new one
    mend(folder)
    assert everything(folder) == before
    assert run(given) == 0


@pytest.fixture
def begun(capsys, data, tmp_path):
    """A run of five of twenty steps: the command that goes on with it."""
    given = small(data / "model", data / "a.jsonl", tmp_path / "run")
    assert run([*given, "--stop-after-steps", "5"]) == 0
    capsys.readouterr()
    return given


def test_without_its_settings_a_run_is_named_and_may_be_begun_anew(capsys, begun, tmp_path):
    folder = tmp_path / "run"
    (folder / "run.json").unlink()
    before = everything(folder)
    assert "run.json, by which the run is known again, is missing" in refused(capsys, *begun)
    (folder / "mine.txt").write_text("a note")
    assert "holds more: mine.txt" in refused(capsys, *begun, "--overwrite")
    (folder / "mine.txt").unlink()
    assert "ended early" in refused(capsys, *begun, "--overwrite", *options(total_tokens=16000, save_every_steps=999))
    assert everything(folder) == before
    assert run([*begun, "--overwrite"]) == 0
    assert (folder / "run.json").is_file()
    assert not (folder / ".replaced").exists()


@pytest.mark.parametrize("damage", ["removed", "cut", "spoilt"])
def test_a_damaged_log_ends_no_run(capsys, begun, tmp_path, damage):
    log = tmp_path / "run" / "log.jsonl"
    if damage == "removed":
        log.unlink()
    else:
        log.write_bytes(log.read_bytes()[:-9] + (b"\n\xff\n" if damage == "spoilt" else b""))
    assert run([*begun, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["done"]
    assert told["saes"][0]["fvu"] > 0
    assert log.read_text().count('"note": "Lines are missing above') == 1


def test_copies_among_the_checkpoints_are_passed_over(capsys, begun, tmp_path):
    checkpoints = tmp_path / "run" / "checkpoints"
    shutil.copytree(checkpoints / "step-000000000005", checkpoints / "step-000000000005 (copy)")
    (checkpoints / "step-old").mkdir()
    assert run(begun) == 0
    sae = tmp_path / "run" / "sae"
    (sae / "README.md").write_text("mine")
    capsys.readouterr()
    message = refused(capsys, *begun, "--overwrite")
    assert "holds more: checkpoints/step-000000000005 (copy), checkpoints/step-old, sae/README.md. Move" in message
    assert (sae / "sae.safetensors").exists(), "what cannot begin removes nothing"


def test_an_sae_that_a_kill_left_half_written_is_a_runs_to_remove(capsys, begun, tmp_path):
    """Between the renames of its two files, or before the first of them."""
    sae = tmp_path / "run" / "sae"
    assert run(begun) == 0
    for left in ({"sae.safetensors"}, {".sae.safetensors.4711", ".config.json.4711"}):
        for path in sae.iterdir():
            path.unlink()
        for name in left:
            (sae / name).write_text("half")
        assert run([*begun, "--overwrite", "--stop-after-steps", "3"]) == 0
        assert not sae.exists()
        assert run(begun) == 0
    assert sorted(path.name for path in sae.iterdir()) == ["config.json", "sae.safetensors"]


def test_what_is_in_the_way_is_listed(capsys, data, tmp_path):
    for number in range(14):
        (tmp_path / f"note-{number:02}.txt").write_text("mine")
    message = refused(capsys, *small(data / "model", data / "a.jsonl", tmp_path))
    assert "holds no run: note-00.txt, note-01.txt, " in message
    assert message.count("note-") == 12
    assert "and 2 more" in message


@pytest.mark.parametrize("name", ["log.jsonl", "checkpoints"])
def test_a_folder_or_file_in_the_place_of_another_is_one_message(capsys, begun, tmp_path, name):
    place = tmp_path / "run" / name
    if place.is_dir():
        shutil.rmtree(place)
        place.write_text("a file")
    else:
        place.unlink()
        place.mkdir()
    assert f"{name} cannot be written" in refused(capsys, *begun)
    assert place.exists()
