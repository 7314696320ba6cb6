"""``/ask`` and ``/more``: the model's replies under what is done to it."""

from collections.abc import Sequence
from dataclasses import replace

from steer.errors import DataError
from steer.explore.bench import Bench
from steer.explore.command import Command, Outcome
from steer.explore.commands.prompt import asked
from steer.explore.replies import prompt_ids, reply_ids, text_of
from steer.explore.shown import Said
from steer.explore.state import State
from steer.models.chat import Message
from steer.models.replies import ReplyIds


def ask(state: State, arguments: str, bench: Bench) -> Outcome:
    """The reply to a prompt, or to the last one, steered where something is done to the model.

    Raises:
        DataError: there is no prompt, or it and its reply do not fit into the context.
    """
    text = asked(state, arguments)
    outcome = _replied(replace(state, prompt=text), text, (), bench)
    return replace(outcome, undoable=text != state.prompt or len(state.said) > len(outcome.state.said))


def more(state: State, arguments: str, bench: Bench) -> Outcome:
    """The reply to what is said next in the conversation that ``/ask`` began, steered by what is set now.

    The model reads its own replies as they were shown. The last prompt stays what it was.

    Raises:
        DataError: nothing is said, nothing was asked, or the conversation and its reply do not fit into the context.
    """
    if not arguments:
        raise DataError("/more needs what is said next: /more TEXT.")
    if not state.said:
        raise DataError("Nothing was asked yet. /ask TEXT begins a conversation, /more goes on with it.")
    return _replied(state, arguments, state.said, bench)


def _replied(state: State, text: str, before: Sequence[Message], bench: Bench) -> Outcome:
    ids = reply_ids(bench, state, prompt_ids(bench, state, text, before), bench.bind(state.plan))
    who = "steered" if state.plan.edits else "unsteered"
    reply = Message(role="assistant", content=str(text_of(bench, state, ids)))
    conversation = (*before, Message(role="user", content=text), reply)
    return Outcome(replace(state, said=conversation), (said(bench, state, who, ids),), (tuple(ids),))


def said(bench: Bench, state: State, who: str, ids: ReplyIds) -> Said:
    """A reply as it is shown."""
    reply = text_of(bench, state, ids)
    return Said(who, reply, f"{len(ids)} tokens, {'ended by itself' if reply.finish == 'stop' else 'cut at the limit'}")


ASK = Command("ask", "[TEXT]", "the model's reply, steered by what /clamp and /plan have set", ask)
MORE = Command("more", "TEXT", "go on with the conversation that /ask began", more)
