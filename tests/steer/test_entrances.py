"""Values of a wrong kind are refused where they come in."""

import inspect
import json

import pytest

import saes
from steer.errors import DataError, ModelError
from steer.evals.runner import evaluate
from steer.evals.sample import read_samples
from steer.models.load import load_model
from steer.models.model import LanguageModel
from steer.models.site import Site
from tests.conftest import random_sae, tiny_model


def bare(function):
    """A function without the run-time type checks of the tests."""
    return inspect.unwrap(function)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda lm: bare(LanguageModel.generate_ids)(lm, [[5]], {"max_new_tokens": 3}), "must be a Sampling, got dict"),
        (lambda lm: bare(LanguageModel.encode)(lm, "abc"), "Texts must be a list"),
        (lambda lm: lm.pad([[5, 10_000]]), "got 5 to 10000"),
        (lambda lm: lm.pad([[-1]]), "got -1 to -1"),
        (lambda lm: lm.choice_logprobs([[5], [6]], [[[7], [8]]]), "2 prompts and 1 lists"),
        (lambda lm: bare(evaluate)(lm, ["hello"]), "Samples are evaluated, got str"),
        (lambda lm: read_samples("nowhere.jsonl"), "No prompts at nowhere.jsonl"),
    ],
)
def test_wrong_kinds(llama, call, words):
    with pytest.raises(DataError, match=words):
        call(llama)


def test_activations_are_read_at_named_sites(llama):
    assert list(llama.activations(llama.pad([[5, 6]]), ["blocks.1.hook_resid_post"])) == [Site(1)]


def test_an_sae_is_saved_and_a_folder_is_loaded(tmp_path):
    with pytest.raises(saes.FormatError, match="must be a path, as text or a Path, got None"):
        bare(saes.load)(None)
    with pytest.raises(saes.FormatError, match="got None"):
        bare(saes.save)(random_sae(), None)
    with pytest.raises(saes.ConfigError, match="An SAE is saved, got NoneType"):
        bare(saes.save)(None, tmp_path)


def test_weights_of_more_layers_than_the_config_has(tmp_path):
    lm = tiny_model("llama")
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "num_hidden_layers": 2, "layer_types": None}))
    with pytest.raises(ModelError, match="they have a layer 2, but the config has 2 layers"):
        load_model(tmp_path)
