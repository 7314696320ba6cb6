"""Shuffled batches of activations from a source of text, that can be stopped anywhere and continued bit for bit."""

from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from typing import Any

from jaxtyping import Float
from torch import Tensor

from saes import World
from saes.distributed.world import ONE
from steer.activations.ahead import Ahead
from steer.activations.batch import Batch, StreamConfig, one_site
from steer.activations.dealt import shared
from steer.activations.identity import identity, require_same
from steer.activations.reading import START, Block, Made, Reading, edited_error, model_passes, without_outliers
from steer.activations.ring import ShuffleRing
from steer.activations.sources.source import Position, Source
from steer.activations.tap import Tap, fill
from steer.errors import DataError
from steer.models.model import LanguageModel
from steer.models.site import Site

VERSION = 1  # of the state


class ActivationStream:
    """Batches of activations of the same tokens at each site, in the model's dtype, as an iterator.

    The ring is filled once; every batch takes random slots of it, and the tokens that come next fill those slots. The
    batches depend on nothing but the model, the source, the reading, the batch and ring sizes and the seed. A batch
    that was handed out is not written to again.

    Of the processes of a ``world``, each makes its share of the passes of the model, and all get the batches that one
    process would have, bit for bit, if they ask in step. The state is the same on all of them, and on any number.
    """

    def __init__(
        self, lm: LanguageModel, source: Source, reading: Reading, config: StreamConfig, world: World = ONE
    ) -> None:
        self.lm, self.source, self.reading, self.config, self.world = lm, source, reading, config, world
        self._edits = list(lm.attachments)
        self._position: Position | None = None
        """Where ``_rows`` begins when it is opened; None: at the beginning."""
        self._rows: Tap | None = None
        self._ahead: Ahead[Made] | None = None
        self._ring: ShuffleRing | None = None

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
            DataError: the source cannot be read, no token of it counts, or the model is
                edited otherwise than it was when the stream was opened.
            SiteError: the model lacks a site.
            WorldError: another process is gone, or does not answer in time.
        """
        if self.lm.attachments != self._edits:
            raise edited_error()
        try:
            self._fill()
        except BaseException:
            self.close()  # so that asking again goes on from here, rather than that the ring runs dry
            raise
        if self._ring is None or self._ring.filled < self.config.batch_tokens:
            self.close()
            raise StopIteration
        return dict(zip(self.reading.all_sites, self._ring.serve(self.config.batch_tokens), strict=True))

    def only(self, site: Site | str | None = None) -> Iterator[Float[Tensor, "token d_model"]]:
        """The batches of one site, as ``saes.fit`` takes them; the site need not be named where there is but one.

        Raises:
            DataError: the stream does not read the site, or reads several and none is named.
        """
        return one_site(self, self.reading.all_sites, site)

    @property
    def left_tokens(self) -> int:
        """Tokens in the ring that have not been handed out."""
        return self._ring.filled if self._ring else 0

    def state(self) -> dict[str, Any]:
        """Everything that decides what comes next, as JSON data and tensors on the CPU: nested dicts of both.

        It is a copy, so it takes the ring's size in memory. What was read ahead but not handed out is not part of it.
        """
        return {
            "version": VERSION,
            "identity": self._identity,
            "position": self._rows.position if self._rows else self._position,
            "ring": self._ring.state() if self._ring else None,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on after the batch that was handed out before ``state`` was taken.

        On the same machine, with the same number of threads, what follows is bit-identical to an uninterrupted run.
        A stream that ends with its text may go on as an ``endless`` one, as long as the text has not ended: until then,
        both give the same.

        Raises:
            DataError: the state is of another version, model, text, reading or ring, or of an endless stream, or the
                text had ended and this stream shall be endless.
        """
        if state.get("version") != VERSION:
            raise DataError(f"The state of the stream has version {state.get('version')!r}, expected {VERSION}.")
        self._require_same(state)
        self.close()
        self._edits = list(self.lm.attachments)
        self._position, self._ring = state["position"], None
        if state["ring"] is not None:
            self._ring = self._new_ring(state["ring"]["rows"])
            self._ring.restore(state["ring"])

    def _require_same(self, state: Mapping[str, Any]) -> None:
        there, here = dict(state["identity"]), dict(self._identity)
        if here["endless"] and not there["endless"]:
            if (ring := state["ring"]) and ring["end"] - len(ring["holes"]) + self.config.batch_tokens < len(
                ring["rows"][0]
            ):
                raise DataError(
                    "The text had ended when this state was taken, and the ring was no longer full, so what follows "
                    "would not be what a stream gives that reads the text again (`--repeat`). Go on from a checkpoint "
                    "before that (remove the newer ones), or begin anew."
                )
            there["endless"] = True
        require_same(there, here, "The state of the stream")

    def close(self) -> None:
        """End the background thread. A batch that is asked for later is the one that would have come."""
        if self._rows:
            self._position, self._rows = self._rows.position, None
        if self._ahead:
            self._ahead.close()
            self._ahead = None

    def _fill(self) -> None:
        """Put rows into all free slots of the ring, or as many as the text still gives."""
        self._rows = self._rows or self._opened()
        if self._ring is None:
            first = self._rows.take(self.config.ring_tokens)
            if first is None:
                return
            self._ring = self._new_ring(first)
            self._ring.put(first)
        fill(self._ring, self._rows)

    def _opened(self) -> Tap:
        start, ranks = self._position["before"] if self._position else START, self.world.all
        whose = (start, self.config.endless, self._edits, ranks.rank, ranks.size)
        make = partial(model_passes, self.lm, self.source, self.reading, *whose)
        if self.config.ahead:
            self._ahead = Ahead(make, self.config.ahead * ranks.size)  # as many of its own, between those of others
        made = shared(self._ahead or make(), self.world, self.lm.device)
        return Tap(without_outliers(made, self.reading.policy.max_norm_ratio, start), self._position)

    def _new_ring(self, rows: Block) -> ShuffleRing:
        device = self.config.device or self.lm.device
        return ShuffleRing(
            self.config.ring_tokens, len(rows), rows.shape[-1], rows.dtype, device, seed=self.config.seed
        )

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """What must be the same for a state to be continued."""
        same = identity(self.lm, self.source, self.reading)
        mixing = {name: getattr(self.config, name) for name in ("ring_tokens", "seed", "endless")}
        return {**same, **mixing}
