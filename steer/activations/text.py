"""Training text: JSON lines of conversations or plain documents."""

import gzip
import json
from importlib.resources import files
from pathlib import Path

from steer.errors import DataError
from steer.models.chat import as_conversation, render
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
    opener = gzip.open if path.suffix == ".gz" else open
    texts = []
    try:
        with opener(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    texts.append(_text(json.loads(line), lm, f"{path}, line {number}"))
    except (OSError, EOFError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read as JSON lines ({error}).") from error
    rows = [ids[: lm.context] for ids in lm.encode(texts) if len(ids) > 1]
    if not rows:
        raise DataError(f"{path} holds no text of at least two tokens.")
    return [list(ids) for ids in dict.fromkeys(map(tuple, rows))]


def _text(row: object, lm: LanguageModel, where: str) -> str:
    if isinstance(row, dict) and isinstance(row.get("messages"), list):
        try:
            return render(lm.tokenizer, as_conversation(row["messages"]), reply=False)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
    if isinstance(row, dict) and isinstance(row.get("text"), str):
        start = lm.tokenizer.bos_token or ""
        return row["text"] if row["text"].startswith(start) else start + row["text"]
    raise DataError(f'{where}: expected {{"messages": [...]}} or {{"text": ...}}.')
