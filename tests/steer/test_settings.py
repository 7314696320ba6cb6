"""Settings that are given in Python: what cannot be ends in an error of ours, with the field and what it got."""

import copy
import pickle

import pytest
from pydantic import ValidationError

import steer
from steer import DataError, DemoConfig, SteerError, StudyConfig, TrainingConfig
from steer.settings import checked_error
from steer.studies.config import quick_config

ARM = {"direction": "difference"}
RUN = {"out": "a", "total_tokens": 3}


@pytest.mark.parametrize(
    ("make", "fields", "words"),
    [
        (TrainingConfig, {}, "TrainingConfig: the field total_tokens is missing, and has no default. Give it."),
        (TrainingConfig, {**RUN, "total_tokens": "3"}, "total_tokens: Input should be a valid integer, got '3'"),
        (TrainingConfig, {**RUN, "lr": float("nan")}, "lr: Input should be a finite number, got nan"),
        (TrainingConfig, {**RUN, "batch_token": 2}, "unknown field 'batch_token'. Did you mean batch_tokens?"),
        (TrainingConfig, {**RUN, "out": ""}, "out: Input should be a name, got ''. Give another value."),
        (TrainingConfig, {**RUN, "d_sae": ["x"]}, "d_sae.0: Input should be a valid integer, got 'x'"),
        (TrainingConfig, {**RUN, "activation": "tanh"}, "activation: Input should be 'topk', "),
        (DemoConfig, {"d_sae": 0}, "DemoConfig: d_sae: Input should be greater than 0, got 0. Give another value."),
        (DemoConfig, {"strengths": ()}, "strengths: at least one strength is needed, got ()"),
        (DemoConfig, {"zzz": 1}, "unknown field 'zzz'. It has model, device"),
        (quick_config, {"strengths": (1.0, 1.0)}, "strengths: a strength stands twice in 1, 1"),
        (StudyConfig, {"arm": [ARM], "tasks": []}, "StudyConfig: tasks: Tuple should have at least 1 item"),
        (StudyConfig, {"arm": [ARM], "tasks": ["safe"]}, "StudyConfig: strengths are missing"),
        (StudyConfig, {"arm": [{**ARM, "unit": 3}], "tasks": ["safe"]}, "arm.0.unit: Input should be "),
        (StudyConfig, {"arms": [ARM]}, "the field arm is missing"),
    ],
)  # fmt: skip
def test_bad_values_are_named_with_what_was_got(make, fields, words):
    with pytest.raises(DataError) as found:
        make(**fields)
    assert words in str(found.value)
    assert isinstance(found.value, SteerError)
    assert isinstance(checked_error(found.value), ValidationError)  # with all that is wrong


def test_an_error_of_somebody_else_is_left_as_it_is():
    with pytest.raises(DataError, match="the text ends here"):
        checked_error(DataError("the text ends here"))


def test_good_settings_are_compared_copied_and_kept_as_ever():
    asked = steer.TrainingConfig(total_tokens=4096, out="runs/a", d_sae=512, seed=(0, 1))
    assert asked.d_sae == (512,)
    assert asked.model_fields_set == {"total_tokens", "out", "d_sae", "seed"}
    assert copy.deepcopy(asked) == pickle.loads(pickle.dumps(asked)) == asked
    assert TrainingConfig(**asked.model_dump()) == asked
    with pytest.raises(ValidationError, match="frozen"):
        asked.out = "runs/b"
