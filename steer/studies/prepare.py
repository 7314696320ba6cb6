"""What the main job starts from: the model, texts and prompts, loaded and checked before anything long begins."""

from collections.abc import Sequence
from dataclasses import dataclass

from saes import SAEConfig
from steer.activations.text import embedded_corpus, read_texts
from steer.evals.sample import Sample, by_set
from steer.evals.sets import load_prompts
from steer.features.archetype import Refusal, refuse_archetype
from steer.models.chat import Conversation
from steer.models.model import LanguageModel
from steer.models.site import Site
from steer.studies.config import DemoConfig
from steer.threads import processes_for

UNSAFE_DEV = ("unsafe_unseen", "jailbroken")
SAFE_DEV = ("safe", "looks_unsafe")


@dataclass(frozen=True)
class DevPrompts:
    """Development prompts: those that candidates are measured on, and those that the direction is taken from."""

    unsafe: list[Sample]
    safe: list[Sample]
    many_unsafe: list[Sample]
    """For settling one latent's strength."""
    harmful: list[Conversation]
    harmless: list[Conversation]


@dataclass(frozen=True)
class Prepared:
    """What a run starts from, loaded and checked."""

    lm: LanguageModel
    site: Site
    sae_config: SAEConfig
    texts: list[list[int]]
    """Token ids of the texts that the SAE is trained and measured on."""
    dev: DevPrompts
    test: list[Sample]
    refusal: Refusal
    """The model's refusal of the archetypal prompt."""
    processes: int
    """How many share evaluation."""


def prepare(config: DemoConfig, lm: LanguageModel) -> Prepared:
    """Read texts and prompts, and find out what cannot work before the long part begins."""
    site = Site(config.layer if config.layer is not None else (lm.n_layers - 1) // 2)
    lm.layout.module(site)
    return Prepared(
        lm=lm,
        site=site,
        sae_config=SAEConfig(d_in=lm.d_model, d_sae=config.d_sae, k=config.k, model=lm.name, site=str(site)),
        texts=read_texts(embedded_corpus(), lm),
        dev=_dev_prompts(config),
        test=load_prompts(split="test", limit=config.test_prompts),
        refusal=refuse_archetype(lm, config.archetype, config.max_new_tokens),
        processes=processes_for(lm.model, config.processes),
    )


def _dev_prompts(config: DemoConfig) -> DevPrompts:
    sets = by_set(load_prompts(split="dev"))

    def conversations(name: str) -> list[Conversation]:
        return [sample.messages for sample in sets[name]]

    def some_of(names: Sequence[str], count: int) -> list[Sample]:
        return [sample for name in names for sample in sets[name][:count]]

    return DevPrompts(
        unsafe=some_of(UNSAFE_DEV, config.dev_prompts),
        safe=some_of(SAFE_DEV, config.dev_prompts),
        many_unsafe=some_of(UNSAFE_DEV, config.strength_prompts),
        harmful=conversations("unsafe_seen"),
        harmless=conversations("safe"),
    )
