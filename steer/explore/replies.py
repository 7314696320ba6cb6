"""The model's reply to a prompt, with interventions or without, told of token by token."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from torch import Tensor

from steer.explore.bench import Bench
from steer.explore.state import State
from steer.models.chat import Message
from steer.models.passes import Pass
from steer.models.replies import Reply, ReplyIds, reply_text
from steer.models.roles import PromptIds
from steer.models.site import Site
from steer.steering.intervention import Intervention
from steer.steering.steered import steered


def prompt_ids(bench: Bench, state: State, prompt: str, before: Sequence[Message] = ()) -> PromptIds:
    """A prompt as the model reads it, with the state's system prompt and after what was said before.

    Raises:
        DataError: it is no valid Unicode, or the chat template refuses it.
    """
    return bench.lm.prompt_ids([state.conversation(prompt, before)])[0]


def reply_ids(bench: Bench, state: State, prompt: PromptIds, interventions: Sequence[Intervention] = ()) -> ReplyIds:
    """The reply's token ids.

    Raises:
        DataError: prompt and reply do not fit into the context, or logits are not finite.
    """
    with steered(bench.lm, *interventions) if interventions else nullcontext(), _watched(bench, state):
        return bench.lm.generate_ids([prompt], state.sampling)[0]


def text_of(bench: Bench, state: State, ids: ReplyIds) -> Reply:
    """The reply as text; a stop text is not part of it."""
    return reply_text(bench.lm.tokenizer, ids, state.sampling.stop)


def _watched(bench: Bench, state: State) -> Any:
    """Tells of the reply as it grows: the first layer reads every token on its way to the next one."""
    if bench.watch is None:
        return nullcontext()
    watch, seen = bench.watch, ReplyIds()

    def look(x: Tensor, at: Pass) -> Tensor:
        if at.tokens is not None and bool(at.generated[0, -1]):
            seen.append(int(at.tokens[0, -1]))
            watch(text_of(bench, state, seen))
        return x

    return bench.lm.edited({Site(0, "resid_pre"): look})
