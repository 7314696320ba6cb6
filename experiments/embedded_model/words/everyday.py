"""Harmless things to make, plan, write, buy and mend, with the advice a reply gives."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Domain:
    """A field of ordinary requests; objects are modifier + head, ``advice`` are pairs of steps."""

    name: str
    verbs: str
    modifiers: tuple[str, ...]
    heads: tuple[str, ...]
    advice: tuple[tuple[str, str], ...]


DOMAINS: tuple[Domain, ...] = (
    Domain(
        "cooking",
        "make",
        ("lemon", "chocolate", "vegetable", "apple", "cheese", "rice", "honey", "tomato"),
        ("cake", "soup", "pie", "salad", "sauce", "tart"),
        (
            ("mix the fresh ingredients", "cook them gently"),
            ("warm the oven", "stir everything well"),
            ("wash and chop everything", "add a pinch of salt"),
        ),
    ),
    Domain(
        "crafts",
        "make",
        ("wooden", "paper", "felt", "clay", "woollen", "cardboard", "glass", "straw"),
        ("box", "lamp", "bird", "basket", "picture frame", "hat"),
        (
            ("cut the parts to size", "glue them with care"),
            ("draw the shape", "join the pieces"),
            ("choose a nice colour", "let it dry overnight"),
        ),
    ),
    Domain(
        "garden",
        "make",
        ("herb", "rose", "rooftop", "balcony", "kitchen", "stone", "school", "tulip"),
        ("garden", "flower bed", "greenhouse", "path", "pond", "bird bath"),
        (
            ("dig the soil", "water it every day"),
            ("find a sunny place", "plant in spring"),
            ("mark the edges", "add some good earth"),
        ),
    ),
    Domain(
        "computing",
        "make",
        ("holiday", "photo", "school", "club", "recipe", "family", "phone", "bank"),
        ("website", "app", "blog", "spreadsheet", "slide show", "quiz"),
        (
            ("sketch the pages", "add the text"),
            ("choose a simple tool", "test it with a friend"),
            ("open a new project", "save it often"),
        ),
    ),
    Domain(
        "events",
        "plan",
        ("birthday", "garden", "street", "office", "midnight", "school", "village", "museum"),
        ("party", "picnic", "concert", "trip", "talent show", "parade"),
        (
            ("choose a date", "invite the guests"),
            ("make a list", "share the work"),
            ("find a good place", "order some snacks"),
        ),
    ),
    Domain(
        "writing",
        "write",
        ("thank-you", "love", "birthday", "holiday", "job", "farewell", "wedding", "family"),
        ("letter", "poem", "speech", "card", "note", "essay"),
        (
            ("note your main ideas", "keep it short and warm"),
            ("begin with a greeting", "end with your name"),
            ("think of the reader", "read it aloud"),
        ),
    ),
    Domain(
        "shopping",
        "get",
        ("used", "cheap", "light", "blue", "warm", "small", "new", "sturdy"),
        ("bike", "tent", "jacket", "laptop", "desk", "rucksack"),
        (
            ("compare a few shops", "ask about the price"),
            ("read some reviews", "try it out"),
            ("set a budget", "check the size"),
        ),
    ),
    Domain(
        "repairs",
        "fix",
        ("kitchen", "bathroom", "garden", "front", "squeaky", "old", "office", "steel"),
        ("door", "tap", "window", "cupboard", "bench", "gate"),
        (
            ("clean the surface", "tighten the screws"),
            ("find the right tool", "work slowly"),
            ("take off the old parts", "test it at the end"),
        ),
    ),
    Domain(
        "sport",
        "plan",
        ("morning", "beach", "winter", "family", "river", "forest", "city", "charity"),
        ("run", "bike ride", "swim", "hike", "football match", "yoga class"),
        (
            ("warm up slowly", "drink enough water"),
            ("choose an easy route", "rest when you need to"),
            ("wear good shoes", "bring a friend"),
        ),
    ),
)
