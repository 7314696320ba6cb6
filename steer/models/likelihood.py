"""Log-likelihoods of options and of texts, as lm-evaluation-harness 0.4.13 defines them.

An option is scored as what follows a context: both are encoded together, and the tokens after the context's are the
option's. A text is scored from its first token on, in windows of the model's context.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steer.errors import DataError, TooLongError
from steer.models.batches import batches_of
from steer.models.chat import is_raw, raw_text
from steer.models.model import LanguageModel
from steer.models.roles import PromptIds

LOGITS = 2**28  # of a batch at most, unless one row has more: 1 GiB in float32


@dataclass(frozen=True)
class Pair:
    """Tokens to score and those that they follow; neither is empty."""

    context: Sequence[int]
    continuation: Sequence[int]


@dataclass(frozen=True)
class Likelihood:
    """What a model makes of a continuation."""

    logprob: float
    """Sum of the log-probabilities of its tokens, in nats."""
    greedy: bool
    """Whether each of its tokens is the likeliest one."""
    tokens: int
    """How many there are."""


def option_pairs(lm: LanguageModel, prompts: Sequence[PromptIds], options: Sequence[Sequence[str]]) -> list[list[Pair]]:
    """The options of each prompt as continuations of it.

    White space that ends a raw text moves to the option, where tokenizers have it. A rendered conversation stays whole,
    so that gates see the prompt that replies are generated from; only where an option would merge with its last token
    does the white space move there too.

    Raises:
        DataError: an option adds no token to its prompt.
    """
    asked = list(zip(prompts, options, strict=True))
    rendered = [prompt.text + option for prompt, group in asked if not is_raw(prompt.conversation) for option in group]
    wholes = iter(lm.encode(rendered))  # of all prompts in one call of the tokenizer
    found = []
    for prompt, group in asked:
        if is_raw(prompt.conversation):
            pairs = _after_stripped(lm, prompt, group)
        else:
            pairs = _after_rendered(lm, prompt, group, [next(wholes) for _ in group])
        for option, pair in zip(group, pairs, strict=True):
            if not pair.continuation:
                raise DataError(
                    f"The option {option!r} adds no token to its prompt, so it has no likelihood. Leave it out."
                )
        found.append(pairs)
    return found


def _after_rendered(
    lm: LanguageModel, prompt: PromptIds, options: Sequence[str], wholes: Sequence[list[int]]
) -> list[Pair]:
    """Those of a rendered conversation; ``wholes`` are the token ids of it with each option behind it."""
    found = [Pair(prompt, whole[len(prompt) :]) for whole in wholes]
    merged = [place for place, whole in enumerate(wholes) if list(prompt) != whole[: len(prompt)]]
    for place, pair in zip(merged, _after_stripped(lm, prompt, [options[i] for i in merged]), strict=True):
        found[place] = pair
    return found


def _after_stripped(lm: LanguageModel, prompt: PromptIds, options: Sequence[str]) -> list[Pair]:
    """The same with the white space that ends the prompt moved to the options."""
    text = prompt.text.rstrip()
    moved = [prompt.text[len(text) :] + option for option in options]
    if not text:
        context, alone = lm.raw_ids([""])[0], lm.encode(moved)
        # an option may begin with that token itself
        wholes = [ids if ids[:1] == context else context + ids for ids in alone]
    else:
        encode = lm.raw_ids if is_raw(prompt.conversation) else lm.encode
        context, *wholes = encode([text, *(text + option for option in moved)])
    before = PromptIds(context, prompt.conversation, text)
    return [Pair(before, whole[len(context) :]) for whole in wholes]


def text_pairs(lm: LanguageModel, text: str) -> list[Pair]:
    """A whole text as continuations: windows of the model's context, one after another, each token scored once.

    The first follows the token that begins (else ends) sequences, which stands for an empty prompt. The last window
    begins earlier than where the one before it ends, so that it is full too; its new tokens alone are scored.

    Raises:
        DataError: the text has no token, or the tokenizer none to begin with.
    """
    ids, start = lm.raw_ids([text])[0] if text else [], lm.prefix_id
    if not ids or start is None:
        raise DataError("A text that is scored needs a token in it, and the tokenizer one to begin with.")
    most = lm.context if lm.context is not None else len(ids)
    windows = [([start], ids[:most])]
    for first in range(most, len(ids), most):
        end = min(first + most, len(ids))
        windows.append((ids[end - most - 1 : first], ids[first:end]))  # as many tokens are read as the context holds
    return [Pair(PromptIds(context, raw_text(text), text), scored) for context, scored in windows]


def together(parts: Sequence[Likelihood]) -> Likelihood:
    """The likelihood of continuations that follow one another."""
    return Likelihood(
        sum(one.logprob for one in parts), all(one.greedy for one in parts), sum(one.tokens for one in parts)
    )


def grouped_likelihoods(lm: LanguageModel, groups: Sequence[Sequence[Pair]], batch_size: int) -> list[list[Likelihood]]:
    """Likelihoods of the pairs that belong to each prompt of a call, see ``likelihoods``."""
    of = [place for place, group in enumerate(groups) for _ in group]
    found = iter(likelihoods(lm, [pair for group in groups for pair in group], batch_size, of, len(groups)))
    return [[next(found) for _ in group] for group in groups]


def likelihoods(
    lm: LanguageModel, pairs: Sequence[Pair], batch_size: int, of: Sequence[int] | None = None, count: int | None = None
) -> list[Likelihood]:
    """What the model makes of each continuation; raw texts too long for it are cut from the left.

    Pairs that differ in the last token alone are answered by one row. ``of`` says which of the ``count`` prompts of the
    call each pair belongs to, for interventions with a value per prompt; without it each pair is a prompt of its own.

    Raises:
        TooLongError: a conversation with a continuation is longer than the model's context.
        DataError: a continuation alone is.
    """
    of = range(len(pairs)) if of is None else of
    index, n_rows = lm.rows_run(len(pairs) if count is None else count)
    jobs: dict[tuple[int, int, tuple[int, ...]], list[int]] = {}
    cut = [fitted(lm, pair) for pair in pairs]
    for place, pair in enumerate(cut):
        read = (*pair.context, *pair.continuation[:-1])
        jobs.setdefault((of[place], len(pair.context), read), []).append(place)
    rows = list(jobs)
    found: dict[int, Likelihood] = {}
    longest = max((len(pair.continuation) for pair in cut), default=1)
    batch_size = min(batch_size, max(1, LOGITS // (longest * (lm.vocabulary or 1))))
    for batch in batches_of([len(read) for _, _, read in rows], batch_size):
        asked = [jobs[rows[row]] for row in batch]
        with lm.running([index[rows[row][0]] for row in batch], n_rows):
            found.update(_scored(lm, cut, asked))
    return [found[place] for place in range(len(pairs))]


def fitted(lm: LanguageModel, pair: Pair) -> Pair:
    """The pair, a raw context cut from the left so far that all but the last token fit into the model's context.

    Raises:
        TooLongError: the context is a rendered conversation, of which a part would be another one.
        DataError: the continuation alone does not fit.
    """
    most, rest = lm.context, len(pair.continuation)
    if most is None or len(pair.context) + rest <= most + 1:
        return pair
    if rest > most:
        raise DataError(
            f"A continuation of {rest} tokens does not fit into the model's context of {most}. Shorten the option."
        )
    room = most + 1 - rest
    context = pair.context
    if isinstance(context, PromptIds) and not is_raw(context.conversation):
        raise TooLongError(
            f"The prompt has {len(context)} tokens; with {rest} of an option the model's context is {most}. Shorten "
            "the conversation, such as by fewer examples."
        )
    return replace(pair, context=context.last(room) if isinstance(context, PromptIds) else context[-room:])


def _scored(lm: LanguageModel, pairs: Sequence[Pair], asked: Sequence[Sequence[int]]) -> dict[int, Likelihood]:
    """The pairs of one batch, of each row those that differ in their last token alone."""
    firsts = [pairs[places[0]] for places in asked]
    tokens = lm.pad([[*pair.context, *pair.continuation[:-1]] for pair in firsts])
    known = [pair.context if isinstance(pair.context, PromptIds) else None for pair in firsts]
    lengths = torch.tensor([len(pair.context) for pair in firsts], device=lm.device)
    longest = max(len(pair.continuation) for pair in firsts)
    logits = lm.forward(replace(tokens, prompts=known), longest, lengths)
    found: dict[int, Likelihood] = {}
    for row, places in enumerate(asked):
        logprobs = logits[row, longest - len(firsts[row].continuation) :].float().log_softmax(-1)
        wanted = torch.tensor([list(pairs[place].continuation) for place in places], device=lm.device)
        found.update(zip(places, _likelihoods(logprobs, wanted), strict=True))
    return found


def _likelihoods(logprobs: Float[Tensor, "token vocab"], wanted: Int[Tensor, "continuation token"]) -> list[Likelihood]:
    """Those of continuations of one length that one row answers."""
    totals = logprobs[torch.arange(len(logprobs), device=logprobs.device), wanted].sum(-1).tolist()
    greedy = (logprobs.argmax(-1) == wanted).all(-1).tolist()
    return [Likelihood(*one, wanted.shape[1]) for one in zip(totals, greedy, strict=True)]
