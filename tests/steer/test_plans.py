"""Plans: to a file and back to the same tokens, digests, and what is refused before anything is attached."""

import copy
import inspect
import json

import pytest
import torch
from safetensors.torch import save_file

import saes
from steer.errors import ModelError, OutputError, PlanError
from steer.models.classifier import TextClassifier
from steer.models.decode import Sampling
from steer.models.site import Site
from steer.plans.files import read_plan, write_plan
from steer.plans.made_from import plan_of
from steer.plans.plan import SteeringPlan
from steer.plans.sources import ModelSpec
from steer.plans.vectors import vectors_of
from steer.steering.null_space import NullSpaceEdit
from steer.steering.steered import steered
from tests.conftest import D_MODEL, PROMPTS, byte_tokenizer, count_hooks, random_sae
from tests.steer.plan_data import by_hand, full_plan, is_long, vectors

ADD = {"kind": "direction", "site": "1.resid_post", "direction": "push", "strength": 2.0}
SET = {"kind": "latents", "sae": "one", "values": {"3": 2.0}}
PROBE = {"kind": "probe", "site": "0.resid_post", "weights": "push", "threshold": 0.0}


def nested(depth):
    gate = PROBE
    for _ in range(depth):
        gate = {"kind": "all_of", "gates": [gate]}
    return gate


def replies(lm, bound):
    with steered(lm, *bound.interventions):
        return lm.generate_ids(lm.prompt_ids(bound.conversations(PROMPTS)), bound.sampling)


@pytest.mark.parametrize("suffix", [".json", ".toml"])
def test_plan_to_file_to_plan_gives_the_same_tokens(llama, tmp_path, suffix):
    plan = full_plan(llama, tmp_path)
    read = read_plan(write_plan(plan, tmp_path / f"plan{suffix}"))
    assert read == plan
    assert read.digest == plan.digest
    bound = read.bind(llama, classifiers={"long": is_long})
    assert bound.digest == plan.digest
    assert bound.sampling == Sampling(8, seed=3)
    conversations = [
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt}] for prompt in PROMPTS
    ]
    assert bound.conversations(PROMPTS) == conversations
    with steered(llama, *by_hand(random_sae())):
        expected = llama.generate_ids(llama.prompt_ids(conversations), Sampling(8))
    assert replies(llama, bound) == expected
    assert replies(llama, plan.bind(llama, classifiers={"long": is_long})) == expected
    assert expected != llama.generate_ids(llama.prompt_ids(conversations), Sampling(8))
    assert count_hooks(llama) == 0


def test_a_plan_holds_a_null_space_map(llama, tmp_path):
    matrix = 0.5 * torch.randn(D_MODEL, D_MODEL, generator=torch.Generator().manual_seed(5))
    edit = {"kind": "null_space", "site": "1.resid_post", "matrix": "map", "strength": 2.0}
    plan = SteeringPlan(vectors={"map": matrix}, edits=[edit])
    bound = read_plan(write_plan(plan, tmp_path / "plan.toml")).bind(llama)
    with steered(llama, NullSpaceEdit(Site(1), matrix, 2.0)):
        expected = llama.generate_ids(llama.prompt_ids(PROMPTS), Sampling(8))
    with steered(llama, *bound.interventions):
        assert llama.generate_ids(llama.prompt_ids(PROMPTS), Sampling(8)) == expected
    with pytest.raises(PlanError, match="depends on the token"):
        vectors_of(plan, print, {})
    with pytest.raises(PlanError, match="no vector of the name 'other'"):
        SteeringPlan(vectors={"map": matrix}, edits=[edit | {"matrix": "other"}])


def test_a_matrix_that_was_transposed_is_kept(llama, tmp_path):
    matrix = torch.randn(D_MODEL, D_MODEL).T
    plan = plan_of(llama, [NullSpaceEdit(Site(1), matrix, 0.5)])
    read = read_plan(write_plan(plan, tmp_path / "plan.json"))
    assert read == plan
    assert torch.equal(read.vectors["matrix"], matrix)


def test_a_plan_moves_with_its_folder(llama, tmp_path):
    there = tmp_path / "there"
    write_plan(full_plan(llama, there), there / "plan.toml")
    moved = there.rename(tmp_path / "elsewhere")
    bound = read_plan(moved / "plan.toml").bind(llama, classifiers={"long": is_long})
    assert len(bound.interventions) == 6


def test_both_files_say_the_same_and_nothing_else_is_left(llama, tmp_path):
    plan = full_plan(llama, tmp_path)
    for name in ("a.json", "b.toml"):
        write_plan(plan, tmp_path / name)
    assert read_plan(tmp_path / "a.json").data() == read_plan(tmp_path / "b.toml").data() == plan.data()
    other = plan.model_copy(update={"vectors": {**plan.vectors, "push": torch.ones(D_MODEL)}})
    write_plan(other, tmp_path / "a.json")
    assert read_plan(tmp_path / "a.json") == other != plan
    names = sorted(path.name.split(".")[0] + path.suffix for path in tmp_path.iterdir())
    assert names == ["a.json", "a.safetensors", "b.safetensors", "b.toml", "sae"]


def test_the_digest_is_of_what_a_plan_does(llama, tmp_path):
    plan = full_plan(llama, tmp_path)
    path = write_plan(plan, tmp_path / "plan.json")
    data = json.loads(path.read_text())
    turned = {**dict(reversed(data.items())), "label": "another", "licence": "mit", "source": "a paper"}
    turned["edits"] = [dict(reversed(edit.items())) for edit in data["edits"]]
    turned["edits"][0]["values"] = {"40": 1, "3": 2.5}
    turned["edits"][2]["window"]["exclude_ids"] = [9, 5, 9]
    path.write_text(json.dumps(turned))
    read = read_plan(path)
    assert read.digest == plan.digest
    assert read != plan, "labels tell them apart"
    changes = [
        {"system": "Be long."},
        {"vectors": {**vectors(), "push": torch.ones(D_MODEL)}},
        {"sampling": {"max_new_tokens": 9, "seed": 3}},
        {"edits": data["edits"][:-1]},
        {"model": {"name": "another"}},
    ]
    digests = {full_plan(llama, tmp_path, **change).digest for change in changes}
    assert len(digests | {plan.digest}) == len(changes) + 1


@pytest.mark.parametrize("suffix", [".json", ".toml"])
@pytest.mark.parametrize("operation", ["add", "project_set", "project_cap"])
def test_a_strength_of_zero_is_read_again(tmp_path, operation, suffix):
    plan = SteeringPlan(vectors=vectors(), edits=[{**ADD, "operation": operation, "strength": 0.0}])
    read = read_plan(write_plan(plan, tmp_path / f"plan{suffix}"))
    assert (read, read.edits[0].strength) == (plan, 0.0)


def test_special_characters_and_numbers_survive_both_files(tmp_path):
    text = 'quote " backslash \\ newline \n tab \t delete \x7f emoji \U0001f600 \u2028'
    values = {3: 1e-30, 4: -2.5e20, 5: 1.0}
    plan = SteeringPlan(
        label=text,
        system=text,
        saes={"odd name.": {"source": "saelens:a/b"}},
        edits=[{"kind": "latents", "sae": "odd name.", "values": values}],
    )
    for suffix in (".json", ".toml"):
        read = read_plan(write_plan(plan, tmp_path / f"plan{suffix}"))
        assert (read.label, read.system, read.edits[0].values) == (text, text, values)
        assert read == plan


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"edit": []}, "unknown key 'edit'. Did you mean edits"),
        ({"edits": [{**ADD, "strenght": 2.0}]}, "edits.0.direction: unknown key 'strenght'. Did you mean strength"),
        ({"edits": [{**ADD, "strength": float("nan")}]}, "strength: Input should be a finite number"),
        ({"edits": [{**ADD, "strength": 1e39}]}, "strength: Input should be less than or equal to 3402"),
        ({"edits": [{**ADD, "strength": "4"}]}, "strength: Input should be a valid number"),
        ({"edits": [{key: ADD[key] for key in ADD if key != "strength"}]}, "add needs a strength"),
        ({"edits": [{**ADD, "direction": "pull"}]}, "no vector of the name 'pull': it has push"),
        ({"edits": [{**ADD, "site": "1.nothing"}]}, "Unknown part 'nothing'"),
        ({"edits": [{**ADD, "operation": "rotate"}]}, "needs a second direction"),
        ({"edits": [{**ADD, "operation": "rotate", "second": "push"}]}, "edits.0: The two directions are parallel"),
        ({"edits": [{**ADD, "window": {"start": 4, "stop": 4}}]}, "holds no token"),
        ({"edits": [{**ADD, "window": {"phase": "generated", "roles": ["user"]}}]}, "are the assistant's"),
        ({"edits": [{**ADD, "window": {"phase": "reply"}}]}, "phase: Input should be 'all', 'prompt'"),
        (
            {"edits": [{**ADD, "gate": {"kind": "probe", "site": "0.resid_post", "weights": "push"}}]},
            "threshold: Field",
        ),
        ({"edits": [{**ADD, "gate": {**PROBE, "pool": "own"}}]}, "'own' is that of gates of kind 'pooled'"),
        ({"edits": [{**ADD, "gate": {"kind": "text"}}]}, "classifier: Field required"),
        ({"edits": [{**ADD, "gate": {"kind": "any_of", "gates": []}}]}, "at least 1 item"),
        ({"edits": [{**SET, "sae": "two"}]}, "no SAE of the name 'two': it has one"),
        ({"edits": [{**SET, "values": {}}]}, "at least 1 item"),
        ({"edits": [{**SET, "values": {"-3": 1.0}}]}, "valid integer"),
        ({"edits": [{**SET, "values": {"3": True}}]}, "valid number"),
        ({"edits": [{**SET, "unit": "max_activation"}]}, "needs maxima"),
        ({"edits": [{**SET, "unit": "max_activation", "maxima": {"4": 1.0}}]}, "lacks latent 3"),
        ({"edits": [{**SET, "unit": "residual_norm", "operation": "scale"}]}, "without a unit"),
        ({"edits": [{"kind": "neuron"}]}, "expected tags: 'latents', 'direction'"),
        ({"vectors": {"push": torch.ones(2, 3)}}, "of shape \\[2, 3\\]"),
        ({"vectors": {"push": torch.tensor([float("inf")])}}, "not finite"),
        ({"vectors": {"push": torch.zeros(4)}, "edits": [ADD]}, "must not be zero"),
        ({"sampling": {"top_p": 2.0}}, "top_p"),
        ({"saes": {"one": {"source": "x", "digest": "abc"}}}, "digest: String should match"),
        ({"system": ""}, "at least 1 character"),
        ({"label": "\ud800"}, "label: is not valid Unicode"),
        ({"edits": [{**SET, "values": {"3": 1.0, "03": 2.0}}]}, "values: a latent stands twice"),
        ({"edits": [{**SET, "values": {"3": 1.0, 3: 2.0}}]}, "values: a latent stands twice"),
        ({"edits": [{**ADD, "window": {"stop": 1}}]}, "give first_token=True too"),
        ({"edits": [{**ADD, "gate": nested(33)}]}, "nested more than 32 deep"),
        ({"edits": [{**ADD, "gate": nested(400)}]}, "nested more than 32 deep"),
    ],
)
def test_what_is_wrong_without_a_model_is_refused_when_it_is_made(fields, words):
    with pytest.raises(PlanError, match=words):
        SteeringPlan(**{"saes": {"one": {"source": "sae"}}, "vectors": {"push": vectors()["push"]}, **fields})


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: path.unlink(), "cannot be read: No such file"),
        (lambda path: path.write_text("{"), "is not JSON"),
        (lambda path: path.write_text("[1]"), "holds list"),
        (lambda path: path.write_text('{"version": 2}'), "version 1 of the format is read here, got 2"),
        (lambda path: path.write_text('{"format": "other", "version": 1}'), "its format is not 'steering-plan'"),
        (lambda path: path.write_text('{"version": 1, "folder": "/"}'), "unknown key 'folder'"),
        (lambda path: path.write_text('{"version": 1, "self": 1}'), "unknown key 'self'"),
        (lambda path: path.write_text('{"version": 1, "edits": [], "edits": []}'), "the key 'edits' stands twice"),
        (
            lambda path: path.write_text(path.read_text().replace('"strength":', '"strength": 9.0, "strength":')),
            "the key 'strength' stands twice in one object",
        ),
        (lambda path: path.write_text('{"version": 1, "edits": [{"kind": "latents"}]}'), "sae: Field required"),
        (
            lambda path: path.write_text(path.read_text().replace('"file": "', '"file": "../')),
            "name of a .safetensors file beside the plan",
        ),
        (lambda path: next(path.parent.glob("*.safetensors")).unlink(), "vectors in .* cannot be read"),
        (lambda path: next(path.parent.glob("*.safetensors")).write_bytes(b"\x80\x04N."), "is no safetensors file"),
        (
            lambda path: save_file({"push": torch.ones(4)}, next(path.parent.glob("*.safetensors"))),
            "has other vectors than the plan",
        ),
    ],
)
def test_files_that_are_no_plans(tmp_path, write, words):
    path = write_plan(SteeringPlan(vectors=vectors(), edits=[ADD]), tmp_path / "plan.json")
    write(path)
    with pytest.raises(PlanError, match=words):
        read_plan(path)


def test_a_plan_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "plan.json").mkdir()
    with pytest.raises(OutputError, match="a folder where a file is to be written"):
        write_plan(SteeringPlan(vectors=vectors(), edits=[ADD]), tmp_path / "plan.json")
    with pytest.raises(OutputError, match="cannot be written: File name too long"):
        write_plan(SteeringPlan(vectors=vectors(), edits=[ADD]), tmp_path / f"{'x' * 300}.json")
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_what_is_no_sae_is_not_bound(llama):
    plan = SteeringPlan(saes={"one": {"source": "sae"}}, edits=[SET])
    with pytest.raises(PlanError, match="needs an SAE, such as"):
        inspect.unwrap(SteeringPlan.bind)(plan, llama, saes={"one": "runs/demo/sae"})


def test_a_bare_model_is_not_bound(llama):
    with pytest.raises(ModelError, match="A LanguageModel is steered, got LlamaForCausalLM"):
        inspect.unwrap(SteeringPlan.bind)(SteeringPlan(), llama.model)


def test_a_plan_is_json_or_toml(tmp_path):
    for call in (read_plan, lambda path: write_plan(SteeringPlan(), path)):
        with pytest.raises(PlanError, match=r"ends in \.json or \.toml"):
            call(tmp_path / "plan.pkl")


FAILURES = {
    "width": ({"model": {"d_model": 64}}, {}, "for another model: d_model of its model is 64"),
    "layers": ({"model": {"name": "big", "n_layers": 4}}, {}, "n_layers of big is 4"),
    "config": ({"model": {"config_digest": "0" * 64}}, {}, "config_digest"),
    "weights": ({"model": {"weights_digest": "0" * 64}}, {}, "weights_digest"),
    "site": ({"edits": [{**ADD, "site": "9.resid_post"}]}, {}, "edits.0: Layer 9 is out of range"),
    "gate's site": (
        {"edits": [{**ADD, "window": {"phase": "generated"},
                    "gate": {"kind": "condition", "site": "9.resid_post", "direction": "push", "threshold": 0}}]},
        {},
        "Layer 9 is out of range",
    ),
    "gate's order": (
        {"edits": [
            {**ADD, "gate": {"kind": "condition", "site": "2.resid_post", "direction": "push", "threshold": 0}}
        ]},
        {},
        "it is too late",
    ),
    "latent": ({"edits": [{**SET, "sae": "refusal", "values": {"96": 1.0}}]}, {}, "edits.0: Latent 96 is out of range"),
    "twice": ({"edits": [{**SET, "sae": "refusal"}, {**SET, "sae": "refusal"}]}, {}, "Latent 3 is set twice"),
    "vector's width": ({"vectors": {**vectors(), "push": torch.ones(5)}, "edits": [ADD]}, {}, "has 5 dimensions"),
    "classifier": ({}, {"classifiers": {}}, "No classifier 'long': it is no folder"),
    "no such sae": ({}, {"saes": {"x": random_sae()}}, "no SAE of the name 'x': it has refusal"),
    "another sae": ({}, {"saes": {"refusal": random_sae(seed=9)}}, "is not the one that the plan was made with"),
}  # fmt: skip


@pytest.mark.parametrize("failure", FAILURES)
def test_a_plan_that_does_not_fit_is_refused_and_the_model_is_as_it_was(llama, tmp_path, failure):
    fields, given, words = FAILURES[failure]
    plan = full_plan(llama, tmp_path, **fields)
    tokens = llama.pad(llama.prompt_ids(PROMPTS))
    before = llama.forward(tokens)
    with pytest.raises(PlanError, match=words):
        plan.bind(llama, **{"classifiers": {"long": is_long}, **given})
    assert count_hooks(llama) == 0
    assert torch.equal(llama.forward(tokens), before)


def test_an_sae_that_was_exchanged_on_disk_is_refused(llama, tmp_path):
    plan = full_plan(llama, tmp_path)
    saes.save(random_sae(seed=9), tmp_path / "other")
    for path in (tmp_path / "other").iterdir():
        path.replace(tmp_path / "sae" / path.name)
    with pytest.raises(PlanError, match="is not the one that the plan was made with"):
        plan.bind(llama, classifiers={"long": is_long})


def test_what_is_not_checked_is_told(llama, tmp_path):
    notes = []
    plan = full_plan(llama, tmp_path, model={"name": "other"}, saes={"refusal": {"source": "sae"}})
    plan.bind(llama, notes.append, classifiers={"long": is_long})
    assert notes[0] == "the plan is for the model 'other', and is used on 'tiny-llama'."
    assert notes[1] == "the plan has no digest of the SAE 'refusal', so any SAE at sae will do."


def test_digests_of_a_model_are_of_its_shape_and_of_its_weights(llama, tiny):
    own = ModelSpec.of(llama, weights=True)
    own.check(llama, lambda note: None)
    assert ModelSpec.of(tiny("gpt2")).config_digest != own.config_digest
    tuned = copy.deepcopy(llama)
    tuned.model.lm_head.weight[3, 3] += 1
    assert ModelSpec.of(tuned).config_digest == own.config_digest
    with pytest.raises(PlanError, match="weights_digest"):
        own.check(tuned, lambda note: None)


def classifier_model(folder):
    from transformers import LlamaConfig, LlamaForSequenceClassification

    from tests.conftest import SMALL

    tokenizer = byte_tokenizer()
    torch.manual_seed(1)
    labels = {"id2label": {0: "fine", 1: "unsafe"}, "label2id": {"fine": 0, "unsafe": 1}}
    config = LlamaConfig(**SMALL, vocab_size=len(tokenizer), num_hidden_layers=1, **labels)
    model = LlamaForSequenceClassification(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return TextClassifier(model, tokenizer, 1)


def test_a_classifier_may_be_a_model_for_sequence_classification(llama, tmp_path):
    by_hand = classifier_model(tmp_path / "classifier")
    scores = by_hand(PROMPTS)
    assert ((scores > 0) & (scores < 1)).all()
    threshold = scores.sort().values[1:3].mean().item()
    gate = {"kind": "text", "classifier": str(tmp_path / "classifier"), "label": "unsafe", "threshold": threshold}
    plan = SteeringPlan(vectors=vectors(), edits=[{**ADD, "strength": 60.0, "gate": gate}])
    plain, always = (
        llama.generate(PROMPTS, Sampling(6)),
        SteeringPlan(vectors=vectors(), edits=[{**ADD, "strength": 60}]),
    )
    with steered(llama, *always.bind(llama).interventions):
        steered_replies = llama.generate(PROMPTS, Sampling(6))
    with steered(llama, *plan.bind(llama).interventions):
        got = llama.generate(PROMPTS, Sampling(6))
    expected = [s if score > threshold else p for p, s, score in zip(plain, steered_replies, scores, strict=True)]
    assert got == expected
    beside = SteeringPlan(
        **plan.model_dump() | {"edits": [{**ADD, "gate": gate | {"classifier": "classifier"}}]},
        vectors=vectors(),
        folder=tmp_path,
    )
    assert len(beside.bind(llama).interventions) == 1, "a path starts from the folder of the plan"
    with pytest.raises(PlanError, match="has no class 'bad': it has fine, unsafe"):
        SteeringPlan(vectors=vectors(), edits=[{**ADD, "gate": {**gate, "label": "bad"}}]).bind(llama)
