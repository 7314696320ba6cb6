"""Plans on the Hugging Face hub: beside a model or an SAE, or in a repository of their own."""

from collections.abc import Callable
from pathlib import Path

from steer.checkpoints.card import MARK
from steer.checkpoints.hub import one_line
from steer.checkpoints.share import Upload
from steer.checkpoints.source import HubPlace, parse_hub, parse_source
from steer.errors import PlanError
from steer.plans.files import SUFFIXES, read_plan, vectors_file
from steer.plans.plan import SteeringPlan


def pull_plan(source: str, note: Callable[[str], None] | None = None) -> SteeringPlan:
    """A plan at ``hub:owner/name/plan.toml@revision``, of which the revision may be left out, with its vectors.

    Files come through the local cache, and from there alone with ``HF_HUB_OFFLINE=1``.

    Raises:
        PlanError: the hub or the cache does not have it, or it is no plan.
        CheckpointError: the source names no place on the hub.
    """
    place = parse_hub(source.removeprefix("hub:"))
    if not place.inside.endswith(SUFFIXES):
        raise PlanError(f"{source} names no plan: expected hub:owner/name/plan.toml, or .json.")
    if note:
        note(f"asking the hub for {place} ...")
    path = _download(place, place.inside, place.revision)
    if (vectors := vectors_file(path)) is not None:
        commit = path.parts[len(path.parts) - len(Path(place.inside).parts) - 1]  # both files are of one commit
        _download(place, Path(place.inside).with_name(vectors).as_posix(), commit)
    return read_plan(path)


def _download(place: HubPlace, name: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(place.repo, name, revision=revision))
    except Exception as error:  # network, server, cache and client raise errors of many kinds
        raise PlanError(
            f"{name} of {place.repo} is not to be had ({one_line(error)}). Check the name, the network and HF_TOKEN."
        ) from error


def plan_upload(path: str | Path, target: str, revision: str | None = None) -> Upload:
    """What pushing a plan to ``owner/name[/folder]`` would send; ``steer.checkpoints.share.push`` sends it.

    Raises:
        PlanError: the file is no plan, or names an SAE by a path, which others do not have.
        CheckpointError: the target is no place on the hub.
    """
    path = Path(path)
    plan, place = read_plan(path), parse_hub(target.removeprefix("hub:"), revision)
    for name, sae in plan.saes.items():
        if isinstance(parse_source(sae.source), Path):
            raise PlanError(
                f"The SAE {name!r} is at the path {sae.source}, which those who get the plan do not have. Push it with "
                "steer sae push, and name it hub:owner/name/folder in the plan."
            )
    names = [path.name, *([vectors] if (vectors := vectors_file(path)) is not None else [])]
    prefix = f"{place.inside}/" if place.inside else ""
    files = {prefix + name: path.with_name(name) for name in names}
    return Upload(place, files, _card(plan, place, path.name), own_card=False, what=f"steering plan {path.name}")


def _card(plan: SteeringPlan, place: HubPlace, name: str) -> str:
    """The text of a card, where the repository has none."""
    import yaml

    head = {"library_name": "saesteer", "tags": ["steering", "interpretability", "saesteer"]}
    head |= {"license": plan.licence} if plan.licence else {}
    at = HubPlace(place.repo, f"{place.inside}/{name}".removeprefix("/"), place.revision)
    about = f"A steering plan for {plan.model.name or 'language models'}: {len(plan.edits)} edits."
    return (
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n\n{MARK}\n\n# {plan.label or name}\n\n"
        f'{about} Digest: `{plan.digest}`.\n\n```sh\nsteer generate --plan {at} "..."\n```\n'
    )
