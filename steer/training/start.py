"""SAEs that a run goes on from (``from_sae``) instead of new ones: loaded, and planned where they read."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from saes import SAE
from steer.checkpoints.load import load_sae
from steer.checkpoints.source import parse_source
from steer.errors import DataError, SiteError
from steer.models.site import Site
from steer.progress import Progress
from steer.training.config import OF_THE_SAE, TrainingConfig
from steer.training.plan import Origin, Plan, train_config


def load_starts(config: TrainingConfig, progress: Progress) -> tuple[SAE, ...]:
    """The SAEs that ``from_sae`` names; none where new ones are trained.

    Raises:
        DataError: a setting says something else of an SAE than it is; or it is on the hub, and that is not to be used.
        CheckpointError: there is no such SAE.
        SaesError: it cannot be read.
    """
    found = []
    for source in config.from_sae or ():
        if config.offline and not isinstance(parse_source(source), Path):
            raise DataError(
                f"{source} is read from the hub, and the network is not to be used (--offline). Give the path of files "
                "that you have."
            )
        with progress.stage(f"loading {source}"):
            found.append(load_sae(source, note=progress.note))
    for name in OF_THE_SAE if found else ():
        asked = getattr(config, name)
        if name in config.model_fields_set and asked is not None:
            _require_same(config, name, asked, found)
    return tuple(found)


def plan_from(config: TrainingConfig, origin: Origin, starts: tuple[SAE, ...]) -> Plan:
    """The SAEs that training goes on from, as those of what is read here.

    Raises:
        DataError: an SAE is of another width than the activations, does not say where it reads, or reads or writes
            somewhere else than was asked for; or several seeds are given.
        SiteError: a name is no site.
    """
    if len(config.seed) > 1:
        raise DataError(
            f"seed draws the weights of new SAEs, and from_sae names SAEs that have theirs: got {len(config.seed)} "
            "seeds. Give one, or none."
        )
    for source, sae in zip(config.from_sae or (), starts, strict=True):
        for width in (sae.config.d_in, sae.config.width_out):
            if width != origin.d_model:
                raise DataError(
                    f"{source} is an SAE of activations of width {width}, and {origin.model or 'the model'} has width "
                    f"{origin.d_model}. Give the model that it belongs to (--model)."
                )
        sae.config = replace(
            sae.config,
            model=origin.model,
            site=_site(source, "site", sae.config.site, config.site),
            site_out=_site(source, "site_out", sae.config.site_out, config.site_out),
            revision=origin.revision,
            token_policy=origin.token_policy,
        )
    _require_read(config, starts)
    names = tuple(f"sae-{number}" for number in range(len(starts))) if len(starts) > 1 else ("sae",)
    trains = tuple(train_config(config, config.seed[0]) for _ in starts)
    return Plan(names, tuple(sae.config for sae in starts), trains, starts)


def _site(source: str, name: str, own: str | None, asked: tuple[str, ...] | None) -> str | None:
    """Where an SAE reads, or writes: what it says, or where it says nothing what was asked for."""
    wanted = sorted({str(Site.parse(one)) for one in asked or ()})
    there = _parsed(own)
    if own is not None and there is None:
        if len(wanted) == 1:
            return wanted[0]
        raise DataError(
            f"{source} says of its {name} {own!r}, which is no name that is known here. Give the site that is meant, "
            f"such as --{name.replace('_', '-')} 1.resid_post."
        )
    if there is None and name == "site":
        if len(wanted) != 1:
            raise DataError(
                f"{source} does not say where in the model it reads, so one site must: got {len(wanted)}. Give --site, "
                "such as --site 1.resid_post."
            )
        return wanted[0]
    if wanted and there not in wanted:
        raise DataError(
            f"{name} is {', '.join(wanted)}, but {source} says {there or 'that it writes what it reads'}. An SAE goes "
            f"on where it has been: leave {name} out."
        )
    return there


def _parsed(name: str | None) -> str | None:
    """A site's name as it is written here; None where there is none, or another library's."""
    try:
        return None if name is None else str(Site.parse(name))
    except SiteError:
        return None


def _require_read(config: TrainingConfig, starts: tuple[SAE, ...]) -> None:
    """Raise DataError if a site was asked for at which no SAE goes on."""
    for name in ("site", "site_out"):
        asked = {str(Site.parse(one)) for one in getattr(config, name) or ()}
        if extra := sorted(asked - {getattr(sae.config, name) for sae in starts}):
            raise DataError(f"{name} names {extra[0]}, where none of the SAEs of from_sae has been. Leave it out.")


def _require_same(config: TrainingConfig, name: str, asked: Any, saes: list[SAE]) -> None:
    """Raise DataError unless what a setting says of an SAE is so."""
    values = asked if name in ("d_sae", "k") else (asked,)
    for source, sae in zip(config.from_sae or (), saes, strict=True):
        own = getattr(sae.config, name)
        meant = own[:-1] if name == "prefixes" and asked and asked[-1:] != own[-1:] else own  # d_sae need not be named
        if meant not in values:
            raise DataError(
                f"{name} is {_words(values)}, but {source} has {_words((own,))}. Training goes on from an SAE as it "
                f"is: leave {name} out, or leave from_sae out and train a new one."
            )


def _words(values: Any) -> str:
    return ", ".join("none" if one in (None, ()) else str(one) for one in values)
