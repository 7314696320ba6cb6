"""What a study may say: mistakes end in one message before anything is generated; controls; the command."""

import io
import json
import re

import pytest
import torch
from safetensors.torch import save_file

import saes
from steer.cli.app import run
from steer.errors import DataError, PlanError, SteerError
from steer.models.load import load_model
from steer.progress import Silent
from steer.sweeps.bench import load_for, prepare
from steer.sweeps.config import CONTROLS
from steer.sweeps.read import parse_study, read_study
from steer.sweeps.tasks import load_tasks
from tests.conftest import tiny_model
from tests.steer.sweep_data import Counted, make_study_folder, samples, study_of, write_lines

BARE = {"arm": [{"direction": "difference", "site": "1.resid_post"}], "strengths": [2], "tasks": ["safe"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_study_folder(tmp_path_factory.mktemp("study"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strenghts": [1]}, "unknown field 'strenghts'. Did you mean strengths?"),
        ({"colour": 1}, "The fields are model, "),
        ({"arm": [{"latent": [3]}]}, "arm 1: unknown field 'latent'. Did you mean latents?"),
        ({"arm": [{"latents": [3], "window": {"fase": "all"}}]}, "window 1: unknown field 'fase'. Did you mean phase?"),
        ({"tasks": [{"flie": "x"}]}, "tasks 1: unknown field 'flie'. Did you mean file?"),
        ({"halving": {"firts": 0.5}}, "Did you mean first?"),
        ({"strengths": [1.0, float("nan")]}, "strengths 2: Input should be a finite number"),
        ({"strengths": [1e39]}, "must fit a 32-bit float"),
        ({"strengths": [True]}, "strengths 1: Input should be a valid number"),
        ({"strengths": ["2"]}, "strengths 1: Input should be a valid number"),
        ({"sae": "x", "arm": [{"latents": [True]}]}, "arm 1, latents 1: Input should be a valid integer"),
        ({"limit": "4"}, "limit: Input should be a valid integer"),
        ({"strengths": [1, 2, 1]}, "1.0 stands twice"),
        ({"strengths": []}, "strengths"),
        ({"strengths": None}, "strengths are missing"),
        ({"arm": []}, "arm"),
        (
            {"arm": [{}]},
            "arm 1: an arm has one of latents, direction, plan, self_contrastive, adapter; this one has none",
        ),
        ({"arm": [{"latents": [1], "direction": "difference"}]}, "this one has latents and direction"),
        ({"arm": [{"adapter": "x", "self_contrastive": True}]}, "this one has self_contrastive and adapter"),
        (
            {"arm": [{"adapter": "x", "self_contrastive": False, "window": {}}]},
            "adapter says itself what is done: leave w",
        ),
        ({"arm": [{"self_contrastive": True, "site": "1.resid_post"}]}, "self_contrastive says itself what is done"),
        (
            {"arm": [{"self_contrastive": {"saftey": "x"}}]},
            "self_contrastive 1: unknown field 'saftey'. Did you mean saf",
        ),
        ({"arm": [{"self_contrastive": {"placement": "last"}}]}, "placement: Input should be 'system' or 'inline'"),
        ({"arm": [{"self_contrastive": {"safety": ""}}]}, "arm 1, self_contrastive, safety: "),
        ({"arm": [{"adpter": "x"}]}, "arm 1: unknown field 'adpter'. Did you mean adapter?"),
        ({"arm": [{"direction": "difference", "another_name": True}]}, "another_name is of an adapter: leave it out"),
        ({"arm": [{"latents": [1, 2], "weights": [1.0]}], "sae": "x"}, "weights has 1 values for 2 latents"),
        ({"arm": [{"latents": [1]}]}, "names no SAE"),
        ({"arm": [{"latents": [1], "operation": "explode"}]}, "operation"),
        ({"arm": [{"latents": [1], "operation": "ablate", "strengths": [1]}]}, "takes no strengths"),
        ({"arm": [{"plan": "x", "strengths": [1]}]}, "plan says itself what is done: leave strengths out"),
        ({"sae": "x", "arm": [{"latents": [1], "maxima": [0.0]}]}, "above 0, got 0.0 in maxima"),
        ({"sae": "x", "arm": [{"latents": [1], "unit": "residual_norm"}]}, "unit is that of a direction's strengths"),
        ({"arm": [{"direction": "difference", "membership": "replace"}]}, "membership and error are of latents"),
        ({"arm": [{"direction": "difference", "error": "drop"}]}, "membership and error are of latents"),
        ({"controls": ["latent", "latent"]}, "controls: 'latent' stands twice"),
        ({"halving": {"first": 2}}, "halving, first: Input should be less than 1, got 2"),
        ({"seeds": [0, 1]}, "several seeds give the same greedy replies"),
        ({"halving": True, "split": "test"}, "give split = 'dev'"),
        ({"controls": ["placebo"]}, "controls"),
        ({"limit": 0}, "limit"),
    ],
)
def test_what_a_study_cannot_say_is_refused(change, message):
    with pytest.raises(DataError) as refused:
        parse_study({name: value for name, value in {**BARE, **change}.items() if value is not None})
    assert message in str(refused.value)


def test_files_are_found_beside_the_study(folder, tmp_path, monkeypatch):
    (folder / "study.toml").write_text(
        'model = "model"\nsae = "sae"\nstrengths = [1]\ntasks = [{file = "bad.jsonl", better = "higher"}, '
        '"choice.jsonl"]\nharmful = "bad.jsonl"\n[[arm]]\nlatents = [3]\n'
    )
    monkeypatch.chdir(tmp_path)
    study = read_study(folder / "study.toml")
    assert [study.model, study.sae, study.harmful, study.harmless] == [
        *(str(folder / name) for name in ("model", "sae", "bad.jsonl")),
        "safe",
    ]
    assert [(task.name, task.group, len(task.samples)) for task in load_tasks(study)] == [
        ("bad", "refused", 6),
        ("choice", "correct", 3),
    ]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"tasks": ["safer"]}, DataError, "neither a file nor a set"),
        ({"tasks": ["bad.jsonl"]}, DataError, "does not say whether its prompts ought to be refused"),
        ({"tasks": ["mixed.jsonl"]}, DataError, "Split the file"),
        ({"tasks": [{"file": "choice.jsonl", "better": "lower"}]}, DataError, "leave better out"),
        ({"tasks": ["choice.jsonl", "choice.jsonl"]}, DataError, "Two tasks have the name 'choice'"),
        ({"tasks": ["long.jsonl"]}, DataError, "Prompt 'long-0' of the task long"),
        ({"arm": [{"latents": [3]}, {"latents": [3]}]}, DataError, "Two arms have the name 'latent 3'"),
        ({"arm": [{"latents": [96]}]}, PlanError, "0 to 95"),
        ({"site": "9.resid_post"}, SteerError, "9"),
        ({"harmful": "unsafe_sen", "controls": True}, DataError, "'unsafe_sen' is neither a file nor a set"),
        ({"arm": [{"direction": "nowhere.safetensors"}]}, PlanError, "No direction at"),
        ({"arm": [{"direction": "two.safetensors"}]}, PlanError, "must hold one vector"),
        ({"arm": [{"direction": "narrow.safetensors"}]}, PlanError, "7 dimensions, the model 32"),
        ({"arm": [{"direction": "bad.jsonl"}]}, PlanError, "cannot be read as safetensors"),
        ({"sae": None, "arm": [{"direction": "difference"}]}, PlanError, "says where to act"),
        ({"arm": [{"latents": [3], "window": {"start": 4, "stop": 2}}]}, PlanError, "holds no token"),
        (
            {"arm": [{"latents": [3], "operation": "scale"}], "controls": ["direction"]},
            DataError,
            "The control 'direction' cannot be",
        ),
        ({"arm": [{"direction": "difference"}], "controls": ["latent"]}, DataError, "The control 'latent' cannot be"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_generated(folder, monkeypatch, change, error, message):
    write_lines(folder / "mixed.jsonl", samples("a", ["x"]) + samples("b", ["y"], "number", value=3))
    write_lines(folder / "long.jsonl", samples("long", ["x" * 130], "number", value=3))
    save_file({"a": torch.ones(32), "b": torch.ones(32)}, folder / "two.safetensors")
    save_file({"a": torch.ones(7)}, folder / "narrow.safetensors")
    monkeypatch.chdir(folder)
    counted = Counted(monkeypatch)
    with pytest.raises(error, match=message):
        prepare(study_of(folder, **change), Silent(), load_for)
    assert counted.rows == 0


def arms_of(folder, **fields):
    notes = []
    progress = Silent()
    progress.note = notes.append
    return dict(prepare(study_of(folder, **fields), progress, load_for).arms), notes


def test_controls_move_the_activations_as_far(folder, tmp_path):
    sae = saes.load(folder / "sae")
    with torch.no_grad():
        sae.W_dec *= torch.linspace(0.5, 3.0, len(sae.W_dec)).unsqueeze(-1)  # norms that differ
    saes.save(sae, tmp_path / "sae")
    arms, notes = arms_of(
        folder, sae=str(tmp_path / "sae"), arm=[{"latents": [3, 40]}], controls=True, system_prompt="Be kind."
    )
    assert not any("left out" in note for note in notes)
    assert list(arms) == [
        "unsteered", "latents 3+40", "unrelated to latents 3+40", "dense direction", "system prompt",
    ]  # fmt: skip
    own, control, direction = (arms[name].doing for name in list(arms)[1:4])
    assert not {*own.latents} & {*control.latents}
    assert len({*control.latents}) == 2
    norms = sae.W_dec.norm(dim=-1)
    for latent, other, weight in zip(own.latents, control.latents, control.weights, strict=True):
        assert weight * norms[other].item() == pytest.approx(norms[latent].item(), rel=1e-5)
        cosines = (sae.W_dec @ sae.W_dec[latent] / norms / norms[latent]).abs()
        assert cosines[other] <= cosines.quantile(0.6)  # of those that fire, the half with the least
    assert direction.weight == pytest.approx(sae.W_dec[[3, 40]].sum(0).norm().item(), rel=1e-5)
    assert arms["dense direction"].strengths == arms["latents 3+40"].strengths == (4.0, 14.0)
    conversation = [{"role": "user", "content": "hi"}]
    assert arms["system prompt"].conversation(conversation)[0] == {"role": "system", "content": "Be kind."}
    own_system = [{"role": "system", "content": "Rhyme."}, *conversation]
    assert [one["content"] for one in arms["system prompt"].conversation(own_system)] == ["Be kind.\n\nRhyme.", "hi"]


def test_controls_can_be_chosen_and_are_the_same_whatever_the_tasks(folder):
    assert list(arms_of(folder, controls=False)[0]) == ["unsteered", "latent 3"]
    chosen, _ = arms_of(folder, controls=["latent"])
    assert list(chosen) == ["unsteered", "latent 3", "unrelated to latent 3"]
    fewer, _ = arms_of(folder, controls=["latent"], tasks=[str(folder / "choice.jsonl")])
    assert fewer["unrelated to latent 3"].doing == chosen["unrelated to latent 3"].doing
    assert CONTROLS == ("latent", "direction", "system")


def test_a_control_that_cannot_be_is_left_out_and_told_of(folder, tmp_path):
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    lm = tiny_model("llama", template=refusing + "{{ messages[0].content }}")
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    arms, notes = arms_of(folder, model=str(tmp_path), controls=True)
    assert "system prompt" not in arms
    assert any("'system' is left out" in note and "no system" in note for note in notes)
    with pytest.raises(DataError, match="The control 'system' cannot be"):
        arms_of(folder, model=str(tmp_path), controls=["system"])


def test_a_direction_of_a_file_is_an_arm(folder, tmp_path):
    vector = torch.arange(1.0, 33.0)
    save_file({"direction": vector}, tmp_path / "v.safetensors")
    given = {"direction": str(tmp_path / "v.safetensors"), "unit": "residual_norm", "operation": "project_set"}
    arms, _ = arms_of(folder, arm=[given], site="1.attn_out", sae=None)
    edit = arms["direction project_set"].at(0.5, None)[0]
    assert (str(edit.site), edit.unit, edit.operation, edit.strength) == (
        "1.attn_out",
        "residual_norm",
        "project_set",
        0.5,
    )
    assert edit.direction.equal(vector)


THREE = 'model = "model"\ntasks = ["safe"]\nstrengths = [1]\nlimit = 3\nmax_new_tokens = 4\n[[arm]]\n'


@pytest.mark.parametrize("name", ["[/x]", "[bold]b", r"$\foo$", "a_$b"])
def test_a_name_may_hold_what_looks_like_markup_or_a_formula(folder, tmp_path, capsys, name):
    path = toml(folder)
    text = (folder / "small.toml").read_text().replace("latents = [3]", f"latents = [3]\nname = {json.dumps(name)}")
    (folder / "small.toml").write_text(text.replace('"bad.jsonl"', f'"bad.jsonl", name = {json.dumps("t" + name)}'))
    assert run(["sweep", path, "--out", str(tmp_path / "out"), "--jobs", "1"]) == 0
    shown = capsys.readouterr().out
    assert name in shown
    assert f"t{name}" in shown
    assert (tmp_path / "out" / "frontier.png").is_file()


def test_a_terminal_that_has_no_stars_is_shown_something_else(folder, tmp_path, monkeypatch):
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", shown)
    assert run(["sweep", toml(folder), "--out", str(tmp_path / "out"), "--jobs", "1"]) == 0
    shown.flush()
    assert b"? refused" in shown.buffer.getvalue()


def toml(folder, **change):
    """The study as a file."""
    path = folder / "small.toml"
    more = "".join(f"{name} = {json.dumps(value)}\n" for name, value in change.items())
    path.write_text(
        f'model = "model"\nsae = "sae"\nstrengths = [4, 14]\nmax_new_tokens = 6\ncontrols = false\n{more}'
        'tasks = [{file = "bad.jsonl", better = "higher"}, {file = "good.jsonl", better = "lower"}]\n'
        "[[arm]]\nlatents = [3]\n"
    )
    return str(path)


def test_the_command_measures_shows_and_goes_on(folder, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert run(["sweep", toml(folder), "--out", out, "--jobs", "1", "--dry-run"]) == 0
    assert capsys.readouterr().out == "6 cells, of which 0 are finished; 30 replies to make\n"
    assert not (tmp_path / "out").exists()
    assert run(["sweep", toml(folder), "--out", out, "--jobs", "1"]) == 0
    shown = capsys.readouterr()
    assert all(word in shown.out for word in ("unsteered", "latent 3", "↑ refused", "↓ refused", "Cells: 6 measured"))
    assert "measure 6 cells" in shown.err
    assert run(["sweep", toml(folder), "--out", out, "--jobs", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cells"] == {"computed": 0, "found": 6}
    assert found == json.loads((tmp_path / "out" / "summary.json").read_text())


def test_the_table_on_a_terminal_fills_while_cells_are_measured(folder):
    from rich.console import Console

    from steer.cli.sweep_shown import LiveTable
    from steer.sweeps.cells import Figures

    bench = prepare(study_of(folder), Silent(), load_for)
    live, shown = LiveTable(), io.StringIO()
    live.console = Console(file=shown, force_terminal=True, width=100, height=30)
    live.begin(bench)
    first, second = bench.cells({"latent 3": (4.0, 14.0)})[:2]
    with live.stage("measure 2 cells", 12):
        live.advance(6)
        live.cell(first, Figures((True, False) * 3, 0))
        live.cell(second, Figures((True, *[False] * 5), 0))
        live.advance(6)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue())
    assert re.search(r"latent 3 +4 +50 +· +·", text)
    assert re.search(r"latent 3 +14 +17 +· +·", text)
    assert "12/12" in text
    assert "✓ measure 2 cells" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.toml"], "No study at nowhere.toml"),
        (["bad.toml"], "cannot be read as TOML"),
        (["small.toml", "--engine", "slurm"], "--engine is one of local, ray"),
        (["small.toml", "--address", "auto"], "give it with --engine ray"),
        (["small.toml", "--out", "model"], "holds no sweep"),
        (["typo.toml"], "Did you mean max_new_tokens?"),
        (["x" * 300], "No study at xxx"),
        (["long_sae.toml"], "File name too long"),
        (["long_task.toml"], "is neither a file nor a set"),
        (["long_direction.toml"], "give 'difference' or a safetensors file"),
    ],
)
def test_mistakes_at_the_command_line_end_in_one_message(folder, capsys, monkeypatch, arguments, message):
    toml(folder)
    (folder / "bad.toml").write_text("strengths = [")
    (folder / "typo.toml").write_text("max_new_token = 3")
    long = "x" * 300
    (folder / "long_sae.toml").write_text(f'sae = "{long}"\n{THREE}latents = [3]\n')
    (folder / "long_task.toml").write_text(f'tasks = ["{long}"]\nstrengths = [1]\n[[arm]]\ndirection = "difference"\n')
    (folder / "long_direction.toml").write_text(f'site = "0.resid_post"\n{THREE}direction = "{long}"\n')
    monkeypatch.chdir(folder)
    assert run(["sweep", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in " ".join(shown.err.replace("│", " ").split())
    assert "Traceback" not in shown.err
    assert not (folder / "sweep").exists()


def test_the_model_is_as_it_was_after_an_error(folder, tmp_path, monkeypatch):
    """An arm that breaks the logits: what is finished is kept, and nothing stays attached."""
    from steer.sweeps import sweep as module
    from steer.sweeps.engines import Local

    lm = load_model(folder / "model", dtype="float16")  # whose largest number is 65,504
    before = lm.generate(["hello"])
    monkeypatch.setattr(module, "load_for", lambda *_: lm)
    study = study_of(
        folder,
        arm=[{"latents": [3], "strengths": [4.0, 5.0, 6.0]}, {"latents": [*range(10, 40)], "strengths": [2.0, 1e10]}],
    )
    words = r"latents 10\+.* at 2 and 1e\+10 on bad: .* for prompt [0-5] .*NaN or infinite"
    with pytest.raises(SteerError, match=words):
        module.run_sweep(study, tmp_path / "out", Local(1))
    assert lm.attachments == []
    assert lm.generate(["hello"]) == before
    assert list((tmp_path / "out" / "cells").iterdir())
