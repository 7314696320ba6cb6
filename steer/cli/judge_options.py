"""Options of the commands that judge replies, and the judge they make."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli.interrupts import importing
from steer.cli.options import DtypeName

if TYPE_CHECKING:
    from steer.judges.verdict import Judge

JUDGES = "Who judges"

Name = Annotated[
    str,
    typer.Option(
        "--judge",
        help="`rules`, `prefix`, `substring`, `either`, or a model: `wildguard`, `harmbench`, `strongreject:MODEL`, "
        "`yes-no:MODEL`, `three-class:MODEL`, `classifier:MODEL`, `endpoint:MODEL`.",
        rich_help_panel=JUDGES,
    ),
]
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        help="OpenAI-compatible endpoint of the judge, up to /v1; its key is taken from STEER_JUDGE_KEY.",
        rich_help_panel=JUDGES,
        show_default=False,
    ),
]
Question = Annotated[
    str,
    typer.Option("--question", help="What `endpoint:MODEL` is asked: the name of a judge.", rich_help_panel=JUDGES),
]
Template = Annotated[
    Path | None,
    typer.Option(
        "--judge-template",
        help="File of the judge's prompt, with {prompt} and {reply}.",
        rich_help_panel=JUDGES,
        show_default=False,
    ),
]
Raw = Annotated[
    bool,
    typer.Option("--judge-raw", help="The judge reads its prompt without a chat template.", rich_help_panel=JUDGES),
]
Verdicts = Annotated[
    list[str] | None,
    typer.Option(
        "--verdict",
        help="What a label of a classifier, or yes or no, means; may be repeated.",
        metavar="LABEL=VERDICT",
        rich_help_panel=JUDGES,
        show_default=False,
    ),
]
AnswerTokens = Annotated[
    int | None,
    typer.Option(
        "--judge-tokens",
        help="Longest answer of the judge, in tokens.",
        min=1,
        rich_help_panel=JUDGES,
        show_default=False,
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--judge-timeout",
        help="Seconds that are waited for one answer of an endpoint; else 60.",
        rich_help_panel=JUDGES,
        show_default=False,
    ),
]
Keep = Annotated[
    Path | None,
    typer.Option(
        "--judgements",
        help="Folder in which a model's judgements are kept and found again.",
        rich_help_panel=JUDGES,
        show_default=False,
    ),
]
Offline = Annotated[
    bool,
    typer.Option("--offline", help="Take the judge from the local cache alone.", rich_help_panel=JUDGES),
]


def judge_given(given: Mapping[str, Any]) -> "Judge":
    """The judge that a command's options, as they are called there, name; its other options do not matter."""
    return judge_from(**{name: given[name] for name in signature(judge_from).parameters if name in given})


def judge_from(
    judge: str,
    url: str | None = None,
    question: str = "three-class",
    judge_template: Path | None = None,
    judge_raw: bool = False,
    verdict: Sequence[str] | None = None,
    judge_tokens: int | None = None,
    judge_timeout: float | None = None,
    judgements: Path | None = None,
    device: str = "auto",
    dtype: DtypeName = DtypeName.auto,
    offline: bool = False,
) -> "Judge":
    """The judge that the options name. The endpoint's key comes from the environment alone.

    Raises:
        typer.BadParameter: a verdict is not written as LABEL=VERDICT, or an option means nothing to the judge.
        SteerError: see ``steer.judges.models.judge_of``.
    """
    from steer.judges import JUDGES

    if judge in JUDGES:
        given: dict[str, Any] = {
            "--url": url,
            "--judge-template": judge_template,
            "--judge-raw": judge_raw,
            "--verdict": verdict,
        }
        given |= {"--judge-tokens": judge_tokens, "--judge-timeout": judge_timeout, "--judgements": judgements}
        for option, value in given.items():
            if value:
                raise typer.BadParameter(f"{option} is for judges that are models, and {judge} is none: leave it out")
        return JUDGES[judge]()
    if judge_timeout is not None and url is None:
        raise typer.BadParameter("--judge-timeout is for endpoints: give the judge's with --url, or leave it out")
    with importing():  # a model takes its time
        from steer.cli.console import import_transformers
        from steer.judges.completions import KEY_VARIABLE
        from steer.judges.models import JudgeOptions, judge_of

        import_transformers()
    options = JudgeOptions(
        url=url,
        question=question,
        template=judge_template,
        raw=judge_raw,
        verdicts=_pairs(verdict or ()),
        max_new_tokens=judge_tokens,
        keep=judgements,
        device=device,
        dtype=dtype.value,
        offline=offline,
        key=os.environ.get(KEY_VARIABLE, "").strip(),
        note=lambda text: typer.echo(text, err=True),
    )
    return judge_of(judge, options if judge_timeout is None else replace(options, timeout_s=judge_timeout))


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    """``LABEL=VERDICT`` as a dict; a label may hold an equals sign."""
    found: dict[str, str] = {}
    for text in texts:
        label, equals, verdict = text.rpartition("=")
        if not equals or not label or label in found:
            what = "is given twice" if label in found else "is no pair"
            raise typer.BadParameter(f"--verdict {text!r} {what}: write LABEL=VERDICT, such as yes=full_refusal")
        found[label] = verdict
    return found
