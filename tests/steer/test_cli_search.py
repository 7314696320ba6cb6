"""``steer search``: what is printed and written, and how mistakes end."""

import csv
import io
import json
import re
import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import saes
from steer.cli import search_asked
from steer.cli.app import run
from steer.index.labels import Label
from steer.index.read import FeatureIndex
from steer.index.synthetic import synthetic_index
from steer.models.load import load_model
from steer.search.attribution import MOST_STEPS
from steer.search.contrast import MOST_PERMUTATIONS, MOST_RESPLITS
from tests.conftest import D_MODEL, random_sae, tiny_model

HOSTILE = "<script>alert(1)</script> [bold]=1+1 :smile: \u202eevil"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny model, an SAE, an index with a hostile label, and files of prompts in a folder."""
    folder = tmp_path_factory.mktemp("made")
    lm, sae = tiny_model("llama"), random_sae()
    lm.model.save_pretrained(folder / "model")
    lm.tokenizer.save_pretrained(folder / "model")
    saes.save(sae, folder / "sae")
    lm, sae = load_model(folder / "model"), saes.load(folder / "sae")
    synthetic_index(folder / "index", 96, examples=3, window=8, tokens=3000, labels=False, sae=sae, lm=lm)
    index = FeatureIndex.open(folder / "index", sae, lm)
    index.add_labels([Label(11, HOSTILE, "a <b>model</b>"), Label(12, "=1+1", "me")])
    index.add_column("refusal_steerability", np.linspace(-1, 1, 96), {"by": "the test"})
    (folder / "a.txt").write_text("\n".join(f"how to bake {letter}" for letter in "abcdefghijklmn"), encoding="utf-8")
    (folder / "b.txt").write_text("\n".join(f"why not {letter} it is" for letter in "abcdefghijklmn"), encoding="utf-8")
    (folder / "c.json").write_text(json.dumps([{"role": "user", "content": "hello"}]), encoding="utf-8")
    save_file({"v": torch.randn(D_MODEL)}, folder / "v.safetensors")
    return folder


def search(made, *arguments, model=True):
    """The exit code of ``steer search``."""
    names = [str(made / name) for name in (("index", "model", "sae") if model else ("index",))]
    return run(["search", *names, *map(str, arguments)])


def found(capsys):
    return json.loads(capsys.readouterr().out)


def test_a_mixture_as_json_says_why_each_latent_matched(made, capsys):
    asked = [
        "--words", "bake script", "--promotes", "a", "--suppresses", "#80", "--prompt", "hello", "--part", "user",
        "--contrast", made / "a.txt", made / "b.txt", "--fdr", "1", "--means", made / "a.txt", made / "b.txt",
        "--like", "3", "--direction", made / "v.safetensors", "--attribute", "yes", "no",
        "--by", "refusal_steerability", "--filter", "refusal_steerability>-2", "--weight", "words=100",
        "--limit", "7", "--json",
    ]  # fmt: skip
    assert search(made, *asked) == 0
    told = found(capsys)
    assert len(told["hits"]) == 7
    assert told["hits"][0]["latent"] == 11  # the weight of words
    kinds = {reason["kind"] for hit in told["hits"] for reason in hit["reasons"]}
    assert {"words", "promotes", "suppresses", "like", "direction", "means", "by"} <= kinds
    assert set(told["about"]) == {*kinds, "prompt", "contrast", "attribution"}
    for hit in told["hits"]:
        assert hit["score"] == pytest.approx(sum(reason["share"] for reason in hit["reasons"]))
        assert all(reason["rank"] >= 1 and reason["text"] for reason in hit["reasons"])


def test_an_index_alone_answers_what_it_can(made, capsys):
    assert search(made, "--words", "script", "--filter", "label", "--json", model=False) == 0
    assert [hit["latent"] for hit in found(capsys)["hits"]] == [11]
    assert search(made, "--by", "-refusal_steerability", "--limit", "2", "--json", model=False) == 0
    assert [hit["latent"] for hit in found(capsys)["hits"]] == [0, 1]


def test_the_table_shows_what_models_say_as_it_is(made, capsys):
    assert search(made, "--words", "script", model=False) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "<script>alert(1)</script> [bold]=1+1 :smile: [U+202E]evil" in shown
    assert "words #1 of 96" in shown
    assert "refusal_steerability" in shown  # what `steer find refusal` has stored
    assert search(made, "--words", "qqqq", model=False) == 0
    out, err = capsys.readouterr()
    assert "No latent matches" in out
    assert "words: no latent matches" in err


def test_csv_has_every_column_and_runs_nothing(made, capsys):
    assert search(made, "--by", "refusal_steerability", "--words", "1", "--filter", "label", "--csv", model=False) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["latent"] for row in rows] == ["12", "11"]
    assert rows[0]["label"] == "'=1+1"
    assert float(rows[0]["refusal_steerability"]) == pytest.approx(np.linspace(-1, 1, 96)[12])
    assert {"by_rank", "by_score", "by_why", "words_rank", "density"} <= set(rows[0])


def test_the_page_is_whole_and_escapes_what_models_and_data_say(made, capsys, tmp_path):
    page = tmp_path / "page.html"
    assert search(made, "--words", "script", "--html", page) == 0
    text = page.read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<script" not in text
    assert "a &lt;b&gt;model&lt;/b&gt;" in text
    assert "\u202e" not in text
    assert "default-src 'none'" in text
    assert not re.search(r"(?:src|href)=|url\(|@import", text)
    assert text.count('class="strip"') >= 1
    assert "Latent 11" in text
    before = page.read_bytes()
    assert search(made, "--words", "bake", "--html", page) == 2
    assert "--html is there already" in capsys.readouterr().err
    assert page.read_bytes() == before
    assert search(made, "--words", "script", "--html", page, "--overwrite", model=False) == 0


def test_a_conversation_from_a_file(made, capsys):
    assert search(made, "--conversation", made / "c.json", "--json") == 0
    one = found(capsys)
    assert search(made, "--prompt", "hello", "--json") == 0
    assert one == found(capsys)
    assert search(made, "--attribute", "yes", "no", "--on", made / "a.txt", "--steps", "2", "--json") == 0
    assert found(capsys)["about"]["attribution"]["prompts"] == 14


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ([], "Nothing is asked for"),
        (["--words", "a", "--json", "--csv"], "contradict"),
        (["--words", ""], "empty text after --words"),
        (["--prompt", "a", "--conversation", "c.json"], "contradict"),
        (["--attribute", "yes", "no"], "needs prompts"),
        (["--words", "a", "--on", "a.txt"], "--on names the prompts of --attribute"),
        (["--attribute", "yes", "yes", "--prompt", "a"], "two tokens that differ"),
        (["--words", "a", "--filter", "nothing<1"], "no column 'nothing'"),
        (["--words", "a", "--weight", "words"], "PART=NUMBER"),
        (["--words", "a", "--weight", "word=1"], "Did you mean words"),
        (["--like", "96"], "out of range"),
        (["--promotes", ""], "an empty text after --promotes is no token"),
        (["--words", "a", "--filter", "max>\uff15"], "Cannot read the filter"),
        (["--prompt", "a", "--part", "\uff11:\uff15"], "is unknown"),
        (["--contrast", "/dev/zero", "b.txt"], "/dev/zero cannot be read: it is a device or a pipe"),
        (["--contrast", "a.txt", "b.txt", "--permutations", "100000000000"], "less than or equal to 100000"),
        (["--contrast", "a.txt", "b.txt", "--resplits", "100000000000"], "less than or equal to 10000"),
        (["--attribute", "a", "b", "--prompt", "a", "--steps", "100000000000"], "less than or equal to 10000"),
        (["--promotes", "xyz"], "3 tokens"),
        (["--promotes", "#" + "9" * 5000], "tokens of this model"),
        (["--words", "a", "--html", "z" * 300], "File name too long"),
        (["--contrast", "a.txt", "absent.txt"], "cannot be read"),
        (["--contrast", "a.txt", "a.txt"], "overlap in 14 prompts"),
        (["--direction", "a.txt"], "no safetensors file"),
        (["--prompt", "a", "--part", "nobody"], "expected one of whole"),
        (["--meaning", "a"], "needs an embedder"),
        (["--meaning", "a", "--embedder", "absent"], "no folder"),
        (["--words", "a", "--html", "absent/page.html"], "folder that exists"),
    ],
)
def test_mistakes_are_one_message(made, capsys, monkeypatch, asked, message):
    monkeypatch.chdir(made)
    assert search(made, *asked) == 2
    told = capsys.readouterr()
    assert message in " ".join(re.sub("[│╭╮╰╯─]", " ", told.err).split())
    assert "Traceback" not in told.err
    assert not told.out


def test_the_model_and_the_sae_must_be_those_of_the_index(made, capsys, tmp_path):
    saes.save(random_sae(seed=4), tmp_path / "other")
    assert run(["search", str(made / "index"), str(made / "model"), str(tmp_path / "other"), "--words", "a"]) == 2
    assert "another" in capsys.readouterr().err
    assert run(["search", str(made / "index"), str(made / "model"), "--words", "a"]) == 2
    assert "belong together" in " ".join(capsys.readouterr().err.split())
    assert run(["search", str(tmp_path / "absent"), "--words", "a"]) == 2


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from steer.cli.app import run; run(['search', '--help']); "
        "assert not {'torch', 'transformers', 'numpy', 'scipy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--contrast" in done.stdout


@pytest.mark.parametrize(
    ("option", "most"),
    [
        (search_asked.Permutations, MOST_PERMUTATIONS),
        (search_asked.Resplits, MOST_RESPLITS),
        (search_asked.Steps, MOST_STEPS),
    ],
)
def test_limits_of_options_are_those_of_the_search(option, most):
    assert get_args(option)[1].max == most  # written twice, since --help imports no search
