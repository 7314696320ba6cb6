"""Held-out texts: as many of a source's documents as give the tokens that are asked for."""

from steer.activations.policy import TokenPolicy
from steer.activations.rows import Rules, token_rows
from steer.activations.sources.source import Source
from steer.checks import require_whole
from steer.errors import DataError
from steer.models.model import LanguageModel


def first_texts(lm: LanguageModel, source: Source, tokens: int | None = None) -> list[list[int]]:
    """Token ids of the first documents of a source that together have ``tokens`` tokens to measure on; None: of all.

    Documents are cut at the model's context, or at 1,024 tokens where that is shorter, conversations rendered by its
    chat template, equal ones taken once. A text's first token is not measured on, so a text of n tokens gives n - 1;
    the last text is cut to fit.

    Raises:
        DataError: the source cannot be read, or holds fewer such tokens.
    """
    if tokens is not None:
        require_whole("tokens", tokens, DataError)
    rules = Rules.of(TokenPolicy(form="documents"), lm)
    found: dict[tuple[int, ...], None] = {}
    count = 0
    for row, _ in token_rows(lm, source, rules):
        ids = tuple(row.ids if tokens is None else row.ids[: tokens - count + 1])
        if len(ids) < 2 or ids in found:
            continue
        found[ids] = None
        count += len(ids) - 1
        if count == tokens:
            break
    if not count or (tokens is not None and count < tokens):
        wanted = "1" if tokens is None else f"{tokens:,}"
        raise DataError(
            f"{source.name} is too short: {wanted} tokens are asked for, and its texts have {count:,} after "
            "their first ones. Give more text, or ask for fewer tokens."
        )
    return [list(ids) for ids in found]
