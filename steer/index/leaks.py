"""Labels without what an explainer said around them: headings of its prompt, announcements, its own thoughts."""

import re

_SUBJECT = r"(?:this|the) (?:neuron|feature|latent)(?:'s)?"
_LEAKS = tuple(
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        r"\A\s*<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)",  # a model's thoughts, cut off or not
        r"\A.*?</think(?:ing)?>",
        r"\A\s*```\w*\s*",
        r"\s*```\s*\Z",
        r"\A\s*#+[^\n]*(?:\n|\Z)",  # a heading
        r"\A\s*(?:sure|certainly|okay|ok|of course)\b[,!.]?\s*here(?:'s| is)[^:\n]*:\s*",
        r"\A\s*here(?:'s| is) (?:the|a|an|my) (?:\w+ )?(?:explanation|label|description|summary)[^:\n]*:\s*",
        r"\A\s*[*_\"]*(?:(?:final|short|brief|concise|neuron|feature|latent)\s+)?"
        r"(?:explanation|answer|description|label|summary|interpretation)"
        r"(?:\s+(?:of|for)\s+(?:the\s+|this\s+)?(?:neuron|feature|latent)[^:\n]{0,40})?[*_]*\s*:[*_\s]*",
        r"\A\s*(?:neuron|feature|latent)\s*#?\d+\s*:\s*",
        r"\A\s*(?:based on|looking at|given|analyzing|considering) [^,\n]{0,120}?"
        r"(?:activations?|tokens?|examples?|excerpts?|snippets?|documents?|logits?)[^,\n]{0,80},\s*",
        rf"\A\s*(?:it (?:seems|appears) that\s+)?(?:the main thing )?{_SUBJECT} (?:does is (?:to )?|is )?"
        r"(?:finds?|detects?|detecting|look(?:s|ing) for|activat(?:es|ing) (?:on|for|when)|"
        r"fir(?:es|ing) (?:on|for|when)|respond(?:s|ing) to|identif(?:ies|ying))\s+",
    )
)


def clean_label(raw: str) -> str:
    """A label without what leaked into it, on one line; empty where nothing is left.

    Only beginnings of known forms and fences are taken off, so a label that is fine stays as it is, up to spaces.
    """
    text, before = raw, None
    while text != before:
        before = text
        for leak in _LEAKS:
            text = leak.sub("", text, count=1)
    text = " ".join(text.split())
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'`*" and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return text
