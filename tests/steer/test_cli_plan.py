"""``steer plan`` and ``steer generate --plan``: what is printed, and how mistakes end."""

import json

import pytest
import torch
from safetensors.torch import save_file

import saes
from steer.cli.app import run
from steer.models.decode import Sampling
from steer.plans.files import read_plan, write_plan
from steer.plans.plan import SteeringPlan
from steer.plans.sources import ModelSpec, SaeSpec
from steer.plans.vectors import import_vectors
from steer.steering.steered import steered
from tests.conftest import D_MODEL, PROMPTS, random_sae, tiny_model
from tests.steer.fake_hub import serving
from tests.steer.plan_data import full_plan, vectors

ADD = {"kind": "direction", "site": "1.resid_post", "direction": "push", "strength": 30.0}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A tiny model, an SAE and a plan in a folder."""
    folder = tmp_path_factory.mktemp("saved")
    lm, sae = tiny_model("llama"), random_sae()
    lm.model.save_pretrained(folder / "model")
    lm.tokenizer.save_pretrained(folder / "model")
    saes.save(sae, folder / "sae")
    lm.name = str(folder / "model")
    clamp = {"kind": "latents", "sae": "one", "values": {"3": 19.0}, "window": {"roles": ["user", "assistant"]}}
    plan = SteeringPlan(
        label="refuses",
        model=ModelSpec.of(lm),
        saes={"one": SaeSpec.of(sae, "sae")},
        vectors=vectors(),
        system="Be brief.",
        sampling={"max_new_tokens": 5},
        edits=[clamp, ADD],
    )
    write_plan(plan, folder / "plan.toml")
    return folder, lm, plan


def test_show_tells_what_a_plan_does(saved, capsys):
    folder, _, plan = saved
    assert run(["plan", "show", str(folder / "plan.toml")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("refuses", plan.digest[:20], "Be brief.", "max_new_tokens 5", "set latent 3 = 19", "strength 30",
                  "window: roles [assistant, user]", "SAE one source sae", "vector push width 32"):  # fmt: skip
        assert words in shown
    assert run(["plan", "show", "--json", str(folder / "plan.toml")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["digest"] == plan.digest
    assert {name: told[name] for name in plan.data()} == plan.data()
    assert told["vectors"]["push"]["width"] == 32


def test_show_takes_every_kind_of_edit_and_gate(llama, tmp_path, capsys):
    write_plan(full_plan(llama, tmp_path), tmp_path / "plan.json")
    assert run(["plan", "show", str(tmp_path / "plan.json")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "gate: kind any_of, gates [(kind all_of, gates [(threshold 0, pool share, kind latents" in shown


def test_validate_says_whether_a_plan_can_be_run(saved, capsys, tmp_path):
    folder, lm, plan = saved
    assert run(["plan", "validate", str(folder / "plan.toml")]) == 0
    assert f"2 edits, digest {plan.digest[:16]}, valid\n" in capsys.readouterr().out
    assert run(["plan", "validate", str(folder / "plan.toml"), "--model", lm.name]) == 0
    assert capsys.readouterr().out.strip().endswith(f"valid, fits {lm.name}")
    wrong = write_plan(plan.model_copy(update={"model": ModelSpec(n_layers=9)}), tmp_path / "wrong.json")
    assert run(["plan", "validate", str(wrong)]) == 0
    capsys.readouterr()
    assert run(["plan", "validate", str(wrong), "--model", lm.name]) == 2
    error = capsys.readouterr().err
    assert error.startswith("steer: The plan is for another model: n_layers")
    wrong.write_text(wrong.read_text().replace("19.0", "NaN"))
    assert run(["plan", "validate", str(wrong)]) == 2
    error = capsys.readouterr().err
    assert "edits.0.latents: values.3: Input should be a finite number" in error
    assert "Traceback" not in error


def test_generate_runs_a_plan_and_options_count_for_more(saved, capsys):
    folder, lm, plan = saved
    bound = plan.model_copy(update={"folder": folder}).bind(lm)

    def expected(sampling):
        with steered(lm, *bound.interventions):
            replies = lm.generate(bound.conversations(PROMPTS), sampling)
        return list(zip(lm.generate(PROMPTS, sampling), replies, strict=True))

    for options, sampling in (([], Sampling(5)), (["--max-new-tokens", "3"], Sampling(3))):
        assert run(["generate", "--json", "--plan", str(folder / "plan.toml"), *options, *PROMPTS]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert [(row["unsteered"], row["steered"]) for row in rows] == expected(sampling)
        assert any(row["unsteered"] != row["steered"] for row in rows)


def test_a_plan_and_a_clamp_do_not_go_together(saved, capsys):
    folder, _, _ = saved
    plan, sae = str(folder / "plan.toml"), str(folder / "sae")
    assert run(["generate", "--plan", plan, "--sae", sae, "--clamp", "3=4", "x"]) == 2
    assert "leave --sae and --clamp out" in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_generate_refuses_a_plan_for_another_model(saved, capsys):
    folder, _, _ = saved
    assert run(["generate", "--plan", str(folder / "plan.toml"), "--model", "embedded", "x"]) == 2
    assert "The plan is for another model: d_model" in capsys.readouterr().err


def test_vectors_go_out_and_come_in(saved, tmp_path, capsys):
    plan = write_plan(
        SteeringPlan(vectors=vectors(), edits=[{**ADD, "window": {"first_token": True}}]), tmp_path / "p.json"
    )
    for name in ("x.gguf", "y.safetensors"):
        assert run(["plan", "export", str(plan), "--to", str(tmp_path / name)]) == 0
        assert "layers (and norms) 1 (30)" in capsys.readouterr().out
        out = tmp_path / f"{name}.toml"
        assert run(["plan", "import", str(tmp_path / name), "--out", str(out), "--model", "m", "--strength", "2"]) == 0
        read = read_plan(out)
        assert read.model.name == "m"
        assert read.edits[0].strength == pytest.approx(60)
    assert run(["plan", "import", str(tmp_path / "x.gguf")]) == 0
    assert len(read_plan(tmp_path / "x.json").edits) == 1
    capsys.readouterr()
    for again in (["import", str(tmp_path / "x.gguf")], ["export", str(plan), "--to", str(tmp_path / "x.gguf")]):
        assert run(["plan", *again]) == 2
        assert "is there already" in " ".join(capsys.readouterr().err.replace("│", " ").split())
        assert run(["plan", *again, "--overwrite"]) == 0


def test_a_clamp_is_not_exported(saved, tmp_path, capsys):
    folder, _, _ = saved
    assert run(["plan", "export", str(folder / "plan.toml"), "--to", str(tmp_path / "x.safetensors")]) == 2
    assert "what setting a latent (a clamp) adds differs from token to token" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_plan_is_pushed_and_run_from_the_hub(saved, tmp_path, capsys, monkeypatch):
    _, lm, _ = saved
    plan = SteeringPlan(label="pushes", licence="mit", model=ModelSpec.of(lm), vectors=vectors(), edits=[ADD])
    path = str(write_plan(plan, tmp_path / "plan.toml"))
    names = sorted(f"plans/{one.name}" for one in tmp_path.iterdir())
    with serving(monkeypatch, tmp_path / "cache") as hub:
        assert run(["plan", "push", path, "me/x/plans", "--dry-run"]) == 0
        assert "would be sent to hub:me/x/plans: plans/plan.toml, plans/plan." in capsys.readouterr().out
        assert not hub.requests
        assert run(["plan", "push", path, "me/x/plans"]) == 0
        [commit] = hub.commits
        assert commit["files"] == sorted([*names, "plans/README.md"])
        assert commit["summary"] == "Add the steering plan plan.toml"
        card = hub.repos["me/x"]["plans/README.md"].decode()
        assert "license: mit" in card
        assert "steer generate --plan hub:me/x/plans/plan.toml" in card
        capsys.readouterr()
        assert run(["plan", "show", "--json", "hub:me/x/plans/plan.toml"]) == 0
        assert json.loads(capsys.readouterr().out)["digest"] == plan.digest
        assert run(["generate", "--plan", "hub:me/x/plans/plan.toml", "--json", "--max-new-tokens", "3", "x"]) == 0
        with steered(lm, *plan.bind(lm).interventions):
            [expected] = lm.generate(["x"], Sampling(3))
        assert json.loads(capsys.readouterr().out)[0]["steered"] == expected
        for source, words in (
            ("hub:me/x/plans/other.toml", "plans/other.toml of me/x is not to be had"),
            ("hub:me/x/plans", "names no plan: expected hub:owner/name/plan.toml"),
        ):
            assert run(["plan", "show", source]) == 2
            assert words in capsys.readouterr().err


def test_a_plan_whose_sae_others_do_not_have_is_not_pushed(saved, capsys):
    folder, _, _ = saved
    assert run(["plan", "push", str(folder / "plan.toml"), "me/x"]) == 2
    assert "The SAE 'one' is at the path sae, which those who get the plan do not have" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", ""], "an empty text names nothing"),
        (["validate", "x.json", "--model", ""], "an empty text after --model names nothing"),
        (["import", "."], "Plain vectors are in a file that ends in"),
        (["import", "/"], "Plain vectors are in a file that ends in"),
        (["import", "{vectors}", "--out", "{long}.json"], "File name too long"),
        (["import", "{vectors}", "--label", "\udcff", "--out", "x.json"], "label: is not valid Unicode"),
        (["export", "{plan}", "--to", "{long}.safetensors"], "File name too long"),
    ],
)
def test_mistakes_end_in_one_message_and_leave_nothing_behind(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    save_file({"direction.1": torch.ones(D_MODEL)}, tmp_path / "v.safetensors")
    write_plan(import_vectors("v.safetensors", lambda _: None), "v.json")
    before = sorted(tmp_path.iterdir())
    named = {"vectors": "v.safetensors", "plan": "v.json", "long": "x" * 300}
    assert run(["plan", *(one.format(**named) for one in arguments)]) == 2
    assert words in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert sorted(tmp_path.iterdir()) == before
