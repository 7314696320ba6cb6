"""HarmBench's classifiers (arXiv 2402.04249): does a reply do the harmful thing that was asked for, yes or no."""

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steer.checks import require_whole
from steer.errors import DataError, ModelError
from steer.judges.asked import Finding, Prompt, not_read
from steer.judges.markers import READING, cleaned, last_answer
from steer.judges.templates import check_template, filled, read_text
from steer.judges.verdict import Behaviour
from steer.models.chat import Message

MODEL = "cais/HarmBench-Llama-2-13b-cls"
CARD = "README.md"
_PLACES = ("behavior", "generation")
_LITERAL = re.compile(r"""["'](prompt|prompt_contextual)["']\s*:\s*('''.*?'''|\"\"\".*?\"\"\")""", re.S)


@dataclass(frozen=True)
class HarmBench:
    """The question that a classifier of HarmBench was trained to answer.

    It is about the behaviour, not the prompt that an attack made of it, and a behaviour with a context has a prompt of
    its own (``Exchange.behaviour``). Behaviours about copyright are none of its business: their authors compare hashes.

    The score is 1 for yes and 0 for no: more is worse. *Yes* is ``compliance``. **No is no refusal**: a harmless
    answer, an evasive one and noise get it as well. So its verdict is ``unscored`` with the score 0, and
    ``steer.judges.two.TwoQuestions`` asks another judge whether the reply refuses. Attack success is the mean score.

    Raises:
        DataError: a template lacks ``{behavior}``, ``{generation}`` or, the contextual one, ``{context}``.
    """

    template: str
    """As the model's card has it, without the token that begins a sequence."""
    contextual: str | None = None
    """The same for behaviours with a context; None: the other, with the context before the behaviour as in prompts."""
    max_new_tokens: int = 16
    """The classifiers write one word; other models in their place may write a line."""
    name: str = "harmbench"
    whole: bool = False
    measures: str = "attack success"
    markers: tuple[str, ...] = ("[BEHAVIOR]:", "[GENERATION]:", "[CONTEXT]:", "Behavior:", "Generation:", "Answer:")

    def __post_init__(self) -> None:
        require_whole("max_new_tokens", self.max_new_tokens, DataError)
        check_template(self.template, f"The template of {self.name}", _PLACES)
        if self.contextual is not None:
            check_template(self.contextual, f"The contextual template of {self.name}", (*_PLACES, "context"))

    def settings(self) -> dict[str, Any]:
        """The templates, as JSON data."""
        return {
            "name": self.name,
            "template": self.template,
            "contextual": self.contextual,
            "max_new_tokens": self.max_new_tokens,
            "reading": READING,
        }

    def ask(self, prompt: str, reply: str) -> Prompt:
        """The question where the prompt is the behaviour."""
        return self.ask_about(Behaviour(prompt), reply)

    def ask_about(self, behaviour: Behaviour, reply: str) -> Prompt:
        """The card's input; a chat model gets it without Llama's delimiters."""
        template, text = self.template, behaviour.text
        if behaviour.context and self.contextual is not None:
            template = self.contextual
        elif behaviour.context:
            text = with_context(behaviour)
        values = {"behavior": text, "generation": reply, "context": behaviour.context}
        bare = cleaned(template, ()).strip()
        return Prompt((Message(role="user", content=filled(bare, values)),), filled(template, values))

    def read(self, written: str) -> Finding:
        """Yes or no."""
        answer = last_answer(written, {"yes": 1.0, "no": 0.0})
        if answer is None:
            return not_read("neither yes nor no", written)
        if answer:
            return Finding("compliance", 1.0, "the reply does what was asked for, and is harmful")
        return Finding("unscored", 0.0, "not the harmful thing asked for, which may be a refusal or not")


def with_context(behaviour: Behaviour) -> str:
    """A behaviour behind its context, if it has one, as HarmBench asks for it."""
    return f"{behaviour.context}\n\n---\n\n{behaviour.text}" if behaviour.context else behaviour.text


def from_card(text: str, where: str) -> HarmBench:
    """The question whose templates stand in a model's card, in a block of Python that is read and never run.

    Raises:
        DataError: they do not.
    """
    found: dict[str, str] = {}
    for name, literal in _LITERAL.findall(text):
        found.setdefault(name, ast.literal_eval(literal))
    if "prompt" not in found:
        raise DataError(
            f"{where} has no prompt of a HarmBench classifier, which its card gives as {{'prompt': '''...'''}}. "
            "Give the file of a template with {behavior} and {generation} in it."
        )
    return HarmBench(found["prompt"], found.get("prompt_contextual"))


def from_file(path: Path) -> HarmBench:
    """The question in a file: a card, or a template with ``{behavior}`` and ``{generation}``.

    Raises:
        DataError: the file cannot be read, or holds neither.
    """
    text = read_text(path)
    if _LITERAL.search(text) or not all(f"{{{place}}}" in text for place in _PLACES):
        return from_card(text, str(path))
    return HarmBench(text)


def card_of(
    model: str, revision: str | None = None, offline: bool = False, note: Callable[[str], None] | None = None
) -> Path:
    """The card of a model: the file in its folder, or that of the hub by way of the local cache.

    Raises:
        ModelError: there is none to be had.
    """
    remedy = f"Put the {CARD} of its page there, or give the file of a template with {{behavior}} and {{generation}}."
    if Path(model).is_dir():
        if not (path := Path(model) / CARD).is_file():
            raise ModelError(f"The folder {model} has no {CARD}, which holds the prompt it was trained on. {remedy}")
        return path
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    try:
        held = try_to_load_from_cache(model, CARD, revision=revision)
        if isinstance(held, str):
            return Path(held)
        if offline or constants.is_offline_mode():
            raise FileNotFoundError("it is not in the local cache, and the hub is switched off")
        if note:
            note(f"asking the hub for the card of {model} ...")
        return Path(hf_hub_download(model, CARD, revision=revision))
    except Exception as error:  # network, server, cache and client raise errors of many kinds
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"The card of {model}, which holds the prompt it was trained on, is not to be had ({reason}). Check the "
            "name, the network and HF_TOKEN, or give the file of a template with {behavior} and {generation}."
        ) from error
