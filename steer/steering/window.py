"""On which tokens an intervention acts, and how strongly: a clause about positions in a row, padding not counted."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steer.checks import require_finite, require_whole
from steer.errors import DataError, PlanError
from steer.models.chat import ROLES
from steer.models.passes import Pass, after_first

Phase = Literal["all", "prompt", "generated", "last"]


@dataclass(frozen=True)
class Window:
    """Tokens that an intervention acts on. All conditions must hold.

    Positions are those of each row, so a window means the same with and without a KV cache, alone and in a batch.

    Raises:
        PlanError: a field is not of its kind, or no token can ever be in the window.
    """

    phase: Phase = "all"
    """``prompt``, ``generated``, both (``all``), or the prompt's ``last`` token."""
    start: int = 0
    """First token, counted from the beginning of the phase (of the prompt for ``all``)."""
    stop: int | None = None
    """The token after the last one; None: to the end."""
    first_token: bool = False
    """Whether to act on the first token of a row too. It carries activations unlike all others."""
    exclude_ids: frozenset[int] = frozenset()
    """Token ids to leave alone, such as those of a chat template."""
    decay: float = 1.0
    """Factor by which the effect shrinks with each generated token; 1: it stays."""
    roles: frozenset[str] | None = None
    """Whose words to act on: those that messages of these roles say (generated tokens are the assistant's), without
    what the chat template adds around them; None: all tokens."""
    template: bool = True
    """Whether to act on the tokens that the chat template adds, which are nobody's."""

    def __post_init__(self) -> None:
        if self.phase not in get_args(Phase):
            raise PlanError(f"phase must be one of {', '.join(get_args(Phase))}, got {self.phase!r}.")
        require_whole("start", self.start, PlanError, least=0)
        if self.stop is not None:
            require_whole("stop", self.stop, PlanError, least=0)
            if self.stop <= self.start:
                raise PlanError(
                    f"A window from {self.start} to {self.stop} holds no token. Give a stop greater than its start."
                )
        if self.phase == "last" and (self.start or self.stop is not None):
            raise PlanError("The last token of the prompt is one token: give no start and no stop.")
        require_finite("decay", self.decay, PlanError, 1.0)
        if self.decay < 0:
            raise PlanError(f"decay must be between 0 and 1, got {self.decay}.")
        for name in ("first_token", "template"):
            if not isinstance(getattr(self, name), bool):
                raise PlanError(f"{name} must be True or False, got {getattr(self, name)!r}.")
        self._check_ids()
        if self.roles is not None:
            self._check_roles()
        self._check_holds_tokens()

    def _check_ids(self) -> None:
        if isinstance(self.exclude_ids, str) or not isinstance(self.exclude_ids, Iterable):
            raise PlanError(f"exclude_ids must be a set of token ids, got {self.exclude_ids!r}.")
        ids = tuple(self.exclude_ids)
        for token in ids:
            require_whole("A token id of exclude_ids", token, PlanError, least=0)
        object.__setattr__(self, "exclude_ids", frozenset(map(int, ids)))

    def _check_holds_tokens(self) -> None:
        if self.stop == 1 and self.phase in ("all", "prompt") and not self.first_token:
            raise PlanError(
                "A window from 0 to 1 holds the first token of a row, which is left alone: give first_token=True too."
            )
        if self.decay == 0 and self.phase == "generated":
            raise PlanError("With decay 0 nothing is left at the first generated token. Give a decay above 0.")

    def _check_roles(self) -> None:
        if isinstance(self.roles, str) or not self.roles or not set(self.roles) <= set(ROLES):
            raise PlanError(f"roles must be a set of some of {', '.join(ROLES)}, or None for all, got {self.roles!r}.")
        object.__setattr__(self, "roles", frozenset(self.roles))
        if self.phase == "generated" and "assistant" not in self.roles:
            raise PlanError("Generated tokens are the assistant's: a window on them needs that role, or no roles.")
        if self.phase == "last":
            raise PlanError("The last token of a prompt is the template's, or the last user's: give no roles with it.")

    def excludes(self, other: "Window") -> bool:
        """Whether no token can be in both."""
        if self.roles is not None and other.roles is not None and not self.roles & other.roles:
            return True
        phases = {self.phase, other.phase}
        if len(phases) == 1 or phases == {"all", "prompt"}:  # they count from the same token
            return any(one.stop is not None and one.stop <= two.start for one, two in ((self, other), (other, self)))
        return phases in ({"generated", "prompt"}, {"generated", "last"})

    def weights(self, at: Pass) -> Float[Tensor, "batch seq"]:
        """How strongly each token is acted on, from 0 (not at all) to 1."""
        if self.phase != "all" or self.decay != 1.0:
            check_told_apart(at)
        inside = at.real if self.first_token else after_first(at.real, at.positions)
        if self.phase in ("prompt", "last"):
            inside = inside & ~at.generated
        if self.phase == "generated":
            inside = inside & at.generated
        if self.phase == "last":
            inside = inside & (at.positions == _prompt_tokens(at) - 1)
        if self.start or self.stop is not None:
            place = at.positions - (_prompt_tokens(at) if self.phase == "generated" else 0)
            inside = inside & (place >= self.start) & (place < (2**62 if self.stop is None else self.stop))
        if self.exclude_ids:
            inside = inside & ~torch.isin(_tokens(at), torch.tensor(sorted(self.exclude_ids), device=inside.device))
        if self.roles is not None or not self.template:
            inside = inside & self._said(at)
        if self.decay == 1.0:
            return inside.float()
        age = (at.positions - _prompt_tokens(at) + 1).clamp_min(0)  # 0 in the prompt, 1 at the first generated token
        return inside * torch.full_like(age, self.decay, dtype=torch.float32) ** age

    def _said(self, at: Pass) -> Bool[Tensor, "batch seq"]:
        """Which tokens somebody says whose words count."""
        numbers = [ROLES.index(role) for role in self.roles or ROLES]
        return torch.isin(_roles(at), torch.tensor(numbers, device=at.real.device))


EVERYWHERE = Window()


def check_window(window: object) -> None:
    """Raise PlanError unless it is a window."""
    if not isinstance(window, Window):
        raise PlanError(
            f"window must be a Window, such as Window('generated'), got {type(window).__name__} {window!r}."
        )


def check_told_apart(at: Pass) -> None:
    """Raise PlanError where it is not known which tokens belong to the prompt."""
    if not at.told_apart:
        raise PlanError(
            "Several tokens came with a filled cache, and nobody said whether they belong to the prompt, which this "
            "window or gate needs to know. Generate with LanguageModel.generate, or read the prompt in one pass."
        )


def _prompt_tokens(at: Pass) -> Int[Tensor, "batch 1"]:
    if at.prompt_tokens is None:
        raise PlanError(
            "This window counts from the end of the prompt, and nobody said where that is: a part of the row was in "
            "the cache. Generate with LanguageModel.generate."
        )
    return at.prompt_tokens.unsqueeze(-1)


def _roles(at: Pass) -> Int[Tensor, "batch seq"]:
    """Number of the role that says each token, or that of the template."""
    own = torch.full_like(at.positions, ROLES.index("assistant"))
    if at.generated.all():
        return own  # where the prompt was read before, what it says does not matter
    if at.said is None or any(row not in at.said.prompts for row in at.rows.tolist()):
        raise PlanError(
            "This window is by role, and nobody said who says what: the model was given bare token ids. Give texts or "
            "conversations to generate, or what prompt_ids makes of them, unchanged, to generate_ids."
        )
    try:
        said = at.said.roles(at.rows)
    except DataError as error:
        raise PlanError(f"{error} Give a window without roles, and with template=True.") from error
    places = at.positions.clamp_max(said.shape[1] - 1)
    return torch.where(at.generated, own, said.gather(-1, places))


def _tokens(at: Pass) -> Int[Tensor, "batch seq"]:
    if at.tokens is None:
        raise PlanError("A window that leaves out token ids needs them, but the model was given embeddings.")
    return at.tokens
