"""Training text of the demo: all of a JSON-lines file, tokenised, in memory."""

from importlib.resources import files
from pathlib import Path

from steer.activations.sources import jsonl
from steer.activations.sources.raw import line_at
from steer.activations.sources.source import COLUMNS, Document
from steer.errors import DataError
from steer.models.chat import render
from steer.models.model import LanguageModel


def embedded_corpus() -> Path:
    """The sample of the embedded model's training text that ships with the package."""
    return Path(str(files("steer") / "embedded" / "corpus.jsonl.gz"))


def read_texts(path: str | Path, lm: LanguageModel) -> list[list[int]]:
    """Token ids of every line of a JSON-lines file (``.gz`` or not): ``{"messages": [...]}`` or ``{"text": ...}``.

    Conversations are rendered by the model's chat template, replies included; documents begin with the token that
    begins a sequence, where the model has one. Texts are cut at the model's context, and equal ones are read once.

    Raises:
        DataError: the file is missing, empty, damaged, or a line has neither field.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"No text at {path}: there is no such file.")
    texts = []
    for document, after in jsonl.read(path, 0, COLUMNS):
        try:
            texts.append(_text(document, lm))
        except DataError as error:
            raise DataError(f"{path}, line {line_at(path, after) - 1}: {error}") from error
    rows = [ids[: lm.context] for ids in lm.encode(texts) if len(ids) > 1]
    if not rows:
        raise DataError(f"{path} holds no text of at least two tokens.")
    return [list(ids) for ids in dict.fromkeys(map(tuple, rows))]


def _text(document: Document, lm: LanguageModel) -> str:
    if not isinstance(document, str):
        return render(lm.tokenizer, document, reply=False)
    start = lm.tokenizer.bos_token or ""
    return document if document.startswith(start) else start + document
