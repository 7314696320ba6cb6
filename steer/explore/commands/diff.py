"""``/diff``: the steered reply against the unsteered one, and how far the two models are apart along it."""

from dataclasses import replace

from steer.errors import DataError
from steer.explore.bench import Bench
from steer.explore.command import Command, Outcome
from steer.explore.commands.ask import said
from steer.explore.commands.clamp import edited_latents
from steer.explore.commands.prompt import asked
from steer.explore.control import control_latents
from steer.explore.divergence import Divergence, divergence
from steer.explore.replies import prompt_ids, reply_ids
from steer.explore.shown import Line, Shown, Strip, Table
from steer.explore.state import State


def diff(state: State, arguments: str, bench: Bench) -> Outcome:
    """Both replies to a prompt, and what steering does to each token of the steered one.

    Both have the system prompt, so what differs is what the edits do.

    Raises:
        DataError: nothing steers, there is no prompt, or prompt and reply do not fit into the context.
    """
    if not state.plan.edits:
        raise DataError("Nothing steers the model, so both replies would be one. Steer it: /clamp LATENT=VALUE.")
    text, interventions = asked(state, arguments), bench.bind(state.plan)
    prompt = prompt_ids(bench, state, text)
    plain, steered = reply_ids(bench, state, prompt), reply_ids(bench, state, prompt, interventions)
    shown: list[Shown] = [said(bench, state, "unsteered", plain), said(bench, state, "steered", steered)]
    control, matched = control_latents(edited_latents(state.plan, bench), state.sampling.seed, bench)
    apart = divergence(bench.lm, interventions, prompt, steered, bench.sae.W_dec.detach()[control])
    if steered:
        pieces = bench.renderer.pieces([*prompt, *steered])
        shown += along(pieces[len(prompt) :], apart, len(prompt))
        shown += [Line(_control(apart, control, matched))] if control else []
    shown.append(Line(_where(apart, len(prompt))))
    return Outcome(replace(state, prompt=text), tuple(shown), (tuple(plain), tuple(steered)))


def along(pieces: list[str], apart: Divergence, prompt: int) -> list[Shown]:
    """The steered reply coloured by KL, and the figures of each of its tokens."""
    kl, change = apart.kl.tolist(), apart.change[prompt:].tolist()
    largest = max(max(kl), 1e-9)
    strip = Strip(
        "KL(steered || unsteered) along the steered reply", pieces, [0] * len(kl), [one / largest for one in kl]
    )
    rows = [
        [str(place), piece, f"{kl[place]:.4f}", f"{ours:.3f}", f"{theirs:.3f}", f"{change[place]:.1%}"]
        for place, (piece, ours, theirs) in enumerate(
            zip(pieces, apart.logprob.tolist(), apart.logprob_unsteered.tolist(), strict=True)
        )
    ]
    columns = ["at", "token", "KL", "log p steered", "log p unsteered", "change"]
    title = "Nats of each token, and what was added to the stream as it was read, as a share of its norm"
    mean = sum(kl) / len(kl)
    total = f"KL: mean {mean:.4f}, largest {max(kl):.4f}, sum {sum(kl):.4f} nats over {len(kl)} tokens."
    return [strip, Table(title, columns, rows), Line(total)]


def _control(apart: Divergence, latents: list[int], matched: bool) -> str:
    """How far as large a change along other latents moves the model: what a KL is to be compared with."""
    means = apart.control.mean(dim=-1)
    drawn = f"{len(latents)} other latents, drawn at random{' from those about as dense' if matched else ''}"
    figures = f"mean {means.median().item():.4f} ({means.min().item():.4f} to {means.max().item():.4f})"
    return f"Control: KL {figures} where as much is added to each token along {drawn}: {', '.join(map(str, latents))}."


def _where(apart: Divergence, prompt: int) -> str:
    parts = []
    for name, change in (("prompt", apart.change[:prompt]), ("reply", apart.change[prompt:])):
        acted = change[change > 0]
        mean = f" (mean change {acted.mean().item():.1%} of the norm)" if len(acted) else ""
        parts.append(f"on {len(acted)} of {len(change)} tokens of the {name}{mean}")
    return f"Steering acted {', '.join(parts)}."


DIFF = Command(
    "diff", "[TEXT]", "steered against unsteered: both replies, KL of each token, where steering acted", diff
)
