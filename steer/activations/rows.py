"""From documents to rows of tokens, each with the position from which the next row can be made."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from steer.activations.policy import TokenPolicy
from steer.activations.roles import role_mask
from steer.activations.sources.source import Document, Position, Source
from steer.errors import DataError
from steer.models.chat import ROLES, render
from steer.models.model import LanguageModel
from steer.models.roles import TEMPLATE, token_roles

DEFAULT_CONTEXT = 1024  # tokens of a row where neither policy nor model say
TEXT = -2  # in place of a role's number: a plain text, which nobody says
_TOGETHER = 64  # documents tokenised in one call


@dataclass(frozen=True)
class Row:
    """Token ids that the model reads together, and which of them count."""

    ids: list[int]
    counts: list[bool]
    """For each token, whether its activations are taken."""
    roles: list[int] | None = None
    """For each token, the number of the role that says it (``models.chat.ROLES``), ``TEMPLATE`` or ``TEXT``; None: was
    not asked for."""
    begins: tuple[int, ...] = (0,)
    """Places at which a document begins."""


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
    by_role: bool = False
    """Whether rows tell who says each of their tokens."""

    @classmethod
    def of(cls, policy: TokenPolicy, lm: LanguageModel, by_role: bool = False) -> "Rules":
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
        return cls(policy, size, begin, join, frozenset(excluded), by_role)

    def row(
        self,
        ids: list[int],
        said: Sequence[bool] | None = None,
        roles: list[int] | None = None,
        begins: tuple[int, ...] = (0,),
    ) -> Row:
        """The row of these tokens, cut to length; ``said`` tells which of them the chosen role says."""
        ids = ids[: self.context_size]
        counts = [token not in self.excluded for token in ids]
        if said is not None:
            counts = [counted and own for counted, own in zip(counts, said, strict=False)]
        if self.policy.exclude_first:
            counts[:1] = [False]
        return Row(ids, counts, None if roles is None else roles[: self.context_size], begins)


@dataclass(frozen=True)
class _Document:
    """A document as tokens."""

    ids: list[int]
    said: list[bool] | None
    """Which of them the chosen role says; None: no role is chosen."""
    roles: list[int] | None
    """Who says each; None: was not asked for."""
    after: Position

    def begun(self, token: int | None) -> "_Document":
        """The document with ``token`` before it, if it does not begin with it."""
        if token is None or self.ids[:1] == [token]:
            return self
        roles = None if self.roles is None else [TEXT if self.roles[:1] == [TEXT] else TEMPLATE, *self.roles]
        return _Document([token, *self.ids], self.said, roles, self.after)


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
    for documents in _tokenised(lm, source, start and start["source"], rules):
        for one in documents:
            begun = one.begun(begin)
            yield rules.row(begun.ids, begun.said, begun.roles), {"source": one.after}


def _packed(lm: LanguageModel, source: Source, rules: Rules, start: Position | None) -> Iterator[tuple[Row, Position]]:
    """Rows of ``context_size`` tokens of the documents joined; the last one may be shorter.

    A position names the document that the next row begins in, and how many of its tokens are used up.
    """
    before, used = (start["source"], start["used"]) if start else (None, 0)
    ids: list[int] = []
    roles: list[int] | None = [] if rules.by_role else None
    begins: tuple[int, ...] = ()
    for documents in _tokenised(lm, source, before, rules):
        for one in documents:
            document = one.begun(rules.join)
            while used < len(document.ids):
                if not ids and rules.begin is not None and document.ids[used] != rules.begin:
                    ids, roles = [rules.begin], [TEXT] if rules.by_role else None
                begins = (*begins, len(ids)) if used == 0 else begins
                stop = used + rules.context_size - len(ids)
                ids = ids + document.ids[used:stop]
                if roles is not None and document.roles is not None:
                    roles = roles + document.roles[used:stop]
                used = min(stop, len(document.ids))
                if len(ids) == rules.context_size:
                    done = used == len(document.ids)
                    after = {"source": one.after if done else before, "used": 0 if done else used}
                    yield rules.row(ids, roles=roles, begins=begins), after
                    ids, roles, begins = [], [] if rules.by_role else None, ()
            before, used = one.after, 0
    if ids:
        yield rules.row(ids, roles=roles, begins=begins), {"source": before, "used": 0}


def _tokenised(lm: LanguageModel, source: Source, start: Position | None, rules: Rules) -> Iterator[list[_Document]]:
    """Documents as tokens, some at a time."""
    documents, policy = source.documents(start), rules.policy
    while group := list(islice(documents, _TOGETHER)):
        texts, said, roles = [], [], []
        for document, after in group:
            try:
                texts.append(_text(lm, document, policy))
                said.append(_said(lm, document, texts[-1], policy))
                roles.append(_roles(lm, document, texts[-1]) if rules.by_role else None)
            except DataError as error:
                place = ", ".join(f"{name} {number}" for name, number in after.items() if isinstance(number, int))
                raise DataError(f"{source.name}, the document that ends at {place}: {error}") from error
        rows = zip(lm.encode(texts), said, roles, (after for _, after in group), strict=True)
        yield [
            _Document(ids, own, [TEXT] * len(ids) if rules.by_role and who is None else who, after)
            for ids, own, who, after in rows
        ]


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


def _roles(lm: LanguageModel, document: Document, text: str) -> list[int] | None:
    """Who says each token of a conversation; None for a plain text."""
    if isinstance(document, str):
        return None
    said = token_roles(lm.tokenizer, document, text, reply=False)
    return [ROLES.index(roles[0]) if roles else TEMPLATE for roles in said]
