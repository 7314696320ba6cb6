"""Capability tasks against lm-evaluation-harness 0.4.13, item by item, and steered models inside it."""

import copy
import csv
import json
import os
import subprocess
import sys

import pytest
import torch

from steer.evals.complete import complete
from steer.evals.tasks.gsm8k import gsm8k
from steer.evals.tasks.mmlu import mmlu
from steer.evals.tasks.truthfulqa import truthfulqa_mc1, truthfulqa_mc2
from steer.evals.tasks.truthfulqa_gen import truthfulqa_gen
from steer.evals.tasks.wikitext import split_pages, wikitext
from steer.models.chat import raw_text
from steer.models.load import load_model
from steer.models.site import Site
from steer.plans.files import read_plan, write_plan
from steer.plans.plan import SteeringPlan
from steer.responders.prompted import Unsteered
from steer.responders.steered import Steered
from steer.steering.direction_edits import AddDirection
from steer.steering.gates import Gate, Gated
from steer.steering.scores import ProbeScore
from tests.conftest import folder_or_skip

pytest.importorskip("lm_eval", reason="the extra [harness] is not installed: pip install 'saesteer[harness]'")

from lm_eval.models.huggingface import HFLM

from steer.errors import DataError, ModelError, NotFiniteError, PlanError
from steer.evals.harness import SteerLM, main
from tests.steer.harness_tasks import evaluated, run, write_jsonl, write_task

os.environ["HF_DATASETS_OFFLINE"] = "1"
ITEMS = int(os.environ.get("STEER_HARNESS_ITEMS", "6"))  # of each task; more for a record
CLOSE = {"abs": 2e-3, "rel": 1e-5}  # float32 sums over some hundred tokens, in other batches


@pytest.fixture(scope="module")
def stories():
    return load_model(str(folder_or_skip("models/stories260K") / "hf"))


@pytest.fixture(params=["stories", "embedded"])
def lm(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(autouse=True)
def datasets_here(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def theirs(lm):
    return HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=8)


def ours(task, lm, interventions=()):
    responder = Steered(lm, interventions) if interventions else Unsteered(lm, 8)
    done = complete(responder, task.samples, task)
    return done, task.score(task.samples, done)


def logprobs(sample):
    return [float(one[0][0]) for one in sample["resps"]]


def same_items(task, lm, samples, figure, metric, record):
    done, scores = ours(task, lm)
    assert len(samples) == len(task.samples)
    worst = 0.0
    for one, completion, score in zip(samples, done, scores, strict=True):
        assert list(completion.logprobs) == pytest.approx(logprobs(one), **CLOSE)
        worst = max(worst, *(abs(a - b) for a, b in zip(completion.logprobs, logprobs(one), strict=True)))
        assert score.figures[figure] == pytest.approx(one[metric], abs=1e-5)
    record(f"{task.name}_{lm.n_layers}_layers_{len(samples)}_items", f"{worst:.1e} nats")


def hub_rows(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        {"question": r["question"], "choices": [r[f"choice{i}"] for i in range(4)], "answer": int(r["answer"])}
        for r in rows
    ]


@pytest.mark.parametrize("shots", [0, 2])
@pytest.mark.parametrize("chat", [False, True])
def test_mmlu(lm, tmp_path, shots, chat, record_property):
    data, subject = folder_or_skip("mmlu"), "abstract_algebra"
    if chat and not lm.has_chat_template:
        pytest.skip("the model has no chat template")
    files = {
        part: write_jsonl(tmp_path / f"{part}.jsonl", hub_rows(data / part / f"{subject}_{part}.csv"))
        for part in ("dev", "test")
    }
    about = "The following are multiple choice questions (with answers) about abstract algebra.\n\n"
    write_task(tmp_path, "their_mmlu", "mmlu/default/_default_template_yaml", files, description=about)
    samples = run(theirs(lm), "their_mmlu", tmp_path, ITEMS, num_fewshot=shots, apply_chat_template=chat)
    task = mmlu(data, shots, chat, subjects=[subject], limit=ITEMS)
    if not chat:
        same_items(task, lm, samples, "acc", "acc", record_property)
        return
    done, scores = ours(task, lm)
    for one, completion, score in zip(samples, done, scores, strict=True):
        apart = [a - b for a, b in zip(completion.logprobs, logprobs(one), strict=True)]
        assert apart == pytest.approx([apart[0]] * 4, abs=1e-3), "they score the template's last line break too"
        assert score.figures["acc"] == one["acc"]


@pytest.mark.parametrize(("which", "make", "figure"), [("mc1", truthfulqa_mc1, "acc"), ("mc2", truthfulqa_mc2, "mass")])
def test_truthfulqa(lm, tmp_path, which, make, figure, record_property):
    source = folder_or_skip("truthfulqa") / "mc_task.json"
    rows = [
        {"question": row["question"]}
        | {
            name: {"choices": list(row[name]), "labels": list(row[name].values())}
            for name in ("mc1_targets", "mc2_targets")
        }
        for row in json.loads(source.read_text(encoding="utf-8"))
    ]
    files = {"validation": write_jsonl(tmp_path / "rows.jsonl", rows)}
    write_task(tmp_path, f"their_{which}", f"truthfulqa/truthfulqa_{which}.yaml", files)
    samples = run(theirs(lm), f"their_{which}", tmp_path, ITEMS)
    same_items(make(source, limit=ITEMS), lm, samples, figure, "acc", record_property)
    if lm.has_chat_template:
        task = make(source, chat=True, limit=ITEMS)
        samples = run(theirs(lm), f"their_{which}", tmp_path, ITEMS, apply_chat_template=True)
        for one, score in zip(samples, ours(task, lm)[1], strict=True):
            assert score.figures[figure] == pytest.approx(one["acc"], abs=1e-4)


def truthful_rows(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        {
            "question": row["Question"],
            "correct_answers": row["Correct Answers"].split(";"),
            "incorrect_answers": row["Incorrect Answers"].split(";"),
        }
        for row in rows
    ]


def test_truthfulqa_generation(lm, tmp_path):
    source = folder_or_skip("truthfulqa") / "TruthfulQA.csv"
    files = {"validation": write_jsonl(tmp_path / "rows.jsonl", truthful_rows(source)[: 3 * ITEMS])}
    limits = {"until": ["\n\n"], "do_sample": False, "max_gen_toks": 24}
    write_task(tmp_path, "their_gen", "truthfulqa/truthfulqa_gen.yaml", files, generation_kwargs=limits)
    samples = run(theirs(lm), "their_gen", tmp_path, ITEMS)
    task = truthfulqa_gen(source, limit=ITEMS, max_new_tokens=24)
    done, scores = ours(task, lm)
    for one, completion, score in zip(samples, done, scores, strict=True):
        assert completion.text == one["resps"][0][0].strip()
        assert score.figures == pytest.approx({name: one[name] for name in score.figures})
    assert (
        any(completion.text for completion in done) or lm.name == "embedded"
    )  # which ends at once without its template


def gsm_files(tmp_path):
    path = folder_or_skip("gsm8k") / "test.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {
        "train": write_jsonl(tmp_path / "train.jsonl", rows[-2:]),
        "test": write_jsonl(tmp_path / "test.jsonl", rows[: 3 * ITEMS]),
    }


def write_gsm8k(tmp_path, files, shots=2):
    limits = {"until": ["Question:", "</s>", "<|im_end|>"], "do_sample": False, "max_gen_toks": 32}
    first = {"sampler": "first_n"}
    options = {"generation_kwargs": limits, "fewshot_config": first, "num_fewshot": shots}
    write_task(tmp_path, "their_gsm8k", "gsm8k/gsm8k.yaml", files, **options)


def strict_and_flexible(samples):
    by_filter = {name: [s for s in samples if s["filter"] == name] for name in ("strict-match", "flexible-extract")}
    return zip(by_filter["strict-match"], by_filter["flexible-extract"], strict=True)


@pytest.mark.parametrize("chat", [False, True])
def test_gsm8k(lm, tmp_path, chat):
    if chat and not lm.has_chat_template:
        pytest.skip("the model has no chat template")
    files, shots = gsm_files(tmp_path), 1 if chat else 2  # more turns do not fit into the context
    write_gsm8k(tmp_path, files, shots)
    samples = run(theirs(lm), "their_gsm8k", tmp_path, ITEMS, apply_chat_template=chat)
    task = gsm8k(files["test"], files["train"], shots=shots, chat=chat, limit=ITEMS, max_new_tokens=32)
    done, scores = ours(task, lm)
    for (strict, flexible), completion, score in zip(strict_and_flexible(samples), done, scores, strict=True):
        assert completion.text == strict["resps"][0][0].strip()
        assert score.figures == {"strict": strict["exact_match"], "flexible": flexible["exact_match"]}
    assert any(completion.text for completion in done)


def test_wikitext(lm, tmp_path):
    text = (folder_or_skip("wikitext2") / "test.txt").read_text(encoding="utf-8")
    pages = [page[:9000] for page in split_pages(text)[:3]]
    files = {"test": write_jsonl(tmp_path / "pages.jsonl", [{"page": page} for page in pages])}
    lone = {"training_split": None, "validation_split": None}
    write_task(tmp_path, "their_wikitext", "wikitext/wikitext.yaml", files, **lone)
    found = evaluated(theirs(lm), "their_wikitext", tmp_path)
    task = wikitext(files["test"])
    done, scores = ours(task, lm)
    for one, completion in zip(found["samples"]["their_wikitext"], done, strict=True):
        assert completion.logprobs[0] == pytest.approx(float(one["resps"][0][0]), rel=1e-5)
        assert completion.tokens > lm.context, "the page is longer than the model's context"
    for metric in task.metrics[:3]:
        theirs_is = found["results"]["their_wikitext"][f"{metric.name},none"]
        assert metric.value(scores) == pytest.approx(theirs_is, rel=1e-5)


# steered models inside lm-eval


@pytest.fixture
def plan(embedded, tmp_path):
    """A plan for the embedded model that adds a random direction to each token of prompt and reply."""
    direction = torch.randn(embedded.d_model, generator=torch.Generator().manual_seed(0))
    made = SteeringPlan(
        edits=[
            {
                "kind": "direction",
                "site": "2.resid_post",
                "direction": "random",
                "strength": 0.5,
                "unit": "residual_norm",
            }
        ],
        vectors={"random": direction / direction.norm()},
    )
    write_plan(made, tmp_path / "plan.toml")
    return tmp_path / "plan.toml"


@pytest.mark.slow
@pytest.mark.parametrize("command_line", ["lm_eval", "steer.evals.harness"])
def test_a_steered_model_through_their_command_line_gives_our_items(embedded, tmp_path, plan, command_line):
    source = folder_or_skip("truthfulqa") / "mc_task.json"
    task = truthfulqa_mc1(source, limit=3)
    rows = [
        {"question": row["question"], "mc1_targets": {"choices": list(row["mc1_targets"]), "labels": [1]}}
        for row in json.loads(source.read_text(encoding="utf-8"))[:3]
    ]
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    files = {"validation": write_jsonl(tmp_path / "rows.jsonl", rows)}
    write_task(tasks, "their_mc1", "truthfulqa/truthfulqa_mc1.yaml", files)
    command = [sys.executable, "-m", command_line, "--model", "steer", "--include_path", str(tasks)]
    command += ["--model_args", f"pretrained=embedded,plan={plan}", "--tasks", "their_mc1", "--log_samples"]
    command += ["--output_path", str(tmp_path / "out"), "--batch_size", "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    (written,) = (tmp_path / "out").rglob("samples_their_mc1_*.jsonl")
    samples = sorted(map(json.loads, written.read_text().splitlines()), key=lambda one: one["doc_id"])
    interventions = read_plan(plan).bind(embedded).interventions
    steered, scores = ours(task, embedded, interventions)
    plain, _ = ours(task, embedded)
    for one, completion, unsteered, score in zip(samples, steered, plain, scores, strict=True):
        assert list(completion.logprobs) == pytest.approx(logprobs(one), **CLOSE)
        assert list(unsteered.logprobs) != pytest.approx(logprobs(one), **CLOSE)
        assert score.figures["acc"] == one["acc"]
    (results,) = (tmp_path / "out").rglob("results_*.json")
    assert json.loads(results.read_text())["config"]["plan_digest"] == read_plan(plan).digest


@pytest.mark.slow  # lm-eval reads the names of all its tasks first
def test_what_the_user_can_mend_is_one_message(tmp_path, monkeypatch, capsys):
    write_task(tmp_path, "their_mc1", "truthfulqa/truthfulqa_mc1.yaml", {"validation": tmp_path / "rows.jsonl"})
    arguments = ["--model", "steer", "--model_args", "pretrained=embedded,plan=none.toml", "--tasks", "their_mc1"]
    monkeypatch.setattr(sys, "argv", ["steer-lm-eval", *arguments, "--include_path", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "steer-lm-eval: The plan none.toml cannot be read" in capsys.readouterr().err


def test_their_replies_under_a_plan_are_ours(embedded, tmp_path, plan):
    files = gsm_files(tmp_path)
    write_gsm8k(tmp_path, files)
    model = SteerLM(plan=str(plan))
    samples = run(model, "their_gsm8k", tmp_path, 3)
    task = gsm8k(files["test"], files["train"], shots=2, limit=3, max_new_tokens=32)
    done, _ = ours(task, embedded, model.interventions)
    assert [one.text for one in done] == [strict["resps"][0][0].strip() for strict, _ in strict_and_flexible(samples)]
    assert [one.text for one in done] != [one.text for one in ours(task, embedded)[0]]


def test_unsteered_it_is_their_own_model(embedded, tmp_path):
    rows = hub_rows(folder_or_skip("mmlu") / "test" / "anatomy_test.csv")
    files = {"test": write_jsonl(tmp_path / "test.jsonl", rows), "dev": write_jsonl(tmp_path / "dev.jsonl", rows[:2])}
    write_task(tmp_path, "their_mmlu", "mmlu/default/_default_template_yaml", files)
    ours_is, theirs_is = (
        run(model, "their_mmlu", tmp_path, 4, num_fewshot=1, apply_chat_template=True)
        for model in (SteerLM(), theirs(embedded))
    )
    for one, other in zip(ours_is, theirs_is, strict=True):
        assert logprobs(one) == pytest.approx(logprobs(other), **CLOSE), "here the line break is scored as there"
        assert [bool(r[0][1]) for r in one["resps"]] == [bool(r[0][1]) for r in other["resps"]]


def test_a_template_without_system_messages_leaves_them_out_as_theirs_does(embedded, caplog):
    model, other = SteerLM(), theirs(copy.deepcopy(embedded))
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('none') }}{% endif %}"
    model.steered.tokenizer.chat_template = refusing + model.steered.tokenizer.chat_template
    other.tokenizer.chat_template = model.steered.tokenizer.chat_template
    talk = [{"role": role, "content": role} for role in ("system", "user", "assistant", "user")]
    assert model.apply_chat_template(talk) == other.apply_chat_template(talk)
    assert "left out" in caplog.text
    assert model.apply_chat_template(talk[1:3], False) == other.apply_chat_template(talk[1:3], False)
    model.steered.tokenizer.chat_template = None
    with pytest.raises(DataError, match="has no chat template"):
        model.apply_chat_template(talk)


def test_their_cache_of_answers_is_refused_to_another_plan(tmp_path, plan):
    rows = hub_rows(folder_or_skip("mmlu") / "test" / "anatomy_test.csv")[:2]
    files = {"test": write_jsonl(tmp_path / "test.jsonl", rows), "dev": write_jsonl(tmp_path / "dev.jsonl", rows)}
    write_task(tmp_path, "their_mmlu", "mmlu/default/_default_template_yaml", files)
    kept = {"use_cache": str(tmp_path / "answers")}
    first = run(SteerLM(), "their_mmlu", tmp_path, **kept)
    assert [logprobs(one) for one in run(SteerLM(), "their_mmlu", tmp_path, **kept)] == [logprobs(o) for o in first]
    with pytest.raises(DataError, match="another model or plan"):
        run(SteerLM(plan=str(plan)), "their_mmlu", tmp_path, **kept)


def test_a_gate_inside_lm_eval_reads_the_prompt_alone(embedded):
    """Contexts of unequal length in one batch: no padding is read, and no option."""
    from lm_eval.api.instance import Instance

    contexts = ["One day", "The dog ran to the big red house and", "She had a", "A boy saw the cat in the garden near"]
    asked = [
        Instance(request_type="loglikelihood", doc={}, arguments=(context, option), idx=0)
        for context in contexts
        for option in (" was", " ran home very fast")
    ]
    site = Site.parse("1.resid_post")
    weights, direction = torch.randn(2, embedded.d_model, generator=torch.Generator().manual_seed(1))
    pooled = []
    for row in embedded.prompt_ids([raw_text(context) for context in contexts]):
        pooled.append((embedded.activations(embedded.pad([row]), [site])[site][0, 1:] @ weights).mean().item())
    threshold = sum(sorted(pooled)[1:3]) / 2
    gate = Gate(ProbeScore(site, weights), threshold, pool="mean")
    model = SteerLM()
    plain = [one for one, _ in model.loglikelihood(asked)]
    model.interventions = (Gated(AddDirection("2.resid_post", direction, 20.0), gate),)
    gated = [one for one, _ in model.loglikelihood(asked)]
    assert [one for request in asked for one, _ in model.loglikelihood([request])] == pytest.approx(gated, abs=1e-4)
    changed = [abs(one - other) > 1e-3 for one, other in zip(plain, gated, strict=True)]
    assert changed == [value > threshold for value in pooled for _ in range(2)]
    assert any(changed)
    assert not all(changed)


def test_what_cannot_be_is_refused(embedded, tmp_path, plan):
    from lm_eval.api.instance import Instance

    def asked(kind, *arguments):
        return [Instance(request_type=kind, doc={}, arguments=arguments, idx=0)]

    with pytest.raises(ModelError, match="no argument 'pretrain'"):
        SteerLM(pretrain="embedded")
    prompted = read_plan(plan).model_copy(update={"system": "Be kind."})
    with pytest.raises(PlanError, match="--system_instruction"):
        SteerLM(plan=prompted)
    model = SteerLM()
    with pytest.raises(DataError, match="num_beams"):
        model.generate_until(asked("generate_until", "a", {"num_beams": 4}))
    model.steered = copy.deepcopy(embedded)
    model.steered.model.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(NotFiniteError, match="first option"):
        model.loglikelihood(asked("loglikelihood", "a", " b"))


def test_lm_eval_knows_the_model_by_name_before_it_is_imported():
    """0.4.13 reads no entry points; torch's tell it (``steer.evals.harness_plugin``), and it loses no name."""
    code = """
import lm_eval.models
theirs = set(lm_eval.models.MODEL_MAPPING)
import lm_eval, sys
import torch
print("steer.evals.harness" in sys.modules)
from lm_eval.api.registry import get_model, model_registry
print({*model_registry} == {*theirs, "steer"})
model = get_model("steer")
import steer.evals.harness
print(model is steer.evals.harness.SteerLM)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.split() == ["False", "True", "True"]


def test_where_torch_came_first_importing_our_module_tells_the_name():
    code = """
import torch
from lm_eval.api.registry import get_model
import steer.evals.harness
print(get_model("steer") is steer.evals.harness.SteerLM)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.split() == ["True"]
