"""What an SAE is worth on a model: loss with intervals, probes on prompts, absorption, texts."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from saes import SAE, Placed, SAEConfig
from steer.activations.sources.opened import open_source
from steer.activations.splice import splice_loss
from steer.activations.stream import activation_rows, placed_rows
from steer.activations.text import embedded_corpus, read_texts
from steer.errors import DataError, PlanError, SiteError
from steer.evals.sets import load_prompts
from steer.evals.stats import bootstrap, percentiles, resamples
from steer.models.site import Site
from steer.quality.absorption import Labelled, absorption
from steer.quality.evaluation import evaluate_sae, finite
from steer.quality.letters import split_words, vocabulary_words, word_activations
from steer.quality.probing import probe_tasks
from steer.quality.prompts import PromptReadings, class_labels, class_names, read_prompts, tasks_of
from steer.quality.texts import first_texts
from tests.conftest import random_sae
from tests.saes.metrics.test_metrics import identity_sae

SITE = Site(1)


@pytest.fixture
def texts(llama):
    words = ["hello there", "a rather longer text, with more in it", "x", "why? because it is", "hello there again"]
    return [[1, *ids] for ids in llama.encode(words)]


def test_the_identity_loses_nothing_and_ablation_does(llama, texts):
    found = evaluate_sae(llama, identity_sae(llama.d_model), SITE, texts, probes=False)
    assert found["activations"]["fvu"] == pytest.approx(0, abs=1e-10)
    assert found["activations"]["explained_variance"] == pytest.approx(1)
    loss = found["loss"]
    assert loss["kl"] == pytest.approx(0, abs=1e-6)
    for name in ("recovered", "recovered_from_mean", "kl_recovered"):
        assert loss[name] == pytest.approx(1, abs=1e-3)
    assert loss["kl_zeroed"] > 0.01
    assert loss["zeroed"] != pytest.approx(loss["meaned"], rel=1e-4)
    assert found["tokens"] == sum(len(ids) - 1 for ids in texts) == loss["tokens"]
    json.dumps(found, allow_nan=False)


def test_losses_and_divergences_by_hand_one_text_at_a_time(llama, texts):
    sae = random_sae()
    mean = torch.cat(list(activation_rows(llama, SITE, texts))).mean(0)

    def logs(ids, new):
        def edit(x, at):
            return torch.cat([x[:, :1], new(x[:, 1:])], 1)

        with llama.edited({SITE: edit} if new else {}):
            return llama.forward(llama.pad([ids]))[0, :-1].double().log_softmax(-1)

    found = splice_loss(llama, sae, SITE, texts, batch_size=2)
    for ids, text in zip(texts, found.texts, strict=True):
        plain, spliced, zeroed, meaned = (
            logs(ids, new) for new in (None, sae, torch.zeros_like, lambda x: mean.expand_as(x))
        )
        assert text.tokens == len(ids) - 1
        for name, log in (("plain", plain), ("spliced", spliced), ("zeroed", zeroed), ("meaned", meaned)):
            expected = -sum(log[place, token].item() for place, token in enumerate(ids[1:]))
            assert getattr(text, name) == pytest.approx(expected, rel=1e-4)
        assert text.kl == pytest.approx((plain.exp() * (plain - spliced)).sum().item(), rel=1e-3, abs=1e-6)
        assert text.kl_zeroed == pytest.approx((plain.exp() * (plain - zeroed)).sum().item(), rel=1e-3, abs=1e-6)
    total = sum(text.tokens for text in found.texts)
    assert found.kl == pytest.approx(sum(text.kl for text in found.texts) / total)
    assert found.recovered_from_mean == pytest.approx(
        (found.meaned - found.spliced) / (found.meaned - found.plain), rel=1e-9
    )
    assert splice_loss(llama, sae, SITE, texts, batch_size=5).kl == pytest.approx(found.kl, rel=1e-4)


def test_rows_know_where_they_stand(llama, texts):
    rows = list(placed_rows(llama, SITE, texts))
    assert all(isinstance(one, Placed) for one in rows)
    places = {(int(text), int(place)) for one in rows for text, place in zip(one.text, one.position, strict=True)}
    assert places == {(text, place) for text, ids in enumerate(texts) for place in range(1, len(ids))}
    x = llama.activations(llama.pad([texts[1]]), [SITE])[SITE][0]
    block = next(one for one in rows if (one.text == 1).any())
    torch.testing.assert_close(block.x[block.text == 1], x[1:], rtol=1e-4, atol=1e-4)


def test_bootstrap_intervals_cover_the_figure_and_shrink_with_n():
    rng = np.random.default_rng(1)
    widths = []
    for n in (50, 800):
        sums = np.stack([rng.normal(3, 1, n), np.ones(n)], 1)
        low, high = bootstrap(sums, lambda totals: totals[:, 0] / totals[:, 1])
        mean, error = sums[:, 0].mean(), sums[:, 0].std() / n**0.5
        assert (low, high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.35 * error)
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.3)
    assert bootstrap(np.ones((1, 2)), lambda totals: totals[:, 0]) is None
    assert percentiles(np.array([1.0, np.nan])) is None
    assert (resamples(7).sum(1) == 7).all()
    assert (resamples(7, seed=1) == resamples(7, seed=1)).all()


def test_the_interval_of_the_fvu_is_over_texts(llama, texts):
    one = evaluate_sae(llama, random_sae(), SITE, texts, probes=False)["activations"]
    low, high = one["fvu_interval"]
    assert low < one["fvu"] < high
    single = evaluate_sae(llama, random_sae(), SITE, texts[:1], probes=False)["activations"]
    assert single["fvu_interval"] is None


def test_what_does_not_fit_is_refused(llama, texts):
    with pytest.raises(PlanError, match="width 16, but tiny-llama has width 32"):
        evaluate_sae(llama, random_sae(d_in=16), SITE, texts)
    with pytest.raises(SiteError):
        evaluate_sae(llama, random_sae(), Site(9), texts)
    with pytest.raises(DataError, match="no text of at least two tokens"):
        evaluate_sae(llama, random_sae(), SITE, [[1], [2]])


def test_the_first_texts_are_cut_to_the_tokens_asked_for(llama, tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("hello", "hello", "there", "a third one")))
    source = open_source(path)
    everything = first_texts(llama, source)
    assert everything == read_texts(path, llama)
    cut = first_texts(llama, source, 12)
    assert sum(len(ids) - 1 for ids in cut) == 12
    assert cut[:2] == everything[:2]
    assert cut[2] == everything[2][:3]
    with pytest.raises(DataError, match="too short: 1,000 tokens are asked for, and its texts have 21"):
        first_texts(llama, source, 1000)


def test_texts_of_the_corpus_are_those_of_the_demo(embedded):
    found = first_texts(embedded, open_source(embedded_corpus()), 10_000)
    assert found[:-1] == read_texts(embedded_corpus(), embedded)[: len(found) - 1]
    assert len(found) < 256  # what the demo holds out


def test_prompts_are_read_as_one_by_one(llama):
    sae, samples = random_sae(), load_prompts("safe", split="dev", limit=3) + load_prompts("myths", limit=2)
    samples = [one for one in samples if len(llama.prompt_ids([list(one.messages)])[0]) <= llama.context]
    assert len(samples) > 2
    found = read_prompts(llama, sae, SITE, samples)
    for row, sample in enumerate(samples):
        x = llama.activations(llama.pad(llama.prompt_ids([list(sample.messages)])), [SITE])[SITE][0]
        torch.testing.assert_close(found.last[row], x[-1], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found.mean[row], x[1:].mean(0), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found.mean_codes[row], sae.encode(x[1:]).to_dense().mean(0), rtol=1e-2, atol=1e-2)


def test_a_latent_that_is_the_class_is_found_by_a_probe_on_one(llama):
    samples = {split: load_prompts(split=split, limit=20) for split in ("dev", "test")}
    tasks = {split: tasks_of(samples[split]) for split in samples}
    assert {task.name for task in tasks["dev"]} >= {"unsafe", "set arithmetic", "set safe"}
    readings = {}
    for split, those in samples.items():
        x, codes = torch.randn(len(those), 8), torch.rand(len(those), 16)
        codes[:, 5] = 10 * next(task for task in tasks[split] if task.name == "set myths").positive
        readings[split] = PromptReadings(x, x, codes)
    found = {one.task: one for one in probe_tasks(readings["dev"], tasks["dev"], readings["test"], tasks["test"])}
    assert found["set myths"].latents[1] == 1.0
    assert found["set myths"].prompts == 40
    assert found["set myths"].dense < 0.8
    assert found["set arithmetic"].latents[1] < 0.8
    again = {one.task: one for one in probe_tasks(readings["dev"], tasks["dev"], readings["test"], tasks["test"])}
    assert again == found


def test_an_absorbed_concept_is_recognised():
    """Concept 0 along the first axis; its latent is silent on examples that carry a token of their own instead."""
    sae = random_sae(d_in=4, d_sae=6, k=2)
    with torch.no_grad():
        sae.b_enc.zero_(), sae.b_dec.zero_()
        sae.W_dec.zero_(), sae.W_enc.zero_()
        sae.W_dec[0, 0] = sae.W_dec[2, 2] = sae.W_dec[3, 3] = 1
        sae.W_dec[1, :2] = torch.tensor([0.8, 0.6])
        sae.W_enc[:, 0] = torch.tensor([1.0, -8.0, 0.0, 0.0])  # silent where the second axis is present
        sae.W_enc[:, 1] = torch.tensor([0.0, 1.0 / 0.6, 0.0, 0.0])
        sae.W_enc[2, 2] = sae.W_enc[3, 3] = 1

    def examples(n):
        """Of each 75, 24 plain ones of the first concept, 1 that is absorbed, and 25 of each other kind."""
        number = torch.arange(n)
        kind = number % 3
        taken = number % 75 == 0
        x = 0.01 * torch.randn(n, 4)
        x[(kind == 0) & ~taken, 0] += 1
        x[taken] += torch.tensor([0.8, 0.6, 0.0, 0.0])
        x[kind == 1, 2] += 1
        x[kind == 2, 3] += 1
        return Labelled(x, torch.stack([kind == 0, kind == 1], 1))

    found = absorption(sae, examples(600), examples(300), ["first", "third"])
    first, third = found.concepts
    assert (found.tried, first.name, third.name) == (2, "first", "third")
    assert (third.latents, third.fraction, third.full) == ((2,), 0.0, 0.0)
    assert (first.latents, first.examples) == ((0,), 100)  # F1 is 0.98 without the absorber: no split
    assert first.fraction == pytest.approx(0.04, abs=1e-3)
    assert first.full == pytest.approx(0.04)
    assert found.mean("full") == pytest.approx(0.02)


def test_words_and_their_letters(embedded):
    words = vocabulary_words(embedded)
    assert len(words) > 1000
    assert all(embedded.tokenizer.decode([word.token]) == word.text for word in words[:50])
    assert all("abcdefghijklmnopqrstuvwxyz"[word.letter] == word.text.strip()[0].lower() for word in words)
    train, test = split_words(words, 0)
    assert not {word.token for word in train} & {word.token for word in test}
    assert split_words(words, 0) == (train, test) != split_words(words, 1)
    x = word_activations(embedded, SITE, test[:4], 0)
    assert x.shape == (4, embedded.d_model)
    assert len(x.unique(dim=0)) == 4
    with pytest.raises(DataError, match="needs 50"):
        split_words(words[:49], 0)


def test_classes_of_prompts():
    samples = load_prompts("unsafe_seen", limit=5) + load_prompts("arithmetic", limit=2)
    names = class_names(samples)
    labels = class_labels(samples, names)
    assert labels.shape == (7, len(names))
    assert labels[:, names.index("set arithmetic")].tolist() == [False] * 5 + [True] * 2
    assert labels[0, names.index(f"category {samples[0].tags['category']}")]
    assert labels.sum(1).tolist() == [2] * 5 + [1] * 2


def test_what_is_not_finite_becomes_null():
    assert finite({"a": [float("nan"), 1.0, (float("inf"),)], 3: "x"}) == {"a": [None, 1.0, [None]], "3": "x"}


def coder(site="0.resid_post", site_out="1.mlp_out", **more):
    """A transcoder of the tiny models."""
    sae = SAE(SAEConfig(32, 96, 4, site=site, site_out=site_out, subtract_b_dec=False, **more), seed=2)
    return sae.requires_grad_(False)


def test_a_transcoder_is_put_where_it_writes(llama, texts):
    """By hand, one text at a time: what it reads is the layer before, what is replaced the output of the MLP."""
    sae, (read, written) = coder(skip=True), (Site(0), Site(1, "mlp_out"))
    sae.W_skip.normal_(generator=torch.Generator().manual_seed(0))
    found = evaluate_sae(llama, sae, read, texts, probes=False)
    assert (found["site"], found["site_out"]) == ("0.resid_post", "1.mlp_out")
    losses, error, rows = {"spliced": 0.0, "zeroed": 0.0, "meaned": 0.0}, 0.0, []
    both = [llama.activations(llama.pad([ids]), [read, written]) for ids in texts]
    y = torch.cat([one[written][0, 1:] for one in both]).double()
    for ids, one in zip(texts, both, strict=True):
        written_to = sae(one[read][0, 1:])
        rows.append(written_to)
        for name, new in (("spliced", written_to), ("zeroed", 0 * written_to), ("meaned", y.mean(0).float())):
            with llama.edited({written: lambda x, at, new=new: torch.cat([x[:, :1], new.expand_as(x[:, 1:])], 1)}):
                log = llama.forward(llama.pad([ids]))[0, :-1].double().log_softmax(-1)
            losses[name] -= log.gather(-1, torch.tensor(ids[1:]).unsqueeze(-1)).sum().item()
    error = (torch.cat(rows).double() - y).square().sum().item()
    assert found["activations"]["fvu"] == pytest.approx(error / (y - y.mean(0)).square().sum().item(), rel=1e-4)
    for name, loss in losses.items():
        assert found["loss"][name] == pytest.approx(loss / len(y), rel=1e-4), name
    assert found["activations"]["l0"] == pytest.approx(4)


def test_a_transcoder_that_computes_what_stands_there_loses_nothing(llama, texts):
    """Between two sites that hold the same: what leaves a layer is what enters the next."""
    sae = identity_sae(llama.d_model)
    sae.config = replace(sae.config, subtract_b_dec=False, site="0.resid_post", site_out="1.resid_pre")
    found = evaluate_sae(llama, sae, "0.resid_post", texts, probes=False)
    assert found["activations"]["fvu"] == pytest.approx(0, abs=1e-10)
    assert found["loss"]["recovered"] == pytest.approx(1, abs=1e-3)


def test_probes_read_a_transcoders_latents_and_absorption_is_not_defined(embedded):
    sae = coder("0.resid_post", "1.mlp_out", d_out=embedded.d_model)
    sae = SAE(replace(sae.config, d_in=embedded.d_model)).requires_grad_(False)
    ids = [[1, *one] for one in embedded.encode(["Tell me about rivers.", "Why is it cold?"])]
    found = evaluate_sae(embedded, sae, Site(0), ids)
    assert len(found["sparse_probing"]["tasks"]) > 20
    assert set(found["absorption"]) == {"prompt_classes", "first_letter"}
    assert all("not defined for a transcoder" in one for one in found["absorption"].values())


@pytest.mark.parametrize(
    ("sae", "site", "kind", "words"),
    [
        (coder("1.resid_post", "0.mlp_out"), Site(1), SiteError, "reads at 1.resid_post and writes at 0.mlp_out"),
        (coder(site_out="7.mlp_out"), Site(0), SiteError, "Layer 7 is out of range"),
        (coder(site_out="blocks.1.hook_z"), Site(0), SiteError, "Unknown part 'z'"),
        (coder(site_out=None, d_out=32, skip=True), Site(0), PlanError, "does not say where it writes"),
        (coder(d_out=16), Site(0), PlanError, "writes activations of width 16"),
    ],
)
def test_transcoders_that_do_not_fit_are_refused(llama, texts, sae, site, kind, words):
    with pytest.raises(kind, match=words):
        evaluate_sae(llama, sae, site, texts, probes=False)
    with pytest.raises(SiteError, match="comes before it in a pass"):
        splice_loss(llama, coder(), Site(1), texts, site_out=Site(0))
