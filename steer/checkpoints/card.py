"""The model card of a shared SAE: what it is, its settings, its figures, and how it is loaded."""

from collections.abc import Mapping
from typing import Any

from steer.checkpoints.describe import flat
from steer.checkpoints.source import HubPlace

MARK = "<!-- written by `steer sae push`; the next push replaces this card unless this line is removed -->"
_LABELS = {
    "tokens": "tokens of training",
    "fvu": "fraction of variance unexplained (FVU)",
    "l0": "latents active on a token (L0)",
    "dead_fraction": "share of dead latents",
    "loss": "training loss",
    "seconds": "seconds of training",
}


def card(described: Mapping[str, Any], place: HubPlace, license: str | None = None) -> str:
    """The card's text, as Markdown with a YAML head. ``described`` is what ``describe.describe`` gives."""
    config = described["config"]
    parts = [
        f"---\n{_head(described, license)}---\n\n{MARK}",
        f"# {_title(config, place)}\n\n{_sentence(described)}",
        "## Settings\n\n"
        + _table("setting", {name: value for name, value in config.items() if value not in (None, ())}),
        "## Weights\n\n" + _table("", _weights(described["weights"])),
    ]
    if described["training"]:
        figures = {_LABELS.get(name, name): value for name, value in flat(described["training"]).items()}
        parts.append(
            "## Training\n\nAs recorded when training ended, on its own batches.\n\n" + _table("figure", figures)
        )
    parts.append("## How to load it\n\n" + _loading(described["format"], place))
    return "\n\n".join(parts) + "\n"


def _head(described: Mapping[str, Any], license: str | None) -> str:
    import yaml

    config, theirs = described["config"], described["format"] == "saelens"
    head: dict[str, Any] = {
        "library_name": "saelens" if theirs else "saesteer",
        "tags": ["sparse-autoencoder", "interpretability", *(["saelens"] if theirs else []), "saesteer"],
    }
    if _is_hub_id(config["model"]):
        head["base_model"] = config["model"]
    if license is not None:
        head["license"] = license
    return yaml.safe_dump(head, sort_keys=False, allow_unicode=True)


def _is_hub_id(model: str | None) -> bool:
    return model is not None and model.count("/") == 1 and not model.startswith((".", "/", "~"))


def _title(config: Mapping[str, Any], place: HubPlace) -> str:
    name = place.inside or place.repo.split("/")[1]
    return f"{name}: a {'transcoder' if config['site_out'] else 'sparse autoencoder'}"


def _sentence(described: Mapping[str, Any]) -> str:
    config = described["config"]
    kind = "A transcoder" if config["site_out"] else "A sparse autoencoder"
    selected = {
        "topk": f"the {config['k']} strongest are active on each token",
        "batch_topk": f"those above one threshold are active, {config['k']} on average",
        "jumprelu": "each is active above a threshold of its own (JumpReLU)",
        "relu": "those that are positive are active (ReLU)",
    }[config["activation"]]
    where = f" at `{config['site']}`" if config["site"] else ""
    where += f" of `{config['model']}`" if config["model"] else ""
    writes = f" and writes `{config['site_out']}`" if config["site_out"] else ""
    return (
        f"{kind} with {config['d_sae']:,} latents. It reads activations of width {config['d_in']:,}{where}{writes}; "
        f"of its latents, {selected}. Stored in the format `{described['format']}`."
    )


def _weights(weights: Mapping[str, Any]) -> dict[str, Any]:
    ranges = {"norm of decoder rows": "decoder_norms", "norm of encoder columns": "encoder_norms"}
    ranges |= {"threshold": "threshold"} if "threshold" in weights else {}
    rows: dict[str, Any] = {
        label: "{min:.4g} to {max:.4g}, mean {mean:.4g}".format(**weights[key]) for label, key in ranges.items()
    }
    return rows | {"latents with a direction of almost no length": weights["dead_looking"]}


def _table(title: str, rows: Mapping[str, Any]) -> str:
    lines = [f"| {_cell(name)} | {_cell(_number(value))} |" for name, value in rows.items()]
    return "\n".join([f"| {title} | |", "|---|---|", *lines])


def _number(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _loading(format: str, place: HubPlace) -> str:
    ways = [f'```python\nimport steer\nsae = steer.load_sae("{place}")\n```']
    if format == "saelens":
        at = "" if place.revision in (None, "main") else f', revision="{place.revision}"'
        if place.inside and not at:
            theirs = f'from sae_lens import SAE\nsae = SAE.from_pretrained("{place.repo}", "{place.inside}")'
        else:  # from_pretrained knows neither the root of a repository nor a revision
            inside = f' + "/{place.inside}"' if place.inside else ""
            theirs = (
                "from huggingface_hub import snapshot_download\nfrom sae_lens import SAE\n"
                f'sae = SAE.load_from_disk(snapshot_download("{place.repo}"{at}){inside})'
            )
        ways.append(f"With SAELens:\n\n```python\n{theirs}\n```")
    return "\n\n".join(ways)
