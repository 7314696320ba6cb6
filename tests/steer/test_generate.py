"""Generation in batches: replies do not depend on them, and every row finds its own values."""

import pytest
import torch

from steer.errors import DataError, PlanError
from steer.models.decode import Sampling
from steer.models.model import LanguageModel
from steer.models.site import Site
from steer.steering.latents import Clamp
from steer.steering.steered import steered
from tests.conftest import PROMPTS

SAMPLING = Sampling(max_new_tokens=8)


@pytest.fixture
def batches(monkeypatch):
    """Sizes of the batches that are generated."""
    sizes: list[int] = []
    generate_ids = LanguageModel.generate_ids

    def counted(self, prompts, sampling=None):
        sizes.append(len(prompts))
        return generate_ids(self, prompts, sampling)

    monkeypatch.setattr(LanguageModel, "generate_ids", counted)
    return sizes


@pytest.mark.parametrize("sampling", [SAMPLING, Sampling(8, temperature=1.0, seed=4)], ids=["greedy", "sampled"])
def test_replies_do_not_depend_on_the_batches(lm, batches, sampling):
    whole = lm.generate(PROMPTS, sampling)
    assert [lm.generate(PROMPTS, sampling, batch_size=size) for size in (1, 3)] == [whole, whole]
    assert batches == [4, 1, 1, 1, 1, 3, 1]


def test_many_prompts_do_not_make_one_batch(llama, batches):
    replies = llama.generate([str(i) for i in range(600)], Sampling(max_new_tokens=1))
    assert len(replies) == 600
    assert max(batches) == 256


def test_values_per_row_find_their_rows_in_batches(llama, sae):
    values = [0.0, 4.0, 9.0, 15.0]
    with steered(llama, Clamp(sae, {3: torch.tensor(values)})):
        whole = llama.generate(PROMPTS, SAMPLING)
        assert llama.generate(PROMPTS, SAMPLING, batch_size=2) == whole
        with llama.running([3, 1], 4):  # a caller's own batch of these prompts, split once more
            assert llama.generate([PROMPTS[3], PROMPTS[1]], SAMPLING, batch_size=1) == [whole[3], whole[1]]
        with pytest.raises(PlanError, match="values for 4 rows, but 3 rows are run"):
            llama.generate(PROMPTS[:3], SAMPLING, batch_size=2)
    for prompt, value, reply in zip(PROMPTS, values, whole, strict=True):
        with steered(llama, Clamp(sae, {3: value})):
            assert llama.generate([prompt], SAMPLING) == [reply]


def test_a_prompt_that_is_too_long_is_refused_before_anything_is_generated(llama):
    with llama.edited({Site(1): lambda x, at: x}) as attachment, pytest.raises(DataError, match="context is 128"):
        llama.generate(["x", "y" * 200], SAMPLING, batch_size=1)
    assert attachment.passes == 0


@pytest.mark.parametrize("size", [0, -1])
def test_sizes_that_are_none_are_refused(llama, size):
    with pytest.raises(DataError, match="batch_size must be a whole number"):
        llama.generate(["x"], SAMPLING, size)


def test_no_prompts_give_no_replies(llama):
    assert llama.generate([]) == []


@pytest.mark.parametrize("rows", [[4], [-1], [0, 9]])
def test_rows_outside_the_call_are_refused(llama, rows):
    with pytest.raises(DataError, match=rf"Row {rows[-1]} is out of range: a call of 4 rows has 0 to 3"):
        with llama.running(rows, 4):
            pass


def test_a_batch_of_another_size_than_was_said_is_refused(llama):
    prompts = llama.prompt_ids(["a", "b", "c"])
    options = [llama.encode(["yes", "perhaps"])] * 3
    message = r"A batch of 3 rows is run where running\(\) names 2 rows"
    for run in (
        lambda: llama.generate_ids(prompts, SAMPLING),
        lambda: llama.generate(["a", "b", "c"], SAMPLING),
        lambda: llama.forward(llama.pad(prompts)),
        lambda: llama.choice_logprobs(prompts, options),
    ):
        with llama.running([0, 1], 4), pytest.raises(DataError, match=message):
            run()
