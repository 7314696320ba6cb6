"""Token ids as text, exactly: from ids to the bytes of each token, and from the bytes to characters.

One token is not one string: an emoji or a Chinese character may lie in several tokens, each of which holds some of its
bytes. So bytes are joined before they are read as UTF-8, and the text of a window never depends on decoding it and
tokenising it again.
"""

import codecs
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Shaped

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "▁"  # how SentencePiece writes a space
_PLAIN, _WORDS, _PIECES, _DECODED = "plain", "words", "word pieces ", "decoded"


@dataclass(frozen=True)
class Renderer:
    """Renders token ids.

    Byte-level BPE, SentencePiece with or without byte fallback, and tokenizers of words (which decode to words with a
    space between them) are known; of any other, a token's text is what it adds to the decoded text.
    """

    token_bytes: Callable[[int], bytes]
    """The bytes that a token stands for, without what stands between words; nothing for an id of no token."""
    joining: str
    """How tokens are joined: ``plain``, ``words``, ``word pieces PREFIX``, or ``decoded`` (by the tokenizer alone)."""
    tokenizer: Any = None
    """What decodes, where tokens are joined by it."""

    @classmethod
    def of(cls, tokenizer: Any) -> "Renderer":
        """That of a tokenizer."""
        of, joining = _kind(tokenizer)
        added = {int(i): str(token) for i, token in getattr(tokenizer, "added_tokens_decoder", {}).items()}

        @cache
        def token_bytes(token_id: int) -> bytes:
            if token_id in added:
                return added[token_id].encode("utf-8", "surrogatepass")
            if of is None:
                return _decoded(tokenizer, [token_id])[0]
            token = tokenizer.convert_ids_to_tokens(token_id)
            return of(token) if isinstance(token, str) else b""  # a model may have more embeddings than tokens

        return cls(token_bytes, joining, tokenizer)

    @classmethod
    def of_table(
        cls, table: Shaped[np.ndarray, " byte"], offsets: Shaped[np.ndarray, " edge"], joining: str
    ) -> "Renderer":
        """That of a stored table, see ``table``. What only the tokenizer can join is shown token by token."""

        def token_bytes(token_id: int) -> bytes:
            if not 0 <= token_id < len(offsets) - 1:
                return b""
            return table[int(offsets[token_id]) : int(offsets[token_id + 1])].tobytes()

        return cls(token_bytes, joining)

    def table(self, vocabulary: int) -> tuple[Shaped[np.ndarray, " byte"], Shaped[np.ndarray, " edge"]]:
        """The bytes of all tokens one after another, and where each begins and the last ends."""
        every = [self.token_bytes(token) for token in range(vocabulary)]
        offsets = np.concatenate([[0], np.cumsum([len(one) for one in every])]).astype(np.uint32)
        return np.frombuffer(b"".join(every), dtype=np.uint8), offsets

    def bytes_of(self, ids: Sequence[int]) -> list[bytes]:
        """The bytes of each token; joined, they are those of the text."""
        if self.joining == _DECODED and self.tokenizer is not None:
            return _decoded(self.tokenizer, ids)
        found = [self.token_bytes(token) for token in ids]
        if self.joining == _WORDS:
            return [b" " + token if place else token for place, token in enumerate(found)]
        if self.joining.startswith(_PIECES):
            prefix = self.joining.removeprefix(_PIECES).encode()
            return [_word_piece(token, place, prefix) for place, token in enumerate(found)]
        return found

    def text(self, ids: Sequence[int]) -> str:
        """The text of tokens; bytes that are no UTF-8 are shown as the replacement character."""
        return b"".join(self.bytes_of(ids)).decode("utf-8", "replace")

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each token; joined, they are the text of all.

        A character that lies in several tokens is given to the one that completes it.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        found = [decoder.decode(token) for token in self.bytes_of(ids)]
        if found:
            found[-1] += decoder.decode(b"", final=True)
        return found


def _decoded(tokenizer: Any, ids: Sequence[int]) -> list[bytes]:
    """What each token adds to the decoded text of those before it."""
    found, before = [], ""
    for count in range(1, len(ids) + 1):
        text = tokenizer.decode(list(ids[:count]), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        longer = text.startswith(before)
        found.append(text[len(before) :].encode("utf-8", "replace") if longer else b"")
        before = text if longer else before
    return found


def _kind(tokenizer: Any) -> tuple[Callable[[str], bytes] | None, str]:
    """How a token's string becomes bytes (None: by decoding), and how tokens are joined."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        if hasattr(tokenizer, "byte_decoder"):
            return _byte_level, _PLAIN
        return (_sentence_piece, _PLAIN) if hasattr(tokenizer, "sp_model") else (None, _DECODED)
    rules = json.loads(fast.to_str())
    model, decoder = rules["model"].get("type"), json.dumps(rules.get("decoder"), ensure_ascii=False)
    if "ByteLevel" in decoder or "ByteLevel" in json.dumps(rules.get("pre_tokenizer")):
        return _byte_level, _PLAIN
    if "ByteFallback" in decoder or "Metaspace" in decoder or _SPACE in decoder:
        return _sentence_piece, _PLAIN
    if '"WordPiece"' in decoder:
        return str.encode, _PIECES + rules["decoder"].get("prefix", "##")
    if model in ("WordLevel", "WordPiece") and rules.get("decoder") is None:
        return str.encode, _WORDS
    return None, _DECODED


def _byte_level(token: str) -> bytes:
    """The bytes that the characters of a token of byte-level BPE stand for (GPT-2's table)."""
    try:
        return bytes(_TABLE[character] for character in token)
    except KeyError:
        return token.encode("utf-8", "surrogatepass")  # no character of the table: a token that stands for itself


def _sentence_piece(token: str) -> bytes:
    """The bytes of a token of SentencePiece: one byte by its number, or a text in which a mark stands for spaces."""
    if number := _BYTE.fullmatch(token):
        return bytes([int(number[1], 16)])
    return token.replace(_SPACE, " ").encode("utf-8", "surrogatepass")


def _word_piece(token: bytes, place: int, prefix: bytes) -> bytes:
    if place and token.startswith(prefix):
        return token[len(prefix) :]
    return b" " + token if place else token


def _byte_table() -> dict[str, int]:
    """GPT-2's characters for bytes: printable ones for themselves, the others from 256 on, in order."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + i): byte for i, byte in enumerate(others)}


_TABLE = _byte_table()
