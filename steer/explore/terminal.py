"""Reading lines from a terminal, with completion and history (prompt_toolkit)."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from steer.explore.about_session import ABOUT_SESSION
from steer.explore.completion import offers
from steer.explore.extra import check_installed
from steer.explore.loop import MARK, Loop
from steer.explore.text import short, visible

if TYPE_CHECKING:
    from prompt_toolkit.completion import CompleteEvent, Completion
    from prompt_toolkit.document import Document


def reader(loop: Loop, history: Path | None) -> Callable[[], str]:
    """What asks for the next line; ``history`` is the file of lines typed before, None: they are forgotten.

    Raises:
        MissingExtra: prompt_toolkit is not installed.
    """
    check_installed()
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import Completer, Completion
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    class Offered(Completer):
        """``offers`` as prompt_toolkit wants them."""

        def get_completions(self, document: "Document", complete_event: "CompleteEvent") -> "Iterator[Completion]":
            """See prompt_toolkit."""
            line = document.text_before_cursor
            for one in offers(line, loop.session, loop.bench, ABOUT_SESSION, loop.latents):
                about = short(visible(one.about))
                yield Completion(one.text, -one.replaces, display=visible(one.name or one.text), display_meta=about)

    class Remembered(FileHistory):
        """Lines in a file, which may be gone, full or no longer readable: then they are those of this session."""

        def load_history_strings(self) -> "Iterator[str]":
            """See prompt_toolkit."""
            try:
                yield from list(super().load_history_strings())
            except OSError:
                return

        def store_string(self, string: str) -> None:
            """See prompt_toolkit."""
            with suppress(OSError):
                super().store_string(string)

    kept = InMemoryHistory() if history is None else Remembered(str(history))
    asking: PromptSession[str] = PromptSession(
        history=kept, completer=Offered(), complete_while_typing=False, enable_history_search=True
    )
    return lambda: asking.prompt(MARK)
