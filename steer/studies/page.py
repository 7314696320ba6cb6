"""Reports as pages: one HTML file each, which loads nothing and runs no script but its own."""

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from steer.studies.text import visible


def render_page(
    template: Traversable, context: Mapping[str, Any], filters: Mapping[str, Callable[..., Any]] | None = None
) -> str:
    """A page. Whatever is not markup of the template itself is escaped by Jinja2.

    Args:
        template: it extends ``base.html`` and fills its blocks: ``title``, ``style`` (beside that of ``page.css``,
            which all pages have), ``main`` and at most one ``script``. That script, and no other, may run.
        context: everything that the template names.
        filters: what the template calls, by name.
    """
    folder, source = resources.files("steer.studies"), template.read_text(encoding="utf-8")
    script = re.search(r"<script>(.*?)</script>", source, re.DOTALL)
    digest = hashlib.sha256(script[1].encode() if script else b"").digest()
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=visible,
        loader=DictLoader({"base.html": folder.joinpath("base.html").read_text(encoding="utf-8")}),
    )
    environment.filters |= filters or {}
    style = Markup(folder.joinpath("page.css").read_text(encoding="utf-8"))
    return environment.from_string(source).render(context, style=style, script_digest=base64.b64encode(digest).decode())
