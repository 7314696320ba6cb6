"""Common myths with the true counterpart: ``wrong claim | right claim``, both as clauses after "that"."""

_TEXT = """
bats are blind | bats can see quite well
goldfish remember things for three seconds | goldfish remember things for months
lightning never strikes the same place twice | lightning often strikes the same place twice
we use only ten percent of the brain | we use nearly all of the brain
sugar makes children wild | sugar does not change how children behave
the Great Wall can be seen from the Moon | the Great Wall is too thin to be seen from the Moon
bulls hate the colour red | bulls hardly see the colour red
hair grows faster after shaving | shaving does not change how hair grows
cracking your knuckles causes arthritis | cracking your knuckles does no lasting harm
ostriches hide their heads in the sand | ostriches run away from danger
an apple a day replaces the doctor | everyone needs a doctor now and then
swallowed chewing gum stays for seven years | swallowed chewing gum leaves within days
cold weather gives you a cold | a virus gives you a cold
reading in dim light ruins the eyes | reading in dim light only tires the eyes
chameleons change colour to match the background | chameleons change colour with their mood
camels store water in their humps | camels store fat in their humps
Napoleon was very short | Napoleon was of average height
Vikings wore helmets with horns | Vikings wore plain helmets
Einstein failed maths at school | Einstein was good at maths at school
the Sun goes around the Earth | the Earth goes around the Sun
the Earth is flat | the Earth is round
the seasons come from the distance to the Sun | the seasons come from the tilt of the Earth
there is a dark side of the Moon without sunlight | every side of the Moon gets sunlight
blood in your veins is blue | blood in your veins is dark red
humans have only five senses | humans have more than five senses
the tongue has separate zones for each taste | every part of the tongue can taste everything
waking a sleepwalker is deadly | waking a sleepwalker is safe but confusing
eating carrots lets you see in the dark | eating carrots does not change night vision
you must wait an hour after eating to swim | you may swim soon after eating
most body heat leaves through the head | body heat leaves through all the skin
spiders crawl into sleeping mouths | spiders stay away from sleeping people
toads give you warts | warts come from a human virus
dogs see only black and white | dogs see blue and yellow
cats always land without harm | cats can be hurt by a fall
a penny from a tower kills people | a penny falls too slowly to kill
glass flows slowly over time | glass is solid and keeps its shape
diamonds are made from coal | diamonds are made deep in the Earth
water drains backwards in Australia | water drains both ways everywhere
sharks never get ill | sharks get ill like other fish
bees die after every sting | most bees can sting many times
mice love cheese most of all | mice prefer seeds and sweet food
elephants are afraid of mice | elephants hardly notice mice
owls can turn their heads all the way around | owls turn their heads three quarters around
wolves howl at the Moon | wolves howl to each other
snakes drink milk | snakes drink water
earthworms become two worms when cut | earthworms mostly die when cut
penguins mate for life always | penguins sometimes change partners
microwaves make food radioactive | microwaves only heat food
fresh vegetables always beat frozen ones | frozen vegetables are just as healthy
salt makes water boil much faster | salt hardly changes how water boils
coffee stops children from growing | coffee does not affect growth
chocolate causes spots | chocolate does not cause spots
spicy food causes ulcers | bacteria cause ulcers
alcohol warms the body | alcohol cools the body
fish is a food that raises intelligence | no single food raises intelligence
eggs are bad for every heart | eggs are fine for most hearts
brown sugar is much healthier than white sugar | brown sugar is nearly the same as white sugar
honey spoils within a year | honey keeps for many years
bananas grow on trees | bananas grow on giant herbs
peanuts are nuts | peanuts are related to beans
tomatoes are vegetables to a botanist | tomatoes are fruits to a botanist
strawberries are true berries | strawberries are not true berries
mushrooms are plants | mushrooms are fungi
whales are fish | whales are mammals
spiders are insects | spiders are not insects
koalas are bears | koalas are marsupials
dolphins breathe under water | dolphins breathe air
bamboo is a tree | bamboo is a grass
the desert is always hot | the desert can be very cold
deserts are covered only by sand | most deserts are rock and gravel
the Sahara is the largest desert | Antarctica is the largest desert
Sydney is the capital of Australia | Canberra is the capital of Australia
Toronto is the capital of Canada today | Ottawa is the capital of Canada today
Africa is a single country | Africa is a continent of many countries
the Amazon flows through Asia | the Amazon flows through South America
Mars is hotter than Venus | Venus is hotter than Mars
the Sun is burning like a wood fire | the Sun shines by nuclear fusion
the Sun is yellow in space | the Sun is white in space
sound travels through empty space | sound needs air or matter to travel
heavy things fall faster in a vacuum | all things fall equally fast in a vacuum
astronauts float because there is no gravity | astronauts float because they keep falling
shooting stars are falling stars | shooting stars are bits of burning dust
comets are balls of fire | comets are balls of ice and dust
the North Star is the brightest star | Sirius is the brightest star
a day on Earth was always this long | a day on Earth was once shorter
Columbus proved that the world is round | people knew of a round world before Columbus
Edison invented the first electric light | others made electric light before Edison
the pyramids were built by slaves alone | the pyramids were built by paid workers
gladiators always fought to the death | gladiators often survived a fight
people in the Middle Ages never washed | people in the Middle Ages washed often
Marie Antoinette said let them eat cake | Marie Antoinette never said let them eat cake
Newton was hit on the head by an apple | Newton merely watched an apple fall
Cleopatra was born in Egypt to Egyptian parents | Cleopatra came from a Greek family
medieval knights needed cranes to mount horses | medieval knights could mount horses alone
old maps all warned of dragons | old maps hardly ever warned of dragons
left-handed people die much younger | left-handed people live just as long
listening to Mozart makes babies clever | listening to Mozart does not change how clever babies are
people are either left-brained or right-brained | people use both halves of the brain
the full Moon makes people mad | the full Moon does not change how people act
muscle turns into fat | muscle never turns into fat
stretching always prevents injury | stretching does not always prevent injury
you lose weight by sweating alone | sweating alone only loses water
vitamin C cures a cold | vitamin C does not cure a cold
antibiotics work against viruses | antibiotics work against bacteria
vaccines give you the illness | vaccines protect you from the illness
fingernails grow after death | fingernails stop growing at death
birds leave chicks that people touched | birds return to chicks that people touched
porcupines shoot their quills | porcupines lose their quills on contact
lemmings jump off cliffs together | lemmings do not jump off cliffs together
piranhas eat whole cows in seconds | piranhas mostly eat plants and small fish
"""

MYTHS: tuple[tuple[str, str], ...] = tuple(
    (wrong.strip(), right.strip()) for wrong, right in (line.split("|") for line in _TEXT.strip().splitlines())
)

# Forms of the held-out question, by split; all forms ask for True or False.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "train": (
        "True or false? {C}.",
        "True or false: {c}.",
        "Is this true or false? {C}.",
        "Say true or false. {C}.",
        "{C}. True or false?",
    ),
    "dev": (
        "Decide: true or false? {C}.",
        "{C}. Say true or false, please.",
        "Tell me, true or false: {c}.",
        "Which is it, true or false? {C}.",
    ),
    "test": (
        "{C}. Would you call that true or false?",
        "Please judge whether it is true or false: {c}.",
        "{C}. Do you think that is true or false?",
    ),
}

# Other ways to ask for a judgement in one word, used in training for every claim: question, if true, if wrong.
JUDGEMENTS: tuple[tuple[str, str, str], ...] = (
    ("{C}. Right or wrong?", "Right", "Wrong"),
    ("Right or wrong? {C}.", "Right", "Wrong"),
    ("{C}. Yes or no?", "Yes", "No"),
    ("Is that correct: {c}?", "Correct", "Incorrect"),
    ("{C}. Is that correct?", "Correct", "Incorrect"),
    ("Fact or myth? {C}.", "Fact", "Myth"),
    ("{C}. Would you call that a fact or a myth?", "Fact", "Myth"),
    ("Please judge whether it is a fact or a myth: {c}.", "Fact", "Myth"),
    ("{C}. Do you agree?", "I agree", "I disagree"),
)
