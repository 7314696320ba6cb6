"""Facts by school subject, as ``key:answer`` pairs, with the sentences that ask for them and state them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Subject:
    """One subject: ``{k}`` is the key of a fact and ``{a}`` its answer, ``{ak}`` and ``{aa}`` with their articles."""

    name: str
    questions: tuple[str, ...]
    statements: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]


def _facts(text: str) -> tuple[tuple[str, str], ...]:
    pairs = (pair.split(":") for pair in text.replace("\n", " ").split(","))
    return tuple((key.strip(), answer.strip()) for key, answer in pairs)


SUBJECTS: tuple[Subject, ...] = (
    Subject(
        "geography",
        (
            "What is the capital of {k}?",
            "Which city is the capital of {k}?",
            "Name the capital of {k}.",
            "{k} has which capital?",
            "The capital of {k} is which city?",
        ),
        ("{a} is the capital of {k}.", "The capital of {k} is {a}."),
        _facts("""France:Paris, Italy:Rome, Spain:Madrid, Germany:Berlin, England:London, Japan:Tokyo, China:Beijing,
            Egypt:Cairo, Russia:Moscow, Greece:Athens, Norway:Oslo, Sweden:Stockholm, Poland:Warsaw, Austria:Vienna,
            Portugal:Lisbon, Ireland:Dublin, Cuba:Havana, Peru:Lima, Kenya:Nairobi, Turkey:Ankara, Hungary:Budapest,
            Belgium:Brussels, Denmark:Copenhagen, Finland:Helsinki, Canada:Ottawa, Iran:Tehran, Iraq:Baghdad,
            India:Delhi, Chile:Santiago, Morocco:Rabat, Ukraine:Kyiv, Scotland:Edinburgh"""),
    ),
    Subject(
        "language",
        (
            "What is the opposite of {k}?",
            "Which word means the opposite of {k}?",
            "Name the opposite of {k}.",
            "{k} is the opposite of which word?",
            "The opposite of {k} is which word?",
        ),
        ("The opposite of {k} is {a}.", "{k} and {a} are opposites."),
        _facts("""hot:cold, big:small, day:night, open:closed, wet:dry, early:late, full:empty, hard:soft, high:low,
            old:young, rich:poor, right:wrong, fast:slow, strong:weak, thick:thin, up:down, hello:goodbye, sweet:bitter,
            near:far, heavy:light, clean:dirty, loud:quiet, happy:sad, begin:end, push:pull, win:lose, true:false,
            wide:narrow, sharp:blunt, tame:wild, brave:afraid, ancient:modern"""),
    ),
    Subject(
        "nature",
        (
            "What is a young {k} called?",
            "What do we call a young {k}?",
            "Name the young of the {k}.",
            "A young {k} is called what?",
            "Which word stands for a young {k}?",
        ),
        ("A young {k} is called {aa}.", "{aa} is a young {k}."),
        _facts("""dog:puppy, cat:kitten, cow:calf, horse:foal, sheep:lamb, goat:kid, pig:piglet, hen:chick,
            duck:duckling, swan:cygnet, bear:cub, deer:fawn, frog:tadpole, kangaroo:joey, owl:owlet, goose:gosling,
            spider:spiderling, fox:pup, hare:leveret, salmon:smolt, eel:elver, pigeon:squab, eagle:eaglet,
            butterfly:caterpillar"""),
    ),
    Subject(
        "work",
        (
            "Where does {ak} work?",
            "In which place does {ak} work?",
            "Name the place where {ak} works.",
            "{ak} works where?",
            "Which place is right for {ak}?",
        ),
        ("{ak} works in {aa}.", "You find {ak} in {aa}."),
        _facts("""baker:bakery, teacher:classroom, doctor:clinic, judge:court, farmer:field, miner:mine,
            chef:restaurant,
            actor:theatre, pilot:cockpit, banker:bank, monk:monastery, librarian:library, nurse:hospital, sailor:ship,
            mechanic:garage, chemist:laboratory, painter:studio, brewer:brewery, priest:church, butcher:shop,
            jailer:prison, lifeguard:pool, porter:hotel, soldier:camp, student:university, goalkeeper:stadium,
            clerk:office, beekeeper:apiary"""),
    ),
    Subject(
        "body",
        (
            "Which part of the body do you use to {k}?",
            "What part of the body helps you to {k}?",
            "Name the part of the body used to {k}.",
            "To {k}, which part of the body is used?",
            "You {k} with which part of the body?",
        ),
        ("You {k} with your {a}.", "People use the {a} to {k}."),
        _facts("""see:eyes, hear:ears, smell:nose, taste:tongue, chew:teeth, think:brain, breathe:lungs, walk:legs,
            kick:foot, wave:hand, pump blood:heart, nod:head, digest food:stomach, shrug:shoulders, point:finger,
            kneel:knees, kiss:lips, blink:eyelids, clean the blood:kidneys, swallow:throat, bend the arm:elbow,
            feel touch:skin"""),
    ),
    Subject(
        "history",
        (
            "Who {k}?",
            "Which person {k}?",
            "Name the person who {k}.",
            "What is the name of the one who {k}?",
            "It was which person who {k}?",
        ),
        ("{a} {k}.", "It was {a} who {k}."),
        _facts("""wrote Hamlet:Shakespeare, painted the Mona Lisa:Leonardo, discovered radium:Curie,
            explained gravity:Newton, proposed evolution:Darwin, invented the telephone:Bell,
            composed the Moonlight Sonata:Beethoven, wrote Don Quixote:Cervantes, painted Guernica:Picasso,
            led the French at Waterloo:Napoleon, crossed the Rubicon:Caesar, wrote the Odyssey:Homer,
            discovered penicillin:Fleming, first stepped on the Moon:Armstrong, sailed to America in 1492:Columbus,
            wrote War and Peace:Tolstoy, painted Sunflowers:Gogh, wrote Oliver Twist:Dickens, taught Plato:Socrates,
            freed India with Nehru:Gandhi, wrote Faust:Goethe, proposed relativity:Einstein,
            composed The Magic Flute:Mozart, taught Alexander the Great:Aristotle"""),
    ),
    Subject(
        "science",
        (
            "What is the chemical symbol of {k}?",
            "Which symbol stands for {k}?",
            "Name the symbol of {k}.",
            "{k} has which chemical symbol?",
            "The symbol of {k} is what?",
        ),
        ("The chemical symbol of {k} is {a}.", "{a} is the symbol of {k}."),
        _facts("""hydrogen:H, oxygen:O, nitrogen:N, gold:Au, silver:Ag, iron:Fe, copper:Cu, sodium:Na, potassium:K,
            lead:Pb, tin:Sn, mercury:Hg, helium:He, neon:Ne, zinc:Zn, calcium:Ca, chlorine:Cl, sulphur:S, tungsten:W,
            magnesium:Mg, aluminium:Al, silicon:Si, uranium:U, iodine:I"""),
    ),
    Subject(
        "home",
        (
            "What do you use to {k}?",
            "Which thing would you take to {k}?",
            "Name a thing used to {k}.",
            "To {k}, what do you need?",
            "Which thing helps you to {k}?",
        ),
        ("You use a {a} to {k}.", "A {a} is used to {k}."),
        _facts("""cut paper:scissors, sweep the floor:broom, tell the time:clock, drive in a nail:hammer,
            boil water:kettle, light a room:lamp, dry your hair:towel, eat soup:spoon, open a door:key, cut bread:knife,
            brush your teeth:toothbrush, write a letter:pen, stay dry in rain:umbrella, see far away:telescope,
            measure heat:thermometer, find north:compass, carry water:bucket, climb a roof:ladder, sew cloth:needle,
            keep food cold:fridge, iron a shirt:iron, rub out pencil:eraser, wash clothes:washer, take pictures:camera,
            look at yourself:mirror, tie a parcel:string"""),
    ),
    Subject(
        "signs",
        (
            "What colour is {k}?",
            "Which colour does {k} have?",
            "Name the colour of {k}.",
            "The colour of {k} is what?",
            "{k} has which colour?",
        ),
        ("The colour of {k} is {a}.", "{k}: the colour is {a}."),
        _facts("""grass:green, snow:white, coal:black, blood:red, a lemon:yellow, a clear sky:blue, a carrot:orange,
            chocolate:brown, ash:grey, a flamingo:pink, a ripe aubergine:purple, milk:white, a fire engine:red,
            an emerald:green, a raven:black, a canary:yellow, a sapphire:blue, a ruby:red, a polar bear:white,
            an elephant:grey, tar:black, a sunflower:yellow, spinach:green, a pumpkin:orange"""),
    ),
)
