"""Options of the commands that judge replies, and the judge they make."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli.interrupts import importing
from steer.cli.options import DtypeName

if TYPE_CHECKING:
    from steer.judges.verdict import Judge

JUDGES = "Who judges"


def _option(name: str, told: str, **settings: Any) -> Any:
    return typer.Option(name, help=told, rich_help_panel=JUDGES, show_default=False, **settings)


Name = Annotated[
    str,
    typer.Option(
        "--judge",
        help="`rules`, `prefix`, `substring`, `either`, or a model: `wildguard`, `harmbench`, `strongreject:MODEL`, "
        "`yes-no:MODEL`, `three-class:MODEL`, `classifier:MODEL`, `endpoint:MODEL`.",
        rich_help_panel=JUDGES,
    ),
]
Offline = Annotated[bool, _option("--offline", "Take the judge from the local cache alone.")]


@dataclass(frozen=True)
class JudgeAsked:
    """How a judge that is a model is reached and asked; its name, device and dtype stand beside it in each command."""

    url: Annotated[
        str | None,
        _option("--url", "OpenAI-compatible endpoint of the judge, up to /v1; its key is taken from STEER_JUDGE_KEY."),
    ] = None
    question: Annotated[
        str,
        typer.Option("--question", help="What `endpoint:MODEL` is asked: the name of a judge.", rich_help_panel=JUDGES),
    ] = "three-class"
    judge_template: Annotated[
        Path | None, _option("--judge-template", "File of the judge's prompt, with {prompt} and {reply}.")
    ] = None
    judge_raw: Annotated[bool, _option("--judge-raw", "The judge reads its prompt without a chat template.")] = False
    verdict: Annotated[
        list[str] | None,
        _option(
            "--verdict",
            "What a label of a classifier, or yes or no, means; may be repeated.",
            metavar="LABEL=VERDICT",
        ),
    ] = None
    judge_tokens: Annotated[int | None, _option("--judge-tokens", "Longest answer of the judge, in tokens.", min=1)] = (
        None
    )
    judge_timeout: Annotated[
        float | None,
        _option("--judge-timeout", "Seconds that are waited for one answer of an endpoint; else 60."),
    ] = None
    judgements: Annotated[
        Path | None, _option("--judgements", "Folder in which a model's judgements are kept and found again.")
    ] = None


def judge_from(
    name: str,
    asked: JudgeAsked | None = None,
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

    asked = asked or JudgeAsked()
    if name in JUDGES:
        _check_none(name, asked)
        return JUDGES[name]()
    if asked.judge_timeout is not None and asked.url is None:
        raise typer.BadParameter("--judge-timeout is for endpoints: give the judge's with --url, or leave it out")
    with importing():  # a model takes its time
        from steer.cli.console import import_transformers
        from steer.judges.completions import KEY_VARIABLE
        from steer.judges.models import JudgeOptions, judge_of

        import_transformers()
    options = JudgeOptions(
        url=asked.url,
        question=asked.question,
        template=asked.judge_template,
        raw=asked.judge_raw,
        verdicts=_pairs(asked.verdict or ()),
        max_new_tokens=asked.judge_tokens,
        keep=asked.judgements,
        device=device,
        dtype=dtype.value,
        offline=offline,
        key=os.environ.get(KEY_VARIABLE, "").strip(),
        note=lambda text: typer.echo(text, err=True),
    )
    return judge_of(name, options if asked.judge_timeout is None else replace(options, timeout_s=asked.judge_timeout))


def _check_none(name: str, asked: JudgeAsked) -> None:
    """Refuse options of models beside a judge that is none."""
    given = {
        "--url": asked.url,
        "--judge-template": asked.judge_template,
        "--judge-raw": asked.judge_raw,
        "--verdict": asked.verdict,
        "--judge-tokens": asked.judge_tokens,
        "--judge-timeout": asked.judge_timeout,
        "--judgements": asked.judgements,
    }
    for option, value in given.items():
        if value:
            raise typer.BadParameter(f"{option} is for judges that are models, and {name} is none: leave it out")


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
