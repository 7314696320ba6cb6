"""Fixtures: tiny models with random weights, planted SAEs, no network, shapes checked at run time."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported anywhere
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Before torch is imported, for programs that tests start, too: on tensors this small the threads of two workers only
# keep one another waiting, which several times multiplies the time of the tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401  # the hook names it by its path

install_import_hook(["saes", "steer"], "tests.typecheck.check")

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from saes import SAE, SAEConfig
from steer.models.load import embedded_folder
from steer.models.model import LanguageModel

SHARED = Path(__file__).parents[2] / "shared" / "data"
D_MODEL = 32
SMALL: dict[str, Any] = {
    "hidden_size": D_MODEL,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def byte_tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """A tokenizer in which every byte is a token, with the special tokens of a chat model."""
    specials = ["<pad>", "<bos>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*specials, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<|end|>"
    )
    fast.add_special_tokens({"additional_special_tokens": specials[3:]})
    fast.chat_template = template
    return fast


def tiny_config(family: str, vocabulary: int) -> Any:
    """Two or three layers of the given family's shape."""
    size = {**SMALL, "vocab_size": vocabulary}
    if family == "llama":
        return LlamaConfig(**size, num_hidden_layers=3)
    if family == "phi3":
        return Phi3Config(**size, num_hidden_layers=2)
    if family == "gemma2":
        return Gemma2Config(**size, num_hidden_layers=3, head_dim=8, sliding_window=16)
    if family == "qwen3":
        return Qwen3Config(**size, num_hidden_layers=2, head_dim=8)
    if family == "gpt2":
        return GPT2Config(vocab_size=vocabulary, n_embd=D_MODEL, n_layer=3, n_head=4, n_positions=128, eos_token_id=2)
    raise KeyError(family)


FAMILIES = ("llama", "phi3", "gemma2", "qwen3", "gpt2")


def tiny_model(family: str, template: str | None = TEMPLATE) -> LanguageModel:
    """A model of random weights, large enough that residual streams differ."""
    tokenizer = byte_tokenizer(template)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(family, len(tokenizer)))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4.0)  # the default 0.02 makes all residual streams nearly alike
    return LanguageModel(model.eval().requires_grad_(False), tokenizer, f"tiny-{family}")


@pytest.fixture(scope="session")
def tiny() -> Callable[[str], LanguageModel]:
    """Tiny models by family, built once."""
    built: dict[str, LanguageModel] = {}

    def get(family: str) -> LanguageModel:
        if family not in built:
            built[family] = tiny_model(family)
        return built[family]

    return get


@pytest.fixture(params=FAMILIES)
def lm(request: pytest.FixtureRequest, tiny: Callable[[str], LanguageModel]) -> Iterator[LanguageModel]:
    """A tiny model of every family in turn; no hook may be left on it."""
    model = tiny(request.param)
    yield model
    assert count_hooks(model) == 0
    assert model.attachments == []


@pytest.fixture
def llama(tiny: Callable[[str], LanguageModel]) -> LanguageModel:
    """The tiny Llama."""
    return tiny("llama")


@pytest.fixture
def sae() -> SAE:
    """A random SAE that fits the tiny models."""
    return random_sae()


def random_sae(d_in: int = D_MODEL, d_sae: int = 96, k: int = 6, site: str = "1.resid_post", seed: int = 3) -> SAE:
    """An SAE of random weights with biases that are not zero."""
    sae = SAE(SAEConfig(d_in, d_sae, k, model="tiny", site=site), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        sae.b_enc.copy_(0.1 * torch.randn(d_sae, generator=generator))
        sae.b_dec.copy_(0.1 * torch.randn(d_in, generator=generator))
    return sae.requires_grad_(False)


def count_hooks(lm: LanguageModel) -> int:
    """Forward hooks on all modules of a model."""
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in lm.model.modules())


PROMPTS = ["hello there", "x", "a rather longer prompt, to be padded for", "why?"]


def folder_or_skip(name: str) -> Path:
    """A folder of the public data, or a skip with the reason."""
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"public data not at hand: {name} is not in the data folder beside the project")
    return folder


@pytest.fixture(scope="session")
def embedded() -> LanguageModel:
    """The model that ships with the package."""
    from steer.models.load import load_model

    assert embedded_folder().is_dir()
    return load_model("embedded")


@pytest.fixture
def one_thread():
    """torch computes with one thread, as commands do with a small model."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Random tensors of a test are the same on every run."""
    torch.manual_seed(0)
