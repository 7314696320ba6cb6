"""Digests by which settings, samples and prompts are known again."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any


def of_json(data: Any) -> str:
    """SHA-256 of JSON data; the order of keys does not matter."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def of_prompt(messages: Sequence[Mapping[str, object]]) -> str:
    """16 digits by which a prompt is known again, though it is written otherwise: SHA-256 of what the user says, in
    lower case and without punctuation.
    """
    said = " ".join(str(message["content"]) for message in messages if message["role"] == "user")
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", said).lower())
    return hashlib.sha256(" ".join(words).encode("utf-8", "replace")).hexdigest()[:16]
