"""From documents to rows of tokens, each with the position from which the next row can be made."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from steer.activations.policy import TokenPolicy
from steer.activations.roles import role_mask
from steer.activations.sources.source import Document, Position, Source
from steer.errors import DataError
from steer.models.chat import render
from steer.models.model import LanguageModel

DEFAULT_CONTEXT = 1024  # tokens of a row where neither policy nor model say
_TOGETHER = 64  # documents tokenised in one call


@dataclass(frozen=True)
class Row:
    """Token ids that the model reads together, and which of them count."""

    ids: list[int]
    counts: list[bool]
    """For each token, whether its activations are taken."""


@dataclass(frozen=True)
class Rules:
    """A token policy, with what it leaves to the model filled in."""

    policy: TokenPolicy
    context_size: int
    """Length of a row, in tokens, at most."""
    begin: int | None
    """The token that every row begins with, if any."""
    join: int | None
    """The token that documents begin with where they are packed, if any."""
    excluded: frozenset[int]
    """Token ids that never count."""

    @classmethod
    def of(cls, policy: TokenPolicy, lm: LanguageModel) -> "Rules":
        """The policy for a model.

        Raises:
            DataError: rows would be longer than the model's context, or an excluded id is none of the model's tokens.
        """
        size = policy.context_size or min(lm.context or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
        if lm.context is not None and size > lm.context:
            raise DataError(f"context_size must be at most the model's context of {lm.context} tokens, got {size}.")
        if lm.vocabulary is not None and any(token >= lm.vocabulary for token in policy.exclude_ids):
            raise DataError(f"exclude_ids must be below the model's {lm.vocabulary} tokens, got {policy.exclude_ids}.")
        begin = lm.tokenizer.bos_token_id
        join = begin if begin is not None else lm.tokenizer.eos_token_id
        excluded = {*policy.exclude_ids, *(lm.tokenizer.all_special_ids if policy.exclude_special else ())}
        if policy.form == "packed" and policy.exclude_first and join is not None:
            excluded.add(join)
        return cls(policy, size, begin, join, frozenset(excluded))

    def row(self, ids: list[int], said: Sequence[bool] | None = None) -> Row:
        """The row of these tokens, cut to length; ``said`` tells which of them the chosen role says."""
        ids = ids[: self.context_size]
        counts = [token not in self.excluded for token in ids]
        if said is not None:
            counts = [counted and own for counted, own in zip(counts, said, strict=False)]
        if self.policy.exclude_first:
            counts[:1] = [False]
        return Row(ids, counts)


def token_rows(
    lm: LanguageModel, source: Source, rules: Rules, start: Position | None = None
) -> Iterator[tuple[Row, Position]]:
    """Rows of a source, once through, each with the position after it.

    Raises:
        DataError: the source cannot be read, or a document does not suit the policy.
    """
    if rules.policy.form == "packed":
        yield from _packed(lm, source, rules, start)
        return
    begin = rules.begin if rules.policy.form == "documents" else None  # a template writes its own
    for documents in _tokenised(lm, source, start and start["source"], rules.policy):
        for ids, said, after in documents:
            yield rules.row(_begun(ids, begin), said), {"source": after}


def _packed(lm: LanguageModel, source: Source, rules: Rules, start: Position | None) -> Iterator[tuple[Row, Position]]:
    """Rows of ``context_size`` tokens of the documents joined; the last one may be shorter.

    A position names the document that the next row begins in, and how many of its tokens are used up.
    """
    before, used = (start["source"], start["used"]) if start else (None, 0)
    ids: list[int] = []
    for documents in _tokenised(lm, source, before, rules.policy):
        for document, _, after in documents:
            document = _begun(document, rules.join)
            while used < len(document):
                if not ids and rules.begin is not None and document[used] != rules.begin:
                    ids = [rules.begin]
                piece = document[used : used + rules.context_size - len(ids)]
                ids, used = ids + piece, used + len(piece)
                if len(ids) == rules.context_size:
                    done = used == len(document)
                    yield rules.row(ids), {"source": after if done else before, "used": 0 if done else used}
                    ids = []
            before, used = after, 0
    if ids:
        yield rules.row(ids), {"source": before, "used": 0}


def _tokenised(
    lm: LanguageModel, source: Source, start: Position | None, policy: TokenPolicy
) -> Iterator[list[tuple[list[int], list[bool] | None, Position]]]:
    """Documents, some at a time: token ids, which of them the chosen role says (None: no role is chosen), position."""
    documents = source.documents(start)
    while group := list(islice(documents, _TOGETHER)):
        texts, said = [], []
        for document, after in group:
            try:
                texts.append(_text(lm, document, policy))
                said.append(_said(lm, document, texts[-1], policy))
            except DataError as error:
                place = ", ".join(f"{name} {number}" for name, number in after.items() if isinstance(number, int))
                raise DataError(f"{source.name}, the document that ends at {place}: {error}") from error
        yield list(zip(lm.encode(texts), said, (after for _, after in group), strict=True))


def _text(lm: LanguageModel, document: Document, policy: TokenPolicy) -> str:
    if not isinstance(document, str):
        return render(lm.tokenizer, document, reply=False)
    if policy.form == "chat":
        raise DataError(
            "form='chat' needs conversations, got a plain text. Name the column that holds them, "
            "`--messages-column` (in Python Columns(messages=...)), or use another form, `documents`."
        )
    return document


def _said(lm: LanguageModel, document: Document, text: str, policy: TokenPolicy) -> list[bool] | None:
    if policy.roles == "all" or isinstance(document, str):
        return None
    return role_mask(lm.tokenizer, document, text, policy.roles)


def _begun(ids: list[int], token: int | None) -> list[int]:
    return ids if token is None or ids[:1] == [token] else [token, *ids]
