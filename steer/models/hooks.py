"""The only place that registers hooks: edits and readers attached to a model's sites, always taken off again."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from steer.errors import SiteError
from steer.models.layout import Layout
from steer.models.passes import Memory, Pass, Rows, describe
from steer.models.site import Site

Edit = Callable[[Float[Tensor, "batch seq d_model"], Pass], Tensor]
"""A pure function of a site's activations and of the pass: it returns a new tensor and changes nothing in place."""


Hook = Callable[[nn.Module, tuple[Any, ...], Any], Any]
PreHook = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], tuple[Any, Any]]


class Attachment:
    """Edits attached to a model. Use it as a context manager, or keep it and call ``remove``."""

    def __init__(self, layout: Layout) -> None:
        self.edits: dict[Site, Edit] = {}
        """What is done at each site."""
        self.fired: dict[Site, int] = {}
        """How often each site was reached."""
        self.passes = 0
        """Forward passes seen to their end; one that was stopped early tells nothing about the sites above."""
        self.rows: Rows | None = None
        """What the caller says of the rows of the next pass."""
        self.on_call: Callable[[Rows], None] | None = None
        """Told of the rows of each call of a LanguageModel, before its first pass."""
        self._layout = layout
        self._current: Pass | None = None
        self._memory: Memory = {}
        """What interventions keep during a call of which the caller says nothing."""
        self._handles: list[RemovableHandle | WrappedForward] = []
        self._names: list[str] = []
        """Of what the root module takes."""

    def add(self, edits: Mapping[Site, Edit]) -> "Attachment":
        """Register everything; if one registration fails, none stays."""
        try:
            root = self._layout.root
            self._names = list(inspect.signature(root.forward).parameters)
            if calls_its_own_forward(root):
                self._handles.append(WrappedForward(root, self._before, self._after))
            else:
                self._handles.append(root.register_forward_pre_hook(self._before, with_kwargs=True))
                self._handles.append(root.register_forward_hook(self._after, always_call=True))
            for site, edit in edits.items():
                self.edits[site], self.fired[site] = edit, 0
                self._handles.append(self._register(site, edit))
        except BaseException:
            self.remove()
            raise
        return self

    def remove(self) -> None:
        """Take every hook off. Calling it again does nothing."""
        while self._handles:
            self._handles.pop().remove()

    def __enter__(self) -> "Attachment":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.remove()
        if kind is None:
            self.check_fired()

    def check_fired(self) -> None:
        """Raise SiteError if the model ran and some site was never reached: its edit did nothing."""
        silent = [str(site) for site, count in self.fired.items() if count == 0]
        if self.passes and silent:
            raise SiteError(
                f"The model ran {self.passes} forward passes, but no activation came by at {', '.join(silent)}: "
                "the edit there did nothing. Check that the hooks are attached to the model that was run."
            )

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = {**dict(zip(self._names, args, strict=False)), **kwargs} if args else kwargs
        self._current = describe(given, self.rows, self._memory)

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._current = None
        self.passes += output is not None  # None: the pass ended in an exception

    def _register(self, site: Site, edit: Edit) -> RemovableHandle:
        """Hook one site. A function of its own, so that each closure has its own ``site`` and ``edit``."""

        def apply(x: Tensor) -> Tensor:
            if self._current is None:
                raise SiteError(f"{site} was reached outside a forward pass of the whole model.")
            self.fired[site] += 1
            return edit(x, self._current)

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            if isinstance(output, tuple):
                return (apply(output[0]), *output[1:])
            return apply(output)

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
            if args:
                return (apply(args[0]), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": apply(kwargs["hidden_states"])}

        module = self._layout.module(site)
        if site.part == "resid_pre":
            return module.register_forward_pre_hook(before, with_kwargs=True)
        return module.register_forward_hook(after)


class WrappedForward:
    """Hooks around a root module's ``forward`` that is also called by itself, where module hooks would miss it."""

    def __init__(self, root: nn.Module, before: Callable[..., None], after: Callable[..., None]) -> None:
        forward = root.forward

        @wraps(forward)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if self._removed:  # beneath a wrapper that is still on
                return forward(*args, **kwargs)
            before(root, args, kwargs)
            output = None
            try:
                output = forward(*args, **kwargs)
                return output
            finally:
                after(root, args, output)

        self._root, self._forward, self._wrapped, self._removed = root, forward, wrapped, False
        root.forward = wrapped

    def remove(self) -> None:
        """Take it off; one that is beneath another does nothing from now on."""
        self._removed = True
        if self._root.__dict__.get("forward") is self._wrapped:
            del self._root.forward
            if getattr(self._root.forward, "__func__", None) is not getattr(self._forward, "__func__", self._forward):
                self._root.forward = self._forward  # another's, that was there before


def calls_its_own_forward(root: nn.Module) -> bool:
    """Whether a model's ``generate`` calls ``forward`` past its hooks, as that of a HookedTransformer does."""
    return any(kind.__name__ == "HookedTransformer" for kind in type(root).__mro__)


def attached(layout: Layout, edits: Mapping[Site, Edit]) -> Attachment:
    """Attach ``edits`` to a model, for the length of a ``with`` block or until ``remove`` is called.

    Raises:
        SiteError: the model lacks a site (nothing stays attached).
    """
    return Attachment(layout).add(edits)


@contextmanager
def first_of_all(before: Mapping[nn.Module, PreHook], after: Mapping[nn.Module, Hook]) -> Iterator[None]:
    """Hooks on modules for the length of a block, which run before any edit that was attached to them earlier."""
    handles: list[RemovableHandle] = []
    try:
        handles += [module.register_forward_hook(hook, prepend=True) for module, hook in after.items()]
        for module, hook in before.items():
            handles.append(module.register_forward_pre_hook(hook, prepend=True, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def told(attachments: Sequence[Attachment], rows: Rows) -> Iterator[None]:
    """Tell attachments which rows the one forward pass of the block runs, and see that they saw it.

    Raises:
        SiteError: an attachment did not see the pass, so its edits did nothing.
    """
    attachments = list(attachments)
    before = [attachment.passes for attachment in attachments]
    for attachment in attachments:
        attachment.rows = rows
    try:
        yield
    finally:
        for attachment in attachments:
            attachment.rows = None
    if any(attachment.passes == passes for attachment, passes in zip(attachments, before, strict=True)):
        raise SiteError(
            "The model ran, but the edits attached to it did not see the pass, so they did nothing: another model was "
            "put in its place, or its layout has another root. Make a LanguageModel of the model that is run."
        )


class _StopForward(Exception):
    """Ends a forward pass that has reached the last site to be read."""


Reading = dict[Site, Float[Tensor, "batch seq d_model"]]


@contextmanager
def reading(layout: Layout, sites: Sequence[Site], stop: bool = True) -> Iterator[Reading]:
    """Collect the activations of ``sites`` from one forward pass, into the dict that is yielded.

    With ``stop`` the pass ends as soon as all sites were read, so the layers above cost nothing; the model's output
    is then not available.

    Raises:
        SiteError: the model lacks a site, or a site was not reached.
    """
    found: Reading = {}

    def read(site: Site) -> Edit:
        def edit(x: Tensor, at: Pass) -> Tensor:
            found[site] = x
            if stop and len(found) == len(set(sites)):
                raise _StopForward
            return x

        return edit

    attachment = attached(layout, {site: read(site) for site in sites})
    try:
        yield found
        if missed := [str(site) for site in sites if site not in found]:
            raise SiteError(f"Nothing was read at {', '.join(missed)}: the model was not run, or not through there.")
    except _StopForward:
        pass
    finally:
        attachment.remove()
