"""Which tokens count: how text becomes rows of tokens, and whose activations are taken."""

from dataclasses import dataclass
from typing import Literal, get_args

from steer.checks import require_finite, require_whole
from steer.errors import DataError

Form = Literal["packed", "documents", "chat"]
Roles = Literal["all", "assistant", "user"]


@dataclass(frozen=True)
class TokenPolicy:
    """How text becomes rows of tokens, and which of the tokens count.

    The activations of a token that does not count reach no buffer, no loss and no statistics.
    """

    form: Form = "packed"
    """``packed``: documents joined and cut into rows of equal length; ``documents``: a row each, cut where too long;
    ``chat``: conversations by the model's chat template, a row each, cut."""
    context_size: int | None = None
    """Length of a row, in tokens, at most; None: the model's context, but no more than 1024."""
    roles: Roles = "all"
    """With ``chat``: whose messages count. ``all`` takes the template's own tokens too."""
    exclude_first: bool = True
    """Leave out the first token of every row, and where documents are packed, of every document."""
    exclude_special: bool = False
    """Leave out the tokenizer's special tokens (beginning, end, padding, marks of a chat template)."""
    exclude_ids: tuple[int, ...] = ()
    """Token ids to leave out besides."""
    max_norm_ratio: float | None = None
    """Leave out tokens whose norm, at any site, is above this multiple of the median of the first pass; None: none."""

    def __post_init__(self) -> None:
        for name, value, choices in (("form", self.form, get_args(Form)), ("roles", self.roles, get_args(Roles))):
            if value not in choices:
                raise DataError(f"{name} must be one of {', '.join(choices)}, got {value!r}.")
        if self.roles != "all" and self.form != "chat":
            raise DataError(f"roles={self.roles!r} needs conversations: set form='chat', got form={self.form!r}.")
        if self.context_size is not None:
            require_whole("context_size", self.context_size, DataError, least=2)
        object.__setattr__(self, "exclude_ids", tuple(self.exclude_ids))  # a list, as JSON gives it, will do
        for token in self.exclude_ids:
            require_whole("A token id in exclude_ids", token, DataError, least=0)
        if self.max_norm_ratio is not None:
            require_finite("max_norm_ratio", self.max_norm_ratio, DataError)
            if self.max_norm_ratio <= 1:
                raise DataError(f"max_norm_ratio must be above 1, got {self.max_norm_ratio}: half of all norms are.")
