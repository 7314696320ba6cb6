"""Text of models and files as it may be shown: nothing in it can move the cursor, change colours or hide other text."""

import unicodedata

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # control, format, half pairs, breaks of lines and paragraphs
_JOINERS = "\u200c\u200d"  # within words of some scripts, and within emoji


def visible(text: str, breaks: bool = False) -> str:
    r"""The text with what is not seen, or would steer a terminal, as escapes such as ``\x1b``.

    With ``breaks`` line breaks stay what they are; of a carriage return before one nothing is left.
    """
    text = text.replace("\r\n", "\n") if breaks else text
    return "".join(_one(character, breaks) for character in text)


def _one(character: str, breaks: bool) -> str:
    if unicodedata.category(character) not in _HIDDEN or character in _JOINERS or (breaks and character == "\n"):
        return character
    return character.encode("unicode_escape").decode("ascii")


def short(text: str, length: int = 60) -> str:
    """The text in one line of at most ``length`` characters."""
    one = " ".join(text.split())
    return one if len(one) <= length else one[: length - 3] + "..."
