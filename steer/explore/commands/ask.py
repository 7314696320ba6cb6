"""``/ask``: the model's reply under what is done to it."""

from dataclasses import replace

from steer.explore.bench import Bench
from steer.explore.command import Command, Outcome
from steer.explore.commands.prompt import asked
from steer.explore.replies import prompt_ids, reply_ids, text_of
from steer.explore.shown import Said
from steer.explore.state import State
from steer.models.replies import ReplyIds


def ask(state: State, arguments: str, bench: Bench) -> Outcome:
    """The reply to a prompt, or to the last one, steered where something is done to the model.

    Raises:
        DataError: there is no prompt, or it and its reply do not fit into the context.
    """
    text = asked(state, arguments)
    ids = reply_ids(bench, state, prompt_ids(bench, state, text), bench.bind(state.plan))
    who = "steered" if state.plan.edits else "unsteered"
    return Outcome(replace(state, prompt=text), (said(bench, state, who, ids),), (tuple(ids),))


def said(bench: Bench, state: State, who: str, ids: ReplyIds) -> Said:
    """A reply as it is shown."""
    reply = text_of(bench, state, ids)
    return Said(who, reply, f"{len(ids)} tokens, {'ended by itself' if reply.finish == 'stop' else 'cut at the limit'}")


ASK = Command("ask", "[TEXT]", "the model's reply, steered by what /clamp and /plan have set", ask)
