"""``steer sae``: what each verb writes, and what it refuses."""

import json
import re
import resource
from fractions import Fraction

import pytest
import torch
import yaml
from safetensors.torch import load_file

import saes
import steer
from saes import SAE, SAEConfig
from steer.checkpoints import convert as conversion
from steer.checkpoints.load import Located
from steer.checkpoints.share import plan_push
from steer.cli.app import run
from steer.errors import CheckpointError
from tests.saes.formats.oracle import agree, inputs, made, same
from tests.steer.fake_hub import serving

TRAINING = {"tokens": 4096, "fvu": 0.21, "l0": 5.0, "dead_fraction": 0.05, "held_out": {"fvu": 0.25}}


@pytest.fixture
def folder(tmp_path):
    """An SAE of this project's own format, with a summary of its training."""
    sae = made(model="EleutherAI/pythia-70m", site="3.resid_post", revision="v1")
    saes.save(sae, tmp_path / "sae", training=TRAINING)
    return tmp_path / "sae"


def done(capsys, *arguments):
    """Run a verb, which must succeed; returns what it printed, on one line."""
    assert run(["sae", *map(str, arguments)]) == 0
    return " ".join(capsys.readouterr().out.split())


def refused(capsys, *arguments):
    """Run a verb, which must end with exit code 2 and one message; returns the message."""
    assert run(["sae", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return " ".join(err.replace("│", " ").split())


def test_help_is_complete(capsys):
    text = done(capsys, "--help")
    assert all(verb in text for verb in ("show", "convert", "pull", "push", "saelens:release/id"))


# show


def test_show_tells_what_is_there(capsys, folder):
    text = done(capsys, "show", folder)
    for words in ("format saes", "d_sae 40", "site 3.resid_post", "training: fvu 0.21", "W_dec 40 x 12 F32"):
        assert words in text


def test_show_as_json_has_the_norms(capsys, folder):
    told = json.loads(done(capsys, "show", folder, "--json"))
    sae = saes.load(folder)
    norms = sae.W_dec.norm(dim=1)
    assert told["weights"]["decoder_norms"] == pytest.approx(
        {"min": norms.min().item(), "mean": norms.mean().item(), "max": norms.max().item()}
    )
    assert told["config"]["k"] == sae.config.k
    assert told["training"] == TRAINING
    assert told["parameters"] == 12 * 40 * 2 + 40 + 12
    assert [one["name"] for one in told["files"]] == ["config.json", "sae.safetensors"]


def test_show_counts_latents_without_a_direction_and_gives_the_thresholds(capsys, tmp_path):
    sae = made("jumprelu", subtract_b_dec=False)
    sae.W_dec[3] = 0
    sae.W_enc[:, 7] *= 1e-6
    saes.save(sae, tmp_path / "scope", "gemma_scope")
    told = json.loads(done(capsys, "show", tmp_path / "scope", "--model", "m", "--site", "1.resid_post", "--json"))
    assert told["weights"]["dead_looking"] == 2
    assert told["weights"]["threshold"]["max"] == pytest.approx(sae.threshold.max().item())
    assert (told["config"]["model"], told["config"]["site"]) == ("m", "1.resid_post")
    assert {row["name"]: row["shape"] for row in told["stored"]}["w_dec"] == [40, 12]


def test_show_lists_the_tensors_of_torch_files(capsys, tmp_path):
    saes.save(made(), tmp_path, "dictionary_learning")
    stored = json.loads(done(capsys, "show", tmp_path, "--json"))["stored"]
    assert {"file": "ae.pt", "name": "decoder.weight", "shape": [12, 40], "dtype": "F32"} in stored


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nothing is there"),
        (["hf:me/x"], "Unknown scheme"),
        (["."], "No SAE of a known format"),
        (["notes.pt"], "It is not read further"),
        (["saelens:gpt2-small-res-j/x"], "Close to it are gpt2-small-res-jb"),
        (["hub:me/x"], "not in the local cache, and the hub is switched off (HF_HUB_OFFLINE)"),
        ([".", "--format", "nonsense"], "no format 'nonsense': expected one of saes, saelens"),
        (["qwen.pt"], "does not say how many latents are active on a token. Give k="),
        (["sae", "--k", "7"], "has k = 5 (topk), but k = 7 was given, which counts only where the files do not say it"),
        (["jump", "--k", "5"], "has no k (jumprelu), but k = 5 was given"),
        (["sae", "--input-scale", "2"], "has input_scale = 1.0 (topk), but input_scale = 2.0 was given"),
        (["sae", "--input-scale", "-1"], "input_scale must be a positive number, got -1.0"),
        (["sae", "--site", ""], "an empty text after --site names nothing"),
        (["sae", "--model="], "an empty text after --model names nothing"),
        ([""], "an empty text names nothing"),
        (["hub:hub:me/x"], "'hub:hub:me/x' says hub: twice"),
        (["n" * 300], "cannot be looked at"),
        (["a\0b"], "no name holds a zero byte"),
        (["\ud800"], "no text that names a file"),
        (
            ["module.pt"],
            "Unsupported global: GLOBAL fractions.Fraction was not an allowed global by default). It",
        ),
    ],
)
def test_show_refuses(capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.pt").write_bytes(b"notes")
    torch.save({"a": Fraction(1, 2)}, "module.pt")
    saes.save(made(), "sae")
    saes.save(made("jumprelu", subtract_b_dec=False), "jump")
    torch.save(
        {"W_enc": torch.ones(40, 12), "W_dec": torch.ones(12, 40), "b_enc": torch.ones(40), "b_dec": torch.ones(12)},
        "qwen.pt",
    )
    assert words in refused(capsys, "show", *arguments)


def test_what_the_files_say_may_be_said_again(capsys, folder):
    told = done(capsys, "show", folder, "--k", saes.load(folder).config.k, "--input-scale", "1", "--site", "1.mlp_out")
    assert "site 1.mlp_out" in told


# convert


@pytest.mark.parametrize("by", ["name", "link", "file"])
@pytest.mark.parametrize("verb", ["convert", "pull"])
def test_a_source_is_not_replaced_by_what_comes_of_it(capsys, folder, tmp_path, verb, by):
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    source = {"name": folder, "link": tmp_path / "link", "file": folder / "sae.safetensors"}[by]
    before = {path: path.read_bytes() for path in folder.iterdir()}
    more = ["--to", "saelens"] if verb == "convert" else []
    assert "is where the source lies" in refused(capsys, verb, source, folder, "--overwrite", *more)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("to", ["saes", "saelens", "sparsify", "dictionary_learning"])
def test_convert_writes_the_same_sae(capsys, folder, tmp_path, to):
    text = done(capsys, "convert", folder, tmp_path / "out", "--to", to)
    assert "largest difference" in text
    assert ("training" in text.partition("not kept")[2]) == (to != "saes")
    same(saes.load(folder), saes.load(tmp_path / "out"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "sae"], "nothing is left beside it"


def test_convert_names_what_is_lost(capsys, folder, tmp_path):
    told = json.loads(done(capsys, "convert", folder, tmp_path / "layers.3", "--to", "sparsify", "--json"))
    assert told["not_kept"] == ["model", "revision", "training"], "the site is the folder's name"
    assert told["difference"]["latents"] < 1e-5


def test_convert_keeps_the_training_summary_and_takes_what_is_given(capsys, folder, tmp_path):
    done(capsys, "convert", folder, tmp_path / "out", "--to", "saes", "--model", "other/model")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["training"], config["model"]) == (TRAINING, "other/model")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("to", ["saes", "saelens", "sparsify", "dictionary_learning", "llama_scope"])
def test_convert_stores_weights_in_half_the_bytes(capsys, tmp_path, to, dtype):
    sae = made("topk", subtract_b_dec=False)
    saes.save(sae, tmp_path / "sae")
    text = done(capsys, "convert", tmp_path / "sae", tmp_path / "out", "--to", to, "--dtype", dtype)
    assert dtype in text
    told = json.loads(done(capsys, "show", tmp_path / "out", "--json"))["stored"]
    matrices = {row["dtype"] for row in told if len(row["shape"]) == 2}
    assert matrices == {{"bfloat16": "BF16", "float16": "F16"}[dtype]}
    torch.testing.assert_close(saes.load(tmp_path / "out").W_dec, sae.W_dec.to(getattr(torch, dtype)).float())


def test_thresholds_stay_float32(capsys, tmp_path):
    sae = made("jumprelu")
    saes.save(sae, tmp_path / "sae")
    done(capsys, "convert", tmp_path / "sae", tmp_path / "out", "--to", "saelens", "--dtype", "bfloat16")
    stored = load_file(tmp_path / "out" / "sae_weights.safetensors")
    assert torch.equal(stored["threshold"], sae.threshold)
    assert stored["W_enc"].dtype == torch.bfloat16


def test_a_probe_makes_latents_fire_and_sees_a_wrong_sae(monkeypatch, folder, tmp_path):
    sae = saes.load(folder)
    x = conversion.probe(sae)
    assert conversion.difference(sae, sae, x).active > 0
    other = saes.load(folder)
    other.W_dec[5] += 0.1
    assert conversion.difference(sae, other, x).output > 1e-3
    monkeypatch.setattr(conversion, "_read_again", lambda *_: other)
    with pytest.raises(CheckpointError, match=r"computes something else.*Nothing is kept"):
        conversion.convert(Located(folder), tmp_path / "out", "saelens")
    assert [path.name for path in tmp_path.iterdir()] == ["sae"]


def test_convert_to_one_torch_file(capsys, tmp_path):
    relu = made("relu")
    saes.save(relu, tmp_path / "sae")
    done(capsys, "convert", tmp_path / "sae", tmp_path / "new" / "layer.pt", "--to", "openai")
    same(relu, saes.load(tmp_path / "new" / "layer.pt"))
    assert "exists" in refused(capsys, "convert", tmp_path / "sae", tmp_path / "new" / "layer.pt", "--to", "openai")


def test_overwrite_replaces_the_sae_and_nothing_else(capsys, folder, tmp_path):
    out = tmp_path / "out"
    done(capsys, "convert", folder, out, "--to", "saelens")
    (out / "notes.txt").write_text("mine")
    assert "--overwrite" in refused(capsys, "convert", folder, out, "--to", "sparsify")
    assert (out / "sae_weights.safetensors").is_file()
    done(capsys, "convert", folder, out, "--to", "sparsify", "--overwrite")
    assert sorted(path.name for path in out.iterdir()) == ["cfg.json", "notes.txt", "sae.safetensors"]
    same(saes.load(folder), saes.load(out))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--to", "nonsense"], "no format 'nonsense': expected one of saes"),
        (["--to", "goodfire"], "read only. Written are saes"),
        (["--to", "gemma_scope"], "autoencoders with thresholds"),
        (["--to", "saelens", "--dtype", "int8"], "int8"),
        ([], "--to"),
    ],
)
def test_convert_refuses_and_leaves_nothing(capsys, folder, tmp_path, arguments, words):
    assert words in refused(capsys, "convert", folder, tmp_path / "out", *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["sae"]


@pytest.mark.parametrize("to_out", ["saes new", "saelens deep/new", "dictionary_learning sae", "openai 6.pt"])
def test_a_full_disk_names_the_target_and_leaves_what_was_there(capsys, folder, tmp_path, to_out):
    """A limit on the size of files stands in for a full disk: the system refuses to write in the same place."""

    def everything():
        return {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}

    to, out = to_out.split()
    saes.save(SAE(SAEConfig(12, 400, activation="relu")), tmp_path / "wide")
    before = everything()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        message = refused(capsys, "convert", tmp_path / "wide", tmp_path / out, "--to", to, "--overwrite")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"{tmp_path / out} cannot be written: File too large. Mend that, or choose another folder." in message
    assert "/." not in message  # no temporary name
    assert everything() == before


def test_weights_too_large_for_float16_are_refused(capsys, tmp_path):
    sae = made()
    sae.W_enc *= 1e6
    saes.save(sae, tmp_path / "sae")
    message = refused(capsys, "convert", tmp_path / "sae", tmp_path / "out", "--to", "saelens", "--dtype", "float16")
    assert "W_enc holds numbers that are too large for torch.float16" in message
    jump = made("jumprelu", subtract_b_dec=False)
    saes.save(jump, tmp_path / "jump")
    message = refused(
        capsys, "convert", tmp_path / "jump", tmp_path / "out", "--to", "gemma_scope", "--dtype", "bfloat16"
    )
    assert "numpy, which has no bfloat16" in message
    assert not (tmp_path / "out").exists()


# push and pull


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with serving(monkeypatch, tmp_path / "cache") as hub:
        yield hub


def head(card):
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", card, re.S)[1])


def test_a_push_is_one_commit_with_a_card_and_comes_back(capsys, hub, folder, tmp_path):
    text = done(capsys, "push", folder, "me/saes/layer_3", "--license", "mit")
    assert "steer.load_sae('hub:me/saes/layer_3')" in text
    [commit] = hub.commits
    names = ["config.json", "sae.safetensors"]
    assert commit["files"] == sorted(f"layer_3/{name}" for name in [*names, "README.md"])
    card = hub.repos["me/saes"]["layer_3/README.md"].decode()
    assert head(card) == {
        "library_name": "saesteer",
        "tags": ["sparse-autoencoder", "interpretability", "saesteer"],
        "base_model": "EleutherAI/pythia-70m",
        "license": "mit",
    }
    for words in (
        "| fraction of variance unexplained (FVU) | 0.21 |",
        "| held_out.fvu | 0.25 |",
        "| d_sae | 40 |",
        "at `3.resid_post`",
    ):
        assert words in card
    namespace: dict = {}
    exec(re.search(r"```python\n(.*?)```", card, re.S)[1], namespace)
    same(saes.load(folder), namespace["sae"])

    assert "config.json, sae.safetensors" in done(capsys, "pull", "hub:me/saes/layer_3", tmp_path / "pulled")
    same(saes.load(folder), saes.load(tmp_path / "pulled"))
    assert sorted(path.name for path in (tmp_path / "pulled").iterdir()) == names
    assert "--overwrite" in refused(capsys, "pull", "hub:me/saes/layer_3", tmp_path / "pulled")


def test_a_card_of_somebody_s_own_is_left_and_ours_is_replaced(capsys, hub, folder):
    hub.repos["me/x"] = {"README.md": b"# by hand"}
    assert run(["sae", "push", str(folder), "me/x"]) == 0
    assert "left as it is" in capsys.readouterr().err
    assert hub.repos["me/x"]["README.md"] == b"# by hand"
    done(capsys, "push", folder, "me/y")
    assert "license" not in head(hub.repos["me/y"]["README.md"].decode())
    done(capsys, "push", folder, "me/y", "--license", "mit")
    assert head(hub.repos["me/y"]["README.md"].decode())["license"] == "mit"
    (folder / "README.md").write_text("# my own card")
    done(capsys, "push", folder, "me/y", "--revision", "v2")
    assert hub.repos["me/y"]["README.md"] == b"# my own card"
    assert hub.commits[-1]["path"].endswith("/commit/v2")


def test_a_dry_run_prints_the_card_and_sends_nothing(capsys, hub, folder):
    text = done(capsys, "push", folder, "me/x", "--dry-run")
    assert "would be sent to hub:me/x: config.json" in text
    assert "library_name: saesteer" in text
    assert hub.requests == []


def test_a_private_repository_is_asked_for(capsys, hub, folder):
    done(capsys, "push", folder, "me/x", "--private")
    assert hub.requests[0] == "POST /api/repos/create"
    assert hub.created[0].get("private") or hub.created[0]["visibility"] == "private"


def test_the_card_of_a_saelens_folder_says_how_saelens_loads_it(capsys, hub, folder, tmp_path):
    sae_lens = pytest.importorskip("sae_lens")
    done(capsys, "convert", folder, tmp_path / "lens", "--to", "saelens", "--dtype", "bfloat16")
    done(capsys, "push", tmp_path / "lens", "me/lens/layer_3")
    card = hub.repos["me/lens"]["layer_3/README.md"].decode()
    assert head(card)["library_name"] == "saelens"
    _, theirs = re.findall(r"```python\n(.*?)```", card, re.S)
    namespace: dict = {}
    exec(theirs, namespace)
    theirs, ours, x = namespace["sae"], saes.load(tmp_path / "lens"), inputs()
    assert isinstance(theirs, sae_lens.SAE)
    agree(ours, x, theirs.encode(x).detach(), theirs(x).detach())
    root = plan_push(tmp_path / "lens", "me/lens").card
    assert 'SAE.load_from_disk(snapshot_download("me/lens"))' in root


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{sae}", "me"], "names no place on the hub"),
        (["nowhere", "me/x"], "nothing is there"),
        (["{sae}", "me/x"], "HF_HUB_OFFLINE is set, so nothing is sent"),
        (["{sae}", "hub:hub:me/x"], "'hub:hub:me/x' says hub: twice. Write hub:owner/name"),
        (["{sae}", "me/x", "--license", ""], "an empty text after --license names nothing"),
    ],
)
def test_push_refuses(capsys, folder, arguments, words):
    assert words in refused(capsys, "push", *(one.format(sae=folder) for one in arguments))


def test_a_hub_that_does_not_take_it(capsys, hub, folder, monkeypatch):
    hub.broken = {"api"}
    monkeypatch.setattr("time.sleep", lambda _: None)
    assert "The hub did not take hub:me/x" in refused(capsys, "push", folder, "me/x")
    assert hub.commits == []


def test_pull_says_what_only_the_place_told(capsys, hub, tmp_path):
    sae = SAE(SAEConfig(4, 1024, 50, subtract_b_dec=False)).requires_grad_(False)
    state = {
        "W_enc": sae.W_enc.T.contiguous(),
        "W_dec": sae.W_dec.T.contiguous(),
        "b_enc": sae.b_enc,
        "b_dec": sae.b_dec,
    }
    torch.save(state, tmp_path / "file")
    hub.repos["Qwen/SAE-Res-Qwen3-1B-W1K-L0_50"] = {"layer7.sae.pt": (tmp_path / "file").read_bytes()}
    text = done(capsys, "pull", "hub:Qwen/SAE-Res-Qwen3-1B-W1K-L0_50/layer7.sae.pt", tmp_path / "out")
    assert "also give: k=50, model='Qwen/Qwen3-1B'" in text
    same(sae, steer.load_sae(tmp_path / "out", k=50))


def test_pull_refuses_and_leaves_nothing(capsys, hub, folder, tmp_path):
    hub.add("me/x", folder)
    hub.repos["me/x"]["sae.safetensors"] = hub.repos["me/x"]["sae.safetensors"][:-8]
    assert "cut off" in refused(capsys, "pull", "hub:me/x", tmp_path / "out")
    assert "pulled to a folder" in refused(capsys, "pull", "hub:me/x", tmp_path / "out.pt")
    assert "no repository" in refused(capsys, "pull", "hub:me/none", tmp_path / "new" / "out")
    assert "cut off" in refused(capsys, "pull", "hub:me/x", tmp_path / "new" / "folder" / "out")
    hub.requests.clear()
    assert "not empty" in refused(capsys, "pull", "hub:me/x", folder)
    assert "not empty" in refused(capsys, "convert", "hub:me/x", folder, "--to", "saes")
    assert "read only" in refused(capsys, "convert", "hub:me/x", tmp_path / "out", "--to", "nvidia")
    assert hub.requests == [], "what can be said at once is not said after a download"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "sae"]
    release = "mistral-7b-res-wg/blocks.8.hook_resid_pre"
    hub.repos["JoshEngels/Mistral-7B-Residual-Stream-SAEs"] = {}
    saes.save(made(), tmp_path / "lens", "saelens")
    hub.add("JoshEngels/Mistral-7B-Residual-Stream-SAEs", tmp_path / "lens", "mistral_7b_layer_8")
    assert "sets input_norm" in refused(capsys, "pull", f"saelens:{release}", tmp_path / "out")


def test_generate_takes_a_source(capsys):
    assert run(["generate", "--sae", "saelens:nonsense/x", "--clamp", "1=2", "hello"]) == 2
    assert "no release 'nonsense'" in capsys.readouterr().err
