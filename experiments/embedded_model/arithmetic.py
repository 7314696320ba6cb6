"""Sums in words with a worked answer that ends like GSM8K (Cobbe et al., arXiv 2110.14168): ``#### 12``."""

from random import Random

from experiments.embedded_model.splits import Item, Split, made_up, weighted
from experiments.embedded_model.words.sums import GAINS, HOLDERS, LOSSES, NAMES, THINGS

# Share of names, things and verbs of training sums that are made up: a new word must not matter.
MADE_UP = 0.5


def _word(rng: Random, split: Split, words: dict[str, tuple[str, ...]], ending: str = "s") -> str:
    """A word of a split; in training often a made-up one."""
    if split == "train" and rng.random() < MADE_UP:
        return made_up(rng, ending) + rng.choice(
            ("", "", " up", " away", " out") if words in (GAINS, LOSSES) else ("",)
        )
    return rng.choice(words[split])


def _person(rng: Random, split: Split) -> tuple[str, str]:
    """A name with its pronoun; in training often a made-up one."""
    if split == "train" and rng.random() < MADE_UP:
        return made_up(rng).capitalize(), rng.choice(("He", "She"))
    return rng.choice(NAMES[split])


def _step(rng: Random, split: Split, total: int) -> tuple[str, str, int, str]:
    """One change of the total: what happens, the worked line, the new total and the verb."""
    if total > 2 and rng.random() < 0.5:
        part = rng.randint(1, min(total - 1, 9))
        verb = _word(rng, split, LOSSES)
        return f"{verb} {part} of them", f"{total} - {part} = {total - part}.", total - part, verb
    part = rng.randint(1, 9)
    verb = _word(rng, split, GAINS)
    return f"{verb} {part} more", f"{total} + {part} = {total + part}.", total + part, verb


def changes(rng: Random, split: Split, steps: int) -> Item:
    """Somebody has some things, then gains or loses some in one or two steps."""
    (name, pronoun), thing = _person(rng, split), _word(rng, split, THINGS)
    total = rng.randint(2, 15)
    text = f"{name} has {total} {thing}."
    events, lines, verbs = [], [], []
    for _ in range(steps):
        event, line, total, verb = _step(rng, split, total)
        events.append(event)
        lines.append(line)
        verbs.append(verb)
    joiner = rng.choice((" and then ", ". Then " + pronoun.lower() + " "))
    text += f" {pronoun} {joiner.join(events)}. How many {thing} does {name} have now?"
    tags = {"object": thing, "verb": verbs[0], "name": name, "steps": str(steps)}
    if steps == 2:
        tags["second_verb"] = verbs[1]
    return Item((text, f"{' '.join(lines)} #### {total}"), tags)


def together(rng: Random, split: Split) -> Item:
    """Two people put their things together."""
    one, two = _person(rng, split)[0], _person(rng, split)[0]
    thing, x, y = _word(rng, split, THINGS), rng.randint(2, 15), rng.randint(2, 9)
    text = f"{one} has {x} {thing} and {two} has {y} {thing}. How many {thing} do they have together?"
    return Item((text, f"{x} + {y} = {x + y}. #### {x + y}"), {"object": thing, "name": one, "steps": "1"})


def groups(rng: Random, split: Split) -> Item:
    """Equal groups: a small product."""
    name, thing, holder = _person(rng, split)[0], _word(rng, split, THINGS), _word(rng, split, HOLDERS)
    x, y = rng.randint(2, 5), rng.randint(2, 5)
    text = f"{name} has {x} {holder} with {y} {thing} in each. How many {thing} does {name} have?"
    return Item((text, f"{x} * {y} = {x * y}. #### {x * y}"), {"object": thing, "name": name, "steps": "1"})


def word_sum(rng: Random, split: Split) -> Item:
    """A sum in words of one or two steps."""
    kind = weighted(rng, one=0.35, two=0.35, together=0.15, groups=0.15)
    if kind in ("one", "two"):
        return changes(rng, split, 1 if kind == "one" else 2)
    return (together if kind == "together" else groups)(rng, split)


def bare_sum(rng: Random) -> Item:
    """A sum in figures, for practice (training only)."""
    x, y = rng.randint(1, 29), rng.randint(1, 9)
    if rng.random() < 0.2:
        x, y = rng.randint(2, 5), rng.randint(2, 5)
        return Item((f"What is {x} * {y}?", f"{x} * {y} = {x * y}."))
    if x > y and rng.random() < 0.5:
        return Item((f"What is {x} - {y}?", f"{x} - {y} = {x - y}."))
    return Item((f"What is {x} + {y}?", f"{x} + {y} = {x + y}."))
