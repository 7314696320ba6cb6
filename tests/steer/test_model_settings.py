"""Settings of a model folder that cannot work are refused with a reason, not a traceback."""

import inspect
import json

import pytest

from steer.errors import DataError, ModelError
from steer.evals.sets import load_prompts
from steer.models.load import load_model
from tests.conftest import tiny_model


@pytest.fixture
def folder(tmp_path):
    lm = tiny_model("llama")
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("value", ["x", [2, "x"], 1.5, [[2]], {"a": 1}])
def test_ends_of_a_reply_that_are_no_tokens(value):
    lm = tiny_model("llama")
    lm.model.generation_config.eos_token_id = value
    with pytest.raises(ModelError, match=r"eos_token_id in generation_config\.json must be a whole number"):
        type(lm)(lm.model, lm.tokenizer, "tiny")


def test_a_tokenizer_that_cannot_encode(folder):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": "x"}))
    with pytest.raises(ModelError, match=r"cannot be loaded \(tokenizer: "):
        load_model(folder)


def test_a_template_that_divides_by_zero():
    lm = tiny_model("llama", "{{ 1 / 0 }}")
    with pytest.raises(DataError, match="refuses a conversation of user: ZeroDivisionError"):
        lm.prompt_ids(["hello"])


def test_a_list_of_sets_is_no_set():
    with pytest.raises(DataError, match="Unknown set"):
        inspect.unwrap(load_prompts)(["safe"])
