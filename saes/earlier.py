"""Settings of training runs that an earlier release began, in today's words."""

from typing import Any

from saes.optimisers import OPTIMISERS
from saes.schedule import default_lr

VERSION = 3
"""Of ``run.json``. Up to 1, Adam's beta2 was 0.999 and the default learning rate that of a long run. Up to 2, ``about``
held ``repeat`` (of ``steer train``), which is compared no more."""


def as_today(settings: Any) -> Any:
    """What a ``run.json`` says, with the numbers that were defaults in its time; what is no such file as it is.

    So a run is never gone on with under other settings than it began with: where today's defaults are others, they
    differ from these numbers, and who gives these numbers goes on exactly.
    """
    try:
        if settings["version"] not in (1, 2):
            return settings
        if isinstance(settings.get("about"), dict):
            settings = {**settings, "about": {name: one for name, one in settings["about"].items() if name != "repeat"}}
        if settings["version"] == 2:
            return {**settings, "version": VERSION}
        saes = [{**one, "train": _train(one["config"], one["train"])} for one in settings["saes"]]
        about = settings.get("about")
        if isinstance(about, dict) and "lr" in about:  # the caller's own record of these settings, where it keeps one
            settings = {**settings, "about": about | _common([one["train"] for one in saes])}
    except (KeyError, TypeError):
        return settings
    return {**settings, "version": VERSION, "saes": saes}


def _train(config: dict[str, Any], train: dict[str, Any]) -> dict[str, Any]:
    optimiser, lr = OPTIMISERS[train["optimiser"]], train["lr"]
    if lr is None:
        lr = default_lr(config["d_sae"], optimiser.LONG_STEPS, optimiser.LR, optimiser.LONG_STEPS)
    return {**train, "lr": lr, "adam_beta2": 0.999}


def _common(trains: list[dict[str, Any]]) -> dict[str, Any]:
    """Of these two settings, those that all SAEs share."""
    values = {name: {one[name] for one in trains} for name in ("lr", "adam_beta2")}
    return {name: found.pop() for name, found in values.items() if len(found) == 1}
