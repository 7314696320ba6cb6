"""What can be asked of ``steer search``: its options, and how their values are read."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from steer.cli.options import NothingEmpty

WHAT, HOW, SHOWN = "What is looked for (any mixture)", "How", "Output"
_TOKENS = ("--promotes", "--suppresses", "--attribute")


class PoolName(StrEnum):
    """How activations of tokens become one of a prompt."""

    max = "max"
    mean = "mean"


class SpacesAreTokens(NothingEmpty):
    """A command that takes no empty text, but where a token may be white space."""

    def may_be_empty(self, before: str) -> bool:
        """Whether the word behind ``before`` may be empty."""
        return before in _TOKENS


Index = Annotated[Path, typer.Argument(help="Folder of `steer index build`.")]
ModelName = Annotated[
    str | None,
    typer.Argument(help="`embedded`, a folder in transformers format, or a hub id; for prompts and tokens."),
]
SaeName = Annotated[
    str | None, typer.Argument(help="The SAE of the index: a path, hub:owner/name/folder, or saelens:release/id.")
]

Words = Annotated[str | None, typer.Option(help="Words in labels and tokens.", rich_help_panel=WHAT)]
Meaning = Annotated[
    str | None, typer.Option(help="Labels that mean something like this; needs --embedder.", rich_help_panel=WHAT)
]
Promotes = Annotated[
    str | None,
    typer.Option(
        help="Token that it pushes towards: its text (a space before it is tried too), or #NUMBER.",
        rich_help_panel=WHAT,
    ),
]
Suppresses = Annotated[str | None, typer.Option(help="Token that it pushes away from.", rich_help_panel=WHAT)]
Prompt = Annotated[str | None, typer.Option(help="What fires on this user turn.", rich_help_panel=WHAT)]
ConversationFile = Annotated[
    Path | None, typer.Option(help="What fires on a conversation: .json of messages.", rich_help_panel=WHAT)
]
Contrast = Annotated[
    tuple[Path, Path] | None,
    typer.Option(
        help="What fires more on the prompts of one file than of another: .txt, one a line, or .jsonl.",
        rich_help_panel=WHAT,
    ),
]
Means = Annotated[
    tuple[Path, Path] | None,
    typer.Option(
        help="What writes along the difference in means of two files' prompts, at the last prompt token.",
        rich_help_panel=WHAT,
    ),
]
Like = Annotated[int | None, typer.Option(help="What writes like this latent.", min=0, rich_help_panel=WHAT)]
Direction = Annotated[
    str | None,
    typer.Option(
        help="What writes along the vector in a .safetensors file: FILE, or FILE:TENSOR.", rich_help_panel=WHAT
    ),
]
Attribute = Annotated[
    tuple[str, str] | None,
    typer.Option(
        help="What adds to the logit of the first token less that of the second where the reply begins, on --on or "
        "--prompt.",
        metavar="TOWARD AGAINST",
        rich_help_panel=WHAT,
    ),
]
By = Annotated[
    str | None, typer.Option(help="Largest of a column of the index; -NAME: smallest.", rich_help_panel=WHAT)
]

Filters = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        help="Only latents with this, such as 'density<0.01', '1e-5<density<0.01', label, no-label. May be repeated.",
        rich_help_panel=HOW,
    ),
]
Weights = Annotated[
    list[str] | None,
    typer.Option(
        "--weight", help="Of a part in the fusion, 1 unless given.", metavar="PART=NUMBER", rich_help_panel=HOW
    ),
]
Limit = Annotated[int, typer.Option(min=1, help="Latents to show, at most.", rich_help_panel=HOW)]
Part = Annotated[
    str,
    typer.Option(
        help="Tokens of prompts that count: whole, prompt, reply (the model's own where there is none), last, system, "
        "user, assistant, or characters FROM:TO of the last message.",
        rich_help_panel=HOW,
    ),
]
PoolOption = Annotated[PoolName, typer.Option(help="Over those tokens.", rich_help_panel=HOW)]
ReplyTokens = Annotated[int, typer.Option(min=1, help="Tokens of the model's own reply, at most.", rich_help_panel=HOW)]
On = Annotated[Path | None, typer.Option(help="Prompts of --attribute: .txt or .jsonl.", rich_help_panel=HOW)]
Steps = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=10_000,
        help="Of integrated gradients, for --attribute; else gradient times activation.",
        rich_help_panel=HOW,
    ),
]
Fdr = Annotated[float, typer.Option(help="False discovery rate of --contrast; 1 shows all.", rich_help_panel=HOW)]
Permutations = Annotated[
    int,
    typer.Option(
        min=1000, max=100_000, help="Of --contrast; up to 100,000 where few are as extreme.", rich_help_panel=HOW
    ),
]
HeldOut = Annotated[float, typer.Option(help="Share of prompts kept for the AUC of --contrast.", rich_help_panel=HOW)]
Resplits = Annotated[
    int,
    typer.Option(
        min=0, max=10_000, help="Other splits on which --contrast ranks again, to see what recurs.", rich_help_panel=HOW
    ),
]
ByRarity = Annotated[
    bool, typer.Option("--by-rarity/--by-effect", help="Rank --contrast by effect times rarity.", rich_help_panel=HOW)
]
EmbedderFolder = Annotated[
    Path | None, typer.Option(help="Folder of a local model of embeddings, for --meaning.", rich_help_panel=HOW)
]
SplitSeed = Annotated[int, typer.Option(min=0, max=2**62 - 1, help="Of --contrast.", rich_help_panel=HOW)]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print the result as CSV.", rich_help_panel=SHOWN)]
Html = Annotated[Path | None, typer.Option(help="File to write a page of cards to.", rich_help_panel=SHOWN)]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace that file if it is there.", rich_help_panel=SHOWN)
]


def token(text: str, option: str) -> str | int:
    """``#123`` as the number of a token; anything else as its text.

    Raises:
        typer.BadParameter: the text is empty.
    """
    if not text:
        raise typer.BadParameter(f"an empty text after {option} is no token: give its text, or #NUMBER")
    number = text[:1] == "#" and text[1:].isdecimal() and text.isascii() and len(text) < 20
    return int(text[1:]) if number else text


def read_weight(text: str) -> tuple[str, float]:
    """``words=2`` as part and weight.

    Raises:
        typer.BadParameter: it has another form.
    """
    name, equals, number = text.partition("=")
    try:
        if not equals or not text.isascii() or "_" in number:
            raise ValueError
        return name, float(number)
    except ValueError:
        raise typer.BadParameter(f"--weight expects PART=NUMBER, such as words=2; got {text!r}") from None
