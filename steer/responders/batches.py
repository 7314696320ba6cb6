"""Splitting what a responder is asked into batches, so that interventions with a value per row find their rows."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from steer.errors import DataError
from steer.models.batches import batches_of
from steer.models.model import LanguageModel

BATCH_SIZE = 256  # conversations run together, at most

Answer = TypeVar("Answer")


def in_batches(
    lm: LanguageModel,
    lengths: Sequence[int],
    size: int,
    run: Callable[[list[int]], Sequence[Answer]],
    contexts: int = 1,
) -> list[Answer]:
    """What ``run`` gives for the conversations of each batch, in the order of the conversations.

    Args:
        lm: the model, which is told which rows of the call a batch has.
        lengths: of the conversations, in tokens.
        size: conversations in a batch, at most.
        run: answers to the conversations of these places.
        contexts: rows that the model runs for each conversation.
    """
    index, n_rows = lm.rows_run(len(lengths))
    answers: dict[int, Answer] = {}
    for batch in batches_of([length * contexts for length in lengths], size):
        rows = [index[place] * contexts + context for place in batch for context in range(contexts)]
        with lm.running(rows, n_rows * contexts):
            answers.update(zip(batch, run(batch), strict=True))
    return [answers[place] for place in range(len(lengths))]


def check_options(conversations: Sequence[object], options: Sequence[Sequence[str]]) -> None:
    """Raise DataError unless there is a list of options for each conversation, and none is empty."""
    if len(conversations) != len(options):
        raise DataError(
            f"Every conversation needs its options: got {len(conversations)} conversations and {len(options)} lists."
        )
    if any(not option for group in options for option in group):
        raise DataError("An option is an empty text, which is as likely as can be after anything. Leave it out.")
