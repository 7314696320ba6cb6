"""A prompt: which latents fire on it, token by token."""

from dataclasses import replace

from steer.errors import DataError
from steer.explore.bench import Bench
from steer.explore.command import Command, Outcome
from steer.explore.firing import Firing, fires, sink_ratio
from steer.explore.replies import prompt_ids
from steer.explore.shown import Line, Shown, Strip, Table
from steer.explore.state import State

OF_TOKEN = 3
"""Latents that are named for each token, at most."""


def prompt(state: State, arguments: str, bench: Bench) -> Outcome:
    """What fires on a prompt; without one, on the last.

    Raises:
        DataError: there is none, or it is too long for the model.
    """
    text = asked(state, arguments)
    firing = fires(bench, prompt_ids(bench, state, text))
    shown: list[Shown] = [strip(bench, firing, firing.strongest(state.top)), table(bench, firing, state.top)]
    if firing.sinks:
        places = ", ".join(map(str, firing.sinks))
        ratio = f"{sink_ratio(bench):g}"
        shown.append(Line(f"Not counted, for norms of more than {ratio} times the usual: the tokens at {places}."))
    if state.plan.edits:
        shown.append(Line("This is the model without what is done to it. /ask and /diff steer."))
    return Outcome(replace(state, prompt=text), tuple(shown))


def asked(state: State, arguments: str) -> str:
    """The prompt that is given, or else the last one.

    Raises:
        DataError: there is neither.
    """
    if arguments:
        return arguments
    if state.prompt is None:
        raise DataError("There is no prompt yet. Type one.")
    return state.prompt


def strip(bench: Bench, firing: Firing, latents: list[int]) -> Strip:
    """The tokens, each marked by the latent with the largest share on it, with its strongest latents."""
    places = {latent: place for place, latent in enumerate(latents)}
    by_token = firing.by_token(OF_TOKEN)
    return Strip(
        "Strongest latents of each token, with their activations",
        bench.renderer.pieces(firing.ids),
        [places.get(there[0][0]) if there else None for there in by_token],
        [min(there[0][2], 1.0) if there else 0.0 for there in by_token],
        [", ".join(f"{latent} {value:.3g}" for latent, value, _ in there) for there in by_token],
        spelled=True,
    )


def table(bench: Bench, firing: Firing, top: int) -> Table:
    """The latents with the largest shares, where they fire most, and what the index knows of them."""
    pieces, with_max = bench.renderer.pieces(firing.ids), "max" in bench.columns
    density = bench.columns.get("density")
    latents, rows = firing.strongest(top), []
    labels = [bench.label(latent) for latent in latents]
    for latent, label in zip(latents, labels, strict=True):
        place, value, share, count = firing.peak(latent)
        row = [str(latent), f"{value:.3g}", f"{share:.0%}", str(place), pieces[place], str(count)]
        if bench.index is not None:
            row += ["" if density is None else f"{density[latent]:.2%}", *([label] if any(labels) else [])]
        rows.append(row)
    columns = ["latent", "activation", "of max" if with_max else "of norm", "at", "token", "tokens"]
    columns += [] if bench.index is None else ["density", *(["label"] if any(labels) else [])]
    scale = "their largest activation in the index" if with_max else "the token's norm"
    title = f"Latents by share of {scale}, at the token of the messages where it is largest"
    return Table(title, columns, rows, list(range(len(latents))))


PROMPT = Command("prompt", "[TEXT]", "which latents fire on a prompt; typing the prompt alone does the same", prompt)
