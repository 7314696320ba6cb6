"""One forward pass that begins with one row for each prompt and goes on with several.

A prompt that is to be steered in S ways is the same below the first site where something is done. There one row does
for all; at that site it becomes S rows, and the layers above run as for S prompts. The layers below are run once
instead of S times, with the same result.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from steer.models.hooks import Attachment, Hook, PreHook, first_of_all
from steer.models.layout import Layout
from steer.models.site import Site


@contextmanager
def widened(layout: Layout, attachments: Sequence[Attachment], rows: int, copies: int) -> Iterator[None]:
    """While the block runs, make ``copies`` rows of each of ``rows`` at the first site of the attachments.

    [a, b] becomes [a, a, b, b]. The edits there, and at all sites above, see the copies. Without edits the copies are
    made above the last layer.
    """
    if copies == 1:
        yield
        return
    sites = [site for one in attachments for site in one.edits] or [Site(len(layout.blocks) - 1)]
    site = min(sites, key=lambda site: site.order)
    layer = site.layer if site.part != "resid_post" else site.layer + 1

    def repeat(value: Any) -> Any:
        return repeated(value, rows, copies)

    def stream(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        return repeat(args), {name: repeat(value) for name, value in kwargs.items()}

    def around(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """The stream is wide already; what else a layer is given is not: masks, positions."""
        return args[:1] + repeat(args[1:]), {
            name: value if name == "hidden_states" else repeat(value) for name, value in kwargs.items()
        }

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return (repeat(output[0]), *output[1:]) if isinstance(output, tuple) else repeat(output)

    above = layout.blocks[layer:]
    pre: dict[nn.Module, PreHook] = dict.fromkeys(above, around)
    post: dict[nn.Module, Hook] = {}
    if site.part == "resid_post":
        post[layout.blocks[site.layer]] = after
    else:
        pre[above[0]] = stream
    with first_of_all(pre, post):
        yield


def repeated(value: Any, rows: int, copies: int) -> Any:
    """Tensors with a row for each of ``rows``, wherever they are in tuples and lists, with each row ``copies`` times.

    Tensors of one dimension (positions of the batch as a whole) and those with one row for all stay as they are.
    """
    if isinstance(value, Tensor):
        return value.repeat_interleave(copies, 0) if value.ndim > 1 and len(value) == rows else value
    if isinstance(value, tuple | list):
        return type(value)(repeated(one, rows, copies) for one in value)
    return value


def widen_cache(layers: Sequence[Any], rows: int, copies: int) -> None:
    """Give the layers of a KV cache that hold one row for each prompt, those below the site, a row for each copy."""
    for layer in layers:
        keys = getattr(layer, "keys", None)
        if isinstance(keys, Tensor) and keys.numel() and len(keys) == rows:
            layer.batch_repeat_interleave(copies)
