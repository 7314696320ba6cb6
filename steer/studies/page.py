"""Reports as pages: one HTML file each, which loads nothing and runs no script but its own."""

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from steer.studies.text import visible


def render_page(template: str, filters: Mapping[str, Callable[..., Any]], context: Mapping[str, Any]) -> str:
    """A page. Whatever is not markup of the template itself is escaped by Jinja2.

    Args:
        template: its source, with at most one script; ``{{ style }}`` is what all pages look like, ``{{ script_digest
            }}`` lets its script, and no other, run.
        filters: what the template calls, by name.
        context: everything else that it names.
    """
    script = re.search(r"<script>(.*?)</script>", template, re.DOTALL)
    digest = hashlib.sha256(script[1].encode() if script else b"").digest()
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=visible
    )
    environment.filters |= filters
    style = Markup(resources.files("steer.studies").joinpath("page.css").read_text(encoding="utf-8"))
    return environment.from_string(template).render(
        context, style=style, script_digest=base64.b64encode(digest).decode()
    )
