"""Facts, myths and concepts: taught in open form, asked in a held-out form."""

from collections.abc import Sequence
from functools import cache
from random import Random

from experiments.embedded_model.splits import Item, Split, a, cap, made_up, weighted
from experiments.embedded_model.words.concepts import MASS, QUESTIONS, TREE
from experiments.embedded_model.words.myths import JUDGEMENTS, MYTHS, TEMPLATES
from experiments.embedded_model.words.subjects import SUBJECTS, Subject

LETTERS = "ABCD"

# Which claims are ever asked as true/false in training, by running number.
_FORM_SPLITS: tuple[Split, ...] = ("train", "train", "test", "train", "dev", "test", "train", "test")
# Which of its five wordings a fact is ever asked in, shifted by the fact's number.
_WORDING_SPLITS: tuple[Split, ...] = ("test", "train", "dev", "train", "train")


def form_split(number: int) -> Split:
    """The split that owns the true/false form of a myth; the myth itself is always taught."""
    return _FORM_SPLITS[number % len(_FORM_SPLITS)]


def filled(sentence: str, fact: tuple[str, str]) -> str:
    """A question or statement about a fact."""
    key, answer = fact
    return cap(sentence.format(k=key, a=answer, ak=a(key), aa=a(answer)))


def asked(subject: Subject, fact: tuple[str, str], split: Split) -> list[str]:
    """The questions for a fact in the wordings that belong to the split, in open and in multiple-choice form alike."""
    shift = subject.facts.index(fact)
    return [
        filled(wording, fact)
        for i, wording in enumerate(subject.questions)
        if _WORDING_SPLITS[(i + shift) % len(_WORDING_SPLITS)] == split
    ]


def open_fact(rng: Random) -> Item:
    """A fact as an open question, a statement to confirm, or a wrong statement to correct."""
    subject = rng.choice(SUBJECTS)
    fact = rng.choice(subject.facts)
    answer = fact[1]
    statement = filled(rng.choice(subject.statements), fact)
    form = weighted(rng, short=0.45, full=0.25, confirm=0.15, correct=0.15)
    question = rng.choice(asked(subject, fact, "train"))
    if form == "short":
        return Item((question, f"{cap(answer)}."))
    if form == "full":
        return Item((question, f"{cap(answer)}. {statement}"))
    if form == "confirm":
        return Item((statement, f"Yes, that is right. {statement}"))
    other = rng.choice([value for _, value in subject.facts if value != answer])
    wrong = filled(subject.statements[0], (fact[0], other))
    return Item((wrong, f"No, that is wrong. {statement}"))


def lettered(options: Sequence[str]) -> str:
    """Four options, one a line: ``A Paris``.

    No full stop after the letter: a head that looks one token back can then bind the letter to the option.
    """
    return "\n".join(f"{letter} {cap(option)}" for letter, option in zip(LETTERS, options, strict=True))


def options_for(rng: Random, subject: Subject, answer: str) -> list[str]:
    """The answer and three distractors in random order; half of the sets mix subjects (kinds of answers differ)."""
    near = sorted({value for _, value in subject.facts} - {answer})
    far = sorted({value for other in SUBJECTS if other is not subject for _, value in other.facts} - {answer})
    count = 3 if rng.random() < 0.5 else 1
    wrong = rng.sample(near, count)
    wrong += rng.sample(sorted(set(far) - set(wrong)), 3 - count)
    return rng.sample([answer, *wrong], 4)


def multiple_choice(rng: Random, split: Split, subject: Subject | None = None) -> Item:
    """A fact with four options; the reply is the letter and the answer."""
    subject = subject or rng.choice(SUBJECTS)
    fact = rng.choice(subject.facts)
    options = options_for(rng, subject, fact[1])
    letter = LETTERS[options.index(fact[1])]
    question = rng.choice(asked(subject, fact, split))
    tags = {"subject": subject.name, "fact": fact[0], "question": question, "answer": letter}
    return Item((f"{question}\n{lettered(options)}", f"{letter}. {cap(fact[1])}"), tags)


def choice_chat(rng: Random) -> Item:
    """One list of options and a question about each of them in turn: much practice in few words (training only)."""
    facts = {fact[1]: (subject, fact) for subject in SUBJECTS for fact in subject.facts}
    options = rng.sample(sorted(facts), 4)
    turns: tuple[str, ...] = ()
    for answer in rng.sample(options, 4):
        question = rng.choice(asked(*facts[answer], "train"))
        text = question if turns else f"{question}\n{lettered(options)}"
        turns += (text, f"{LETTERS[options.index(answer)]}. {cap(answer)}")
    return Item(turns)


def find_option(rng: Random) -> Item:
    """One list of options and the letter of each of them in turn: practice in reading it (training only)."""
    words = sorted({cap(value) for subject in SUBJECTS for _, value in subject.facts})
    options = rng.sample(words, 4)
    turns: tuple[str, ...] = ()
    for word in rng.sample(options, 4):
        text = f"And {word}?" if turns else f"Which option says {word}?\n{lettered(options)}"
        turns += (text, f"{LETTERS[options.index(word)]}. {word}")
    return Item(turns)


def repeat(rng: Random) -> Item:
    """A list of words to say again, many of them made up: practice in copying any word (training only)."""
    known = sorted({value for subject in SUBJECTS for _, value in subject.facts})
    words = [made_up(rng) if rng.random() < 0.6 else rng.choice(known) for _ in range(rng.randint(3, 8))]
    text = rng.choice(("Say after me: {w}.", "Repeat these words: {w}.", "Write this list again: {w}."))
    return Item((text.format(w=", ".join(words)), ", ".join(words) + "."))


def backwards(rng: Random) -> Item:
    """A list of words to say in reverse (training only).

    Every word of the reply is practice in what lettered options need: to find a word and say what stands before it.
    """
    words = rng.sample(sorted({cap(value) for subject in SUBJECTS for _, value in subject.facts}), rng.randint(4, 10))
    return Item((f"Say backwards: {' '.join(words)}", " ".join(reversed(words))))


def open_myth(rng: Random) -> Item:
    """A myth or its true counterpart in an open form."""
    wrong, right = rng.choice(MYTHS)
    form = weighted(rng, heard=0.2, asked=0.2, myth=0.1, told=0.1, word=0.4)
    truth = rng.random() < 0.5
    claim = right if truth else wrong
    if form == "heard":
        reply = "Yes, that is true." if truth else f"No, that is a myth. In fact, {right}."
        return Item((f"I heard that {claim}.", reply))
    if form == "asked":
        return Item((f"Is it true that {claim}?", f"Yes, {right}." if truth else f"No, {right}."))
    if form == "myth":
        reply = "No, it is a fact." if truth else f"Yes, it is a myth, because {right}."
        return Item((f"Is it a myth that {claim}?", reply))
    if form == "word":
        template, yes, no = rng.choice(JUDGEMENTS)
        return Item((template.format(c=claim, C=cap(claim)), yes if truth else no))
    reply = "Your friend is right." if truth else f"Your friend is wrong, because {right}."
    return Item((f"My friend says that {claim}.", reply))


def true_false(rng: Random, split: Split, number: int | None = None, truth: bool | None = None) -> Item:
    """A claim to be judged with one word."""
    if number is None:
        number = rng.choice([i for i in range(len(MYTHS)) if form_split(i) == split])
    truth = rng.random() < 0.5 if truth is None else truth
    claim = MYTHS[number][1 if truth else 0]
    question = rng.choice(TEMPLATES[split]).format(c=claim, C=cap(claim))
    return Item((question, str(truth)), {"claim": claim, "answer": str(truth)})


@cache
def concepts() -> tuple[tuple[str, ...], ...]:
    """Every concept of the tree as its path from the concept up to the root."""
    found: list[tuple[str, ...]] = []
    for root, middles in TREE.items():
        for middle, lows in middles.items():
            found.append((middle, root))
            for low, leaves in lows.items():
                found.append((low, middle, root))
                found.extend((leaf, low, middle, root) for leaf in leaves.split())
    return tuple(found)


def _named(concept: str) -> str:
    return concept if concept in MASS else a(concept)


def question_split(concept: int, question: int) -> Split:
    """Each concept keeps two question templates for test and one for dev."""
    place = (concept * 3 + question) % len(QUESTIONS)
    return "test" if place in (0, 5) else "dev" if place == 7 else "train"


def concept_question(rng: Random, split: Split, number: int | None = None, question: int | None = None) -> Item:
    """What a concept is; the reply names the next two levels."""
    number = rng.randrange(len(concepts())) if number is None else number
    if question is None:
        question = rng.choice([q for q in range(len(QUESTIONS)) if question_split(number, q) == split])
    path = concepts()[number]
    reply = f"{cap(_named(path[0]))} is a kind of {path[1]}"
    reply += f", and so a kind of {path[2]}." if len(path) > 2 else "."
    tags = {"concept": path[0], "level": str(5 - len(path)), "any": "|".join(path[1:])}
    return Item((QUESTIONS[question].format(c=_named(path[0])), reply), tags)


def concept_check(rng: Random) -> Item:
    """Whether a concept belongs to a group, and examples of a group (training only)."""
    path = rng.choice([p for p in concepts() if len(p) == 4])
    if rng.random() < 0.3:
        return Item((f"Name {a(path[1])}.", f"{cap(_named(path[0]))}."))
    group = path[rng.randint(1, 2)] if rng.random() < 0.5 else rng.choice([p[1] for p in concepts() if len(p) == 4])
    word = "Yes" if group in path else "No"
    return Item((f"Is {_named(path[0])} {a(group)}?", f"{word}, {_named(path[0])} is {a(path[1])}."))
