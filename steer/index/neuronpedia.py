"""Labels from and to Neuronpedia's public export files: JSON lines, packed with gzip, an explanation a line."""

import gzip
import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steer.activations.sources.raw import opened
from steer.errors import DataError
from steer.files import write_bytes
from steer.index.labels import Label
from steer.index.leaks import clean_label
from steer.index.read import FeatureIndex

_SKIPPED = ("embedding", "umapX", "umapY", "umap_x", "umap_y", "umapCluster")  # large, and of no use here
_READ = ("index", "description", "explanationModelName", "typeName", "scores", "rawDescription")
UNKNOWN = "unknown"
RAW = "rawDescription"
"""A field of our own beside Neuronpedia's: the text before it was cleaned."""


@dataclass(frozen=True)
class Imported:
    """What files of labels hold."""

    labels: tuple[Label, ...]
    empty: int
    """Lines without an explanation."""
    cleaned: int
    """Labels that an explainer's own words were taken off."""


def read_labels(paths: Sequence[str | Path], layer: str | None = None) -> Imported:
    """Labels of export files; ``layer`` takes those of one of Neuronpedia's layers only, such as ``6-res-jb``.

    A label whose text is cleaned keeps the raw one; one of which nothing would be left stays as it came.

    Raises:
        DataError: a file cannot be read, a line is not of this form, or the files hold labels of several SAEs.
    """
    labels, sets = [], set()
    empty = cleaned = 0
    for path in map(Path, paths):
        for number, row in _rows(path):
            if layer is not None and row.get("layer") != layer:
                continue
            label = _label(row, f"{path}, line {number}")
            if label is None:
                empty += 1
                continue
            sets.add((str(row.get("modelId")), str(row.get("layer"))))
            cleaned += label.raw is not None
            labels.append(label)
    if len(sets) > 1:
        names = ", ".join(sorted("/".join(one) for one in sets)[:4])
        raise DataError(f"The labels are of {len(sets)} SAEs: {names}. Give the files of one, or name it by --layer.")
    if not labels:
        raise DataError(f"{', '.join(map(str, paths))}: no labels there{f' of layer {layer}' if layer else ''}.")
    return Imported(tuple(labels), empty, cleaned)


def write_labels(index: FeatureIndex, path: str | Path, model: str | None = None, layer: str | None = None) -> int:
    """Write all labels of an index in the same form, atomically; returns how many.

    ``model`` and ``layer`` are Neuronpedia's names; None: those that a label came with, else the index's own.

    Raises:
        DataError: the index has no labels.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    of_model, of_sae = (index.provenance.get(name, {}) for name in ("model", "sae"))
    own = (of_model.get("name") or UNKNOWN, of_sae.get("site") or UNKNOWN)
    rows = [_row(label, model, layer, own) for label in index.all_labels()]
    if not rows:
        raise DataError(f"The index {index.folder} has no labels to export. Import some, or add them in Python.")
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "backslashreplace")
    write_bytes(path, _packed(text) if path.suffix == ".gz" else text)
    return len(rows)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if not path.is_file():
        raise DataError(f"No labels at {path}: there is no such file.")
    with opened(path, 0) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line, parse_constant=lambda _: None)  # NaN and infinity are no figures
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}, line {number}: not JSON ({error}).") from error
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}: expected a JSON object, got {type(row).__name__}.")
            yield number, row


def _label(row: dict[str, Any], where: str) -> Label | None:
    """The label of a line; None where it has no text."""
    raw = row.get("description")
    if raw is None or (isinstance(raw, str) and not raw.strip()):
        return None
    latent = row.get("index")
    if isinstance(latent, str) and latent.isascii() and latent.isdigit() and len(latent) < 20:
        latent = int(latent)
    if not isinstance(raw, str) or not isinstance(latent, int) or isinstance(latent, bool):
        raise DataError(
            f"{where}: expected a number as index and a text as description, got {latent!r:.40} and {raw!r:.40}. Give "
            "files of explanations that Neuronpedia exports."
        )
    text = clean_label(raw)
    return Label(
        latent=latent,
        text=text or raw.strip(),
        made_by=str(row.get("explanationModelName") or row.get("authorId") or UNKNOWN),
        kind=row.get("typeName") if isinstance(row.get("typeName"), str) else None,
        raw=row[RAW] if isinstance(row.get(RAW), str) else raw if text and text != raw else None,
        scores=_scores(row.get("scores")),
        more={name: value for name, value in row.items() if name not in (*_READ, *_SKIPPED) and value is not None},
    )


def _scores(given: object) -> dict[str, float]:
    """Scores by the name of their kind, from a list of Neuronpedia's, or as ``write_labels`` writes them."""
    if isinstance(given, dict):
        given = [{"explanationScoreTypeName": name, "value": value} for name, value in given.items()]
    if not isinstance(given, Iterable) or isinstance(given, str):
        return {}
    rows = [one for one in given if isinstance(one, dict) and _is_figure(one.get("value"))]
    return {str(one.get("explanationScoreTypeName") or UNKNOWN): float(one["value"]) for one in rows}


def _is_figure(value: object) -> bool:
    """Whether it is a number that JSON and a float can hold."""
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def _row(label: Label, model: str | None, layer: str | None, own: tuple[str, str]) -> dict[str, Any]:
    scores = [{"explanationScoreTypeName": name, "value": value} for name, value in label.scores.items()]
    return {
        **label.more,
        "modelId": model or label.more.get("modelId") or own[0],
        "layer": layer or label.more.get("layer") or own[1],
        "index": str(label.latent),
        "description": label.text,
        **({} if label.raw is None else {RAW: label.raw}),
        "explanationModelName": label.made_by,
        "typeName": label.kind,
        **({"scores": scores} if scores else {}),
    }


def _packed(data: bytes) -> bytes:
    """With gzip, without a time: equal labels give equal files."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as file:
        file.write(data)
    return buffer.getvalue()
