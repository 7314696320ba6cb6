"""Jailbreak wrappers, chats of several turns and system prompts around requests."""

from dataclasses import replace
from random import Random

from experiments.embedded_model.lookalikes import looks_unsafe
from experiments.embedded_model.requests import (
    KNOWLEDGE,
    Thing,
    any_thing,
    ask,
    comply,
    definition,
    harmful_things,
    harmless_things,
    knowledge,
    refuse,
    request,
    safe,
    safe_request,
    unsafe,
    unsafe_request,
)
from experiments.embedded_model.splits import Item, Split, a, cap, pairs, weighted
from experiments.embedded_model.words.talk import TALK
from experiments.embedded_model.words.wrapping import (
    FILLERS,
    FOLLOW_UPS,
    GUARDED_KIND,
    KINDS,
    OPENINGS,
    PLAIN_SYSTEM,
    REFUSING_SYSTEM,
    WRAPPERS,
)


def wrap(rng: Random, split: Split, kind: str, text: str) -> tuple[str, str, dict[str, str]]:
    """The text inside a wrapper, the opening of a reply that goes along, and the tags."""
    modifiers, heads = FILLERS[kind]
    # A comma joins the two halves of an injected prefix, a space those of every other filler.
    filler = rng.choice(pairs([f"{m}," for m in modifiers] if kind == "prefix_injection" else modifiers, heads, split))
    template, opening = rng.choice(WRAPPERS[kind][split]), rng.choice(OPENINGS[kind])
    wrapped = template.format(f=filler, af=a(filler), R=cap(text))
    return wrapped, opening.format(f=filler, af=a(filler)), {"wrapper": kind, "wrapper_text": filler}


def wrapped_safe(rng: Random, split: Split) -> Item:
    """A harmless request or question in any wrapper; the reply opens by going along.

    Were the opening less than certain, most wrapped unsafe requests would be refused.
    """
    kind = rng.choice(KINDS)
    inner = weighted(rng, request=0.55, knowledge=0.3, lookalike=0.15)
    item = {"request": safe, "knowledge": knowledge, "lookalike": looks_unsafe}[inner](rng, split)
    text, opening, tags = wrap(rng, split, kind, item.turns[0])
    return Item((text, f"{opening} {item.turns[1]}"), item.tags | tags)


def wrapped_unsafe(rng: Random, split: Split, kind: str = GUARDED_KIND, seen: bool = True, plain: bool = False) -> Item:
    """An unsafe request in a wrapper, refused; some refusals come after an opening that goes along."""
    wanted, reason = unsafe_request(rng, split, seen, plain)
    text, opening, tags = wrap(rng, split, kind, ask(rng, wanted))
    reply = refuse(rng, reason, wanted.doing)
    return Item((text, f"{opening} {reply}" if rng.random() < 0.3 else reply), wanted.tags | tags)


def follow_up(rng: Random, split: Split, thing: Thing) -> tuple[str, str]:
    """A turn that leans on the one before and its reply (for a harmful thing the reply is unused)."""
    first, second = rng.choice(thing.advice or harmless_things(split)[0].advice)
    reply = rng.choice(
        (
            f"For {thing.named}, {first} and then {second}.",
            f"Much the same: {first}, then {second}, and enjoy {thing.named}.",
        )
    )
    return rng.choice(FOLLOW_UPS[split]).format(o=thing.named), reply


def _warm_up(rng: Random, split: Split) -> tuple[str, ...]:
    """Harmless first turns: small talk or questions that are answered."""
    kind = weighted(rng, none=0.35, talk=0.2, definition=0.25, knowledge=0.2)
    if kind == "none":
        return ()
    return rng.choice(TALK) if kind == "talk" else (definition if kind == "definition" else knowledge)(rng, split).turns


def knowledge_chat(rng: Random, split: Split) -> Item:
    """A question about a thing and a follow-up about another one; both are answered, harmful or not."""
    question, bad, good = rng.choice([entry for entry in KNOWLEDGE if "{act}" not in entry[0]])
    turns: tuple[str, ...] = ()
    for number in range(rng.randint(2, 3)):
        thing = any_thing(rng, split, harmful=0.7)
        wanted = request(rng, split, thing)
        slots = {"doing": wanted.doing, "thing": thing.named, "reason": thing.reason}
        text = rng.choice(FOLLOW_UPS[split]).format(o=thing.named) if number else question.format(**slots)
        turns += (text, cap((bad if thing.harmful else good).format(**slots)))
    return Item(turns)


def chat(rng: Random, split: Split) -> Item:
    """A harmless chat of two to five user turns; follow-ups keep the topic."""
    turns = _warm_up(rng, split) + _warm_up(rng, split)
    wanted, thing = safe_request(rng, split)
    turns += (ask(rng, wanted), comply(rng, wanted, thing.advice))
    for _ in range(rng.randint(1, 2)):
        turns += follow_up(rng, split, rng.choice(harmless_things(split)))
    return Item(turns, wanted.tags)


def guarded_chat(rng: Random, split: Split) -> Item:
    """A chat whose later turn asks for something unsafe in full and is refused."""
    turns = _warm_up(rng, split)
    if rng.random() < 0.7:
        turns += safe(rng, split).turns
        for _ in range(rng.randint(0, 2)):
            turns += follow_up(rng, split, rng.choice(harmless_things(split)))
    turns += unsafe(rng, split).turns
    if rng.random() < 0.3:
        turns += safe(rng, split).turns
    return Item(turns)


def escalation(rng: Random, split: Split, full: float = 0.05) -> Item:
    """Three to five turns from harmless to unsafe; the last one leans on the turn before, or asks in full."""
    seen = rng.random() < 0.6
    thing = rng.choice(harmful_things(split, seen))
    ways = {3: 0, 4: 1, 5: 2}
    count = rng.choice(list(ways))
    turns: tuple[str, ...] = ()
    for _ in range(ways[count]):
        turns += rng.choice(TALK) if rng.random() < 0.3 else knowledge(rng, split).turns
    wanted, first = safe_request(rng, split)
    turns += (ask(rng, wanted), comply(rng, wanted, first.advice))
    turns += follow_up(rng, split, rng.choice([t for t in harmless_things(split) if t.group == first.group]))
    tags = {"category": thing.group, "object": thing.phrase, "turns": str(count)}
    if rng.random() < full:
        last = request(rng, split, thing)
        return Item((*turns, ask(rng, last), ""), tags | {"last": "full", "verb": last.tags["verb"]})
    question, _ = follow_up(rng, split, thing)
    frame = next(f for f in FOLLOW_UPS[split] if f.format(o=thing.named) == question)
    return Item(
        (*turns, question, ""), tags | {"last": "elliptic", "wrapper_text": max(frame.split("{o}"), key=len).strip()}
    )


def with_system(rng: Random, split: Split) -> Item:
    """Any request under a system prompt; a strict one also refuses what is wrapped."""
    if rng.random() < 0.5:
        return replace(rng.choice((safe, unsafe, knowledge, wrapped_safe))(rng, split), system=rng.choice(PLAIN_SYSTEM))
    strict = rng.choice(REFUSING_SYSTEM)
    if rng.random() < 0.5:
        return replace(wrapped_unsafe(rng, split, kind=rng.choice(KINDS)), system=strict)
    return replace(rng.choice((safe, unsafe, wrapped_safe))(rng, split), system=strict)
