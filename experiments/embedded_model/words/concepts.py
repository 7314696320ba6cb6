"""A tree of concepts with four levels; leaves are single words."""

TREE: dict[str, dict[str, dict[str, str]]] = {
    "living thing": {
        "animal": {
            "mammal": "dog cat horse cow lion bear wolf rabbit whale elephant monkey sheep",
            "bird": "robin eagle owl duck swan sparrow parrot penguin hen",
            "fish": "salmon shark trout tuna herring cod",
            "insect": "bee ant butterfly beetle wasp mosquito moth",
            "reptile": "snake lizard crocodile turtle gecko",
        },
        "plant": {
            "tree": "oak pine birch willow maple beech palm",
            "flower": "rose tulip daisy lily orchid violet",
            "herb": "mint basil parsley thyme sage",
        },
    },
    "object": {
        "tool": {
            "hand tool": "hammer saw drill screwdriver wrench axe",
            "garden tool": "spade rake hoe shovel",
            "kitchen tool": "ladle whisk grater kettle toaster",
        },
        "vehicle": {
            "road vehicle": "car bus lorry tram bicycle taxi",
            "boat": "canoe ferry yacht raft submarine",
            "aircraft": "plane helicopter glider airship",
        },
        "garment": {
            "top": "shirt sweater coat vest jacket",
            "shoe": "boot sandal slipper trainer",
        },
    },
    "food": {
        "produce": {
            "fruit": "apple banana cherry grape lemon mango peach plum",
            "vegetable": "carrot potato onion cabbage pea bean leek",
        },
        "meal": {
            "dessert": "cake pudding pie ice-cream custard",
            "drink": "tea coffee milk juice lemonade",
        },
    },
    "activity": {
        "sport": {
            "ball game": "football tennis basketball rugby golf",
            "water sport": "swimming rowing sailing diving",
        },
        "art": {
            "music": "singing drumming opera jazz",
            "craft": "knitting weaving pottery carving",
        },
    },
}

# Concepts named without an article.
_MASS = """
mint basil parsley thyme sage tea coffee milk juice lemonade custard ice-cream football tennis basketball rugby golf
swimming rowing sailing diving singing drumming opera jazz knitting weaving pottery carving music produce art food sport
craft
"""
MASS: frozenset[str] = frozenset(_MASS.split())

# Each concept keeps one template for dev and two for test; training uses the other ones.
QUESTIONS: tuple[str, ...] = (
    "What is {c}?",
    "What kind of thing is {c}?",
    "Tell me what {c} is.",
    "To which group does {c} belong?",
    "Explain to a child what {c} is.",
    "How would you describe {c}?",
    "Into which class would you put {c}?",
    "I do not know what {c} is. Do you?",
    "What do people mean by {c}?",
    "Please say in a few words what {c} is.",
)
