"""Token ids as text, exactly: from ids to the bytes of each token, and from the bytes to characters.

One token is not one string: an emoji or a Chinese character may lie in several tokens, each of which holds some of its
bytes. So bytes are joined before they are read as UTF-8, and the text of a window never depends on decoding it and
tokenising it again.
"""

import codecs
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "▁"  # how SentencePiece writes a space


class Renderer:
    """Renders token ids of one tokenizer.

    Byte-level BPE, SentencePiece with or without byte fallback, and tokenizers of words (which decode to words with a
    space between them) are known; of any other, a token's text is what it adds to the decoded text.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._added = {int(i): str(token) for i, token in getattr(tokenizer, "added_tokens_decoder", {}).items()}
        self._of, self._joined = _kind(tokenizer)
        self._known: dict[int, bytes] = {}

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for, without what stands between words; nothing for an id of no token."""
        if token_id not in self._known:
            self._known[token_id] = self._bytes(token_id)
        return self._known[token_id]

    def bytes_of(self, ids: Sequence[int]) -> list[bytes]:
        """The bytes of each token; joined, they are those of the text."""
        if self._of is None:
            return self._decoded(ids)
        found = [self.token_bytes(token) for token in ids]
        if self._joined is None:
            return found
        return [self._joined(token, place) for place, token in enumerate(found)]

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

    def _bytes(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id].encode("utf-8", "surrogatepass")
        if self._of is None:
            return self._decoded([token_id])[0]
        token = self._tokenizer.convert_ids_to_tokens(token_id)
        return self._of(token) if isinstance(token, str) else b""  # a model may have more embeddings than tokens

    def _decoded(self, ids: Sequence[int]) -> list[bytes]:
        """What each token adds to the decoded text of those before it."""
        found, before = [], ""
        for count in range(1, len(ids) + 1):
            text = self._tokenizer.decode(
                list(ids[:count]), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
            found.append(text[len(before) :].encode("utf-8", "replace") if text.startswith(before) else b"")
            before = text if text.startswith(before) else before
        return found


_Bytes = Callable[[str], bytes]
_Join = Callable[[bytes, int], bytes]


def _kind(tokenizer: Any) -> tuple[_Bytes | None, _Join | None]:
    """How a token's string becomes bytes, and how tokens are joined (None: one after another)."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        if hasattr(tokenizer, "byte_decoder"):
            return _byte_level, None
        return (_sentence_piece, None) if hasattr(tokenizer, "sp_model") else (None, None)
    rules = json.loads(fast.to_str())
    model, decoder = rules["model"].get("type"), json.dumps(rules.get("decoder"), ensure_ascii=False)
    if "ByteLevel" in decoder or "ByteLevel" in json.dumps(rules.get("pre_tokenizer")):
        return _byte_level, None
    if "ByteFallback" in decoder or "Metaspace" in decoder or _SPACE in decoder:
        return _sentence_piece, None
    if '"WordPiece"' in decoder:
        prefix = rules["decoder"].get("prefix", "##").encode()
        return str.encode, lambda token, place: _word_piece(token, place, prefix)
    if model in ("WordLevel", "WordPiece") and rules.get("decoder") is None:
        return str.encode, lambda token, place: b" " + token if place else token
    return None, None


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
