"""The text of a reply as judges by rules read it."""

import re
import unicodedata

_REASONING = re.compile(r"\A\s*<(think|thinking|reasoning)>.*?</\1>", re.DOTALL)
_MARKS = re.compile(r"[*_`#>~|]+")
_BARE = re.compile(r"\b(ca|wo|do|does|did|is|are|could|would|should)nt\b")
_IM = re.compile(r"\bim(?= (not|sorry|unable|afraid|going)\b)")
_RULER = re.compile(r"([-=.])\1{3,}")
_END = re.compile(r"(?<=[.!?])[\"')]* +")


def normalise(text: str) -> str:
    """Lower case, plain quotes, single spaces."""
    text = plain_quotes(unicodedata.normalize("NFKC", text)).lower()
    return re.sub(r"\s+", " ", text).strip()


def plain_quotes(text: str) -> str:
    """Typographic apostrophes as plain ones: "I’m" and "I'm" are the same words."""
    return text.replace("’", "'").replace("‘", "'")


def plain(reply: str) -> str:
    """What a reply says to its reader, as normalised text: no reasoning block before it, no marks of Markdown.

    Apostrophes that were left out are put in: "i cant" and "I can't" are the same words.
    """
    spoken = _REASONING.sub("", reply).replace("“", '"').replace("”", '"')
    text = normalise(_RULER.sub(" ", _MARKS.sub(" ", spoken)))
    return _IM.sub("i'm", _BARE.sub(r"\1n't", text))


def sentences(text: str) -> tuple[str, ...]:
    """The sentences of normalised text; a number or an abbreviation with a full stop may end one too early."""
    return tuple(one for one in _END.split(text) if one)
