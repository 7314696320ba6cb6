"""What is added to the residual stream is read where the layer is known, and refused where it is not."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CohereConfig,
    Glm4Config,
    GPTNeoXConfig,
    GraniteConfig,
    Olmo2Config,
    OPTConfig,
)

from steer.errors import SiteError
from steer.models.model import LanguageModel
from steer.models.site import PARTS, Site
from tests.conftest import D_MODEL, FAMILIES, PROMPTS, SMALL, byte_tokenizer, tiny_model

SIZE = {**SMALL, "num_hidden_layers": 2, "vocab_size": len(byte_tokenizer())}
KNOWN = {"olmo2": Olmo2Config, "cohere": CohereConfig, "gpt_neox": GPTNeoXConfig}
UNKNOWN = {
    "another norm after the sublayer": Glm4Config,
    "a factor on what is added": GraniteConfig,
    "the stream inside the sublayers": BloomConfig,
    "an MLP without a module": OPTConfig,
}


def from_config(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)  # norms too, so that what is added differs before and after them
    return LanguageModel(model.eval().requires_grad_(False), byte_tokenizer(), config.model_type)


@pytest.mark.parametrize("family", [*FAMILIES, *KNOWN])
def test_what_sublayers_add_sums_to_the_residual_stream(family):
    lm = tiny_model(family) if family in FAMILIES else from_config(KNOWN[family](**SIZE))
    sites = [Site(1, part) for part in PARTS]
    found = lm.activations(lm.pad(lm.prompt_ids(PROMPTS[:1])), sites)
    before, after, attention, mlp = (found[site] for site in sites)
    assert attention.norm() > 0
    assert mlp.norm() > 0
    torch.testing.assert_close(before + attention + mlp, after)


@pytest.mark.parametrize("what", UNKNOWN)
@pytest.mark.parametrize("part", ["attn_out", "mlp_out"])
def test_a_layer_that_is_not_known_is_refused(what, part):
    size = {**SIZE, "n_layer": 2, "n_head": 4} if UNKNOWN[what] is BloomConfig else {**SIZE, "head_dim": 8}
    lm = from_config(UNKNOWN[what](**size))
    with pytest.raises(SiteError, match=rf"as {part} is not known for layer 1, .* Use resid_pre or resid_post"):
        lm.layout.module(Site(1, part))
    assert lm.layout.module(Site(1)) is lm.layout.blocks[1]
    assert lm.d_model == D_MODEL


def test_a_layer_with_a_weight_of_its_own_is_refused():
    lm = tiny_model("llama")
    lm.layout.blocks[1].gate = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(SiteError, match="post_attention_layernorm, gate"):
        lm.layout.module(Site(1, "mlp_out"))
