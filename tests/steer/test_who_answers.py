"""Who answers, as ``steer eval`` and ``steer generate`` are told: the options together make what Python would."""

import pytest
import torch
import typer

import saes
from steer.cli.app import run
from steer.cli.who_answers import WhoAnswers
from steer.models.decode import Sampling
from steer.models.load import load_model
from steer.models.site import Site
from steer.plans.files import write_plan
from steer.plans.plan import SteeringPlan
from steer.responders.prompted import SystemPrompt, Unsteered
from steer.responders.self_contrastive import SelfContrastive
from steer.responders.steered import Steered
from steer.responders.tuned import Tuned
from steer.steering.direction_edits import DirectionEdit
from steer.steering.latents import Clamp
from tests.conftest import D_MODEL, PROMPTS, random_sae, tiny_model
from tests.steer.sweep_data import make_adapter

VECTOR = torch.linspace(-1, 1, D_MODEL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model, an SAE, an adapter and a plan."""
    found, lm = tmp_path_factory.mktemp("who"), tiny_model("llama")
    lm.model.config.max_position_embeddings = 512  # the text of self-contrastive decoding is long in bytes
    lm.model.save_pretrained(found / "model")
    lm.tokenizer.save_pretrained(found / "model")
    saes.save(random_sae(), found / "sae")
    make_adapter(found)
    edit = {"kind": "direction", "site": "1.resid_post", "direction": "push", "strength": 9.0}
    write_plan(SteeringPlan(vectors={"push": VECTOR}, system="Be brief.", edits=[edit]), found / "plan.toml")
    return found


@pytest.fixture(scope="module")
def lm(folder):
    return load_model(folder / "model")


OPTIONS = {
    "unsteered": {},
    "system prompt": {"system": "Be kind."},
    "self-contrastive 1.5": {"self_contrastive": 1.5},
    "adapter {folder}/run": {"adapter": "{folder}/run"},
    "plan {folder}/plan.toml": {"plan": "{folder}/plan.toml"},
    "sae 3=19 7=2.5": {"sae": "{folder}/sae", "clamp": ["3=19", "7=2.5"], "layer": 2},
    "system prompt, adapter {folder}/run, sae 3=19": {
        "system": "Be kind.",
        "adapter": "{folder}/run",
        "sae": "{folder}/sae",
        "clamp": ["3=19"],
    },
}


def by_hand(name, lm, folder):
    """The same responders, made in Python."""
    sae = saes.load(folder / "sae")
    kind = SystemPrompt(lm, "Be kind.")
    return {
        "unsteered": lambda: Unsteered(lm),
        "system prompt": lambda: kind,
        "self-contrastive 1.5": lambda: SelfContrastive(lm, 1.5),
        "adapter {folder}/run": lambda: Tuned(lm, folder / "run"),
        "plan {folder}/plan.toml": lambda: Steered(
            lm, [DirectionEdit("1.resid_post", VECTOR, 9.0)], system="Be brief."
        ),
        "sae 3=19 7=2.5": lambda: Steered(lm, [Clamp(sae, {3: 19.0, 7: 2.5}, Site(2))]),
        "system prompt, adapter {folder}/run, sae 3=19": lambda: Steered(
            Tuned(kind, folder / "run"), [Clamp(sae, {3: 19.0})]
        ),
    }[name]()


@pytest.mark.parametrize("name", OPTIONS)
def test_options_make_what_python_makes(folder, lm, name):
    def filled(value):
        return value.format(folder=folder) if isinstance(value, str) else value

    who = WhoAnswers(**{option: filled(value) for option, value in OPTIONS[name].items()})
    found, expected = who.responder(lm, who.opened_plan(), 2), by_hand(name, lm, folder)
    sampling = Sampling(6)
    assert found.name == filled(name)
    assert found.reply(PROMPTS, sampling) == expected.reply(PROMPTS, sampling)
    assert found.settings() == expected.settings()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"sae": "x"}, "--sae and --clamp belong together"),
        ({"clamp": ["3=4"]}, "--sae and --clamp belong together"),
        ({"layer": 1}, "--layer says where the SAE acts"),
        ({"sae": "x", "clamp": ["3=4", "03=5"]}, "a latent is clamped twice"),
        ({"sae": "x", "clamp": ["three=4"]}, "expected LATENT=VALUE"),
        ({"sae": "x", "clamp": ["3=4"], "plan": "y"}, "--plan says what is done"),
        ({"system": "x", "self_contrastive": 1.0}, "both put a text before the prompt"),
    ],
)
def test_options_that_do_not_go_together_are_refused(given, words):
    with pytest.raises(typer.BadParameter, match=words):
        WhoAnswers(**given)


def test_a_plan_that_is_not_there_is_told_before_the_model_is_loaded(tmp_path, capsys):
    asked = ["eval", str(tmp_path / "no model"), "--task", "safe", "--out", str(tmp_path / "out")]
    assert run([*asked, "--plan", str(tmp_path / "gone.toml")]) == 2
    assert "gone.toml cannot be read" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
