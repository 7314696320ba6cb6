"""Loading a model: what is refused, with which reason, and that the network is asked last."""

import inspect
import json
import shutil

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

import steer.models.load
from steer.errors import DataError, ModelError
from steer.models.load import load_model
from steer.models.model import LanguageModel
from tests.conftest import byte_tokenizer, tiny_model
from tests.steer.fake_hub import serving

untyped_load = inspect.unwrap(load_model)  # as it is without the run-time type checks of the tests


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder that holds the tiny Llama."""
    folder = tmp_path_factory.mktemp("model")
    lm = tiny_model("llama")
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of it that a test may damage."""
    return shutil.copytree(saved, tmp_path / "copy")


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def name_shards(folder, **shards):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))


def cut(path):
    path.write_bytes(path.read_bytes()[:-50])


def drop_tensor(folder, name):
    path = folder / "model.safetensors"
    save_file({key: value for key, value in load_file(path).items() if key != name}, path, {"format": "pt"})


def test_a_folder_is_loaded(saved):
    lm = load_model(saved)
    tokens = lm.pad(lm.prompt_ids(["hello"]))
    assert torch.equal(lm.forward(tokens), tiny_model("llama").forward(tokens))
    assert lm.vocabulary == len(lm.tokenizer)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / "config.json").write_text("{"), "tokenizer: .*not a valid JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), r"cannot be loaded \(tokenizer: "),
        (lambda folder: edit_config(folder, hidden_size="x"), "cannot be loaded .*hidden_size"),
        (lambda folder: edit_config(folder, model_type="mystery"), "does not recognize this architecture"),
        (
            lambda folder: edit_config(folder, intermediate_size=40),
            r"9 tensors are of another size \(model.layers.0.mlp.down_proj.weight is \[32, 48\] but .*32, 40\]",
        ),
        (lambda folder: edit_config(folder, num_hidden_layers=4), r"9 tensors are missing \(model.layers.3"),
        (lambda folder: drop_tensor(folder, "model.norm.weight"), r"missing \(model.norm.weight\)"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights"),
        (lambda folder: cut(folder / "model.safetensors"), r"cannot be loaded \(model: "),
        (lambda folder: name_shards(folder, a="part.bin"), "names 'part.bin' .*Pickled weights are not read"),
        (lambda folder: name_shards(folder, a="../model.safetensors"), "names '../model.safetensors'"),
        (lambda folder: (folder / "model.safetensors.index.json").write_text("[]"), "is no index of weights"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "holds no tokenizer, expected one of tokenizer.json"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), r"cannot be loaded \(tokenizer: "),
    ],
)
def test_damaged_folders_are_refused_with_a_reason(folder, damage, words):
    damage(folder)
    with pytest.raises(ModelError, match=words) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_code_that_comes_with_a_model_is_never_run(folder, tmp_path):
    ran = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')\n")
    edit_config(folder, model_type="mystery", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"})
    with pytest.raises(ModelError, match="needs code that comes with it, which is never run"):
        load_model(folder)
    assert not ran.exists()


def test_an_error_of_any_kind_from_the_libraries_becomes_ours(folder, monkeypatch):
    from transformers import AutoTokenizer

    def broken(*_, **__):
        raise ZeroDivisionError("a defect\nof theirs")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", broken)
    with pytest.raises(ModelError, match=r"cannot be loaded \(tokenizer: a defect of theirs\)"):
        load_model(folder)


@pytest.mark.parametrize("name", [None, 3, b"embedded", ["embedded"]])
def test_a_name_is_text_or_a_path(name):
    with pytest.raises(ModelError, match="named by a folder or a hub id, got"):
        untyped_load(name)


@pytest.mark.parametrize("name", ["", "two words", "a--b", "owner/na..me", "-x", "x" * 97, "nul\0", "owner/", "n\n"])
def test_what_is_no_hub_id_never_reaches_the_hub(name, monkeypatch):
    monkeypatch.setattr(steer.models.load, "_read", lambda *_: pytest.fail("the hub was asked"))
    with pytest.raises(ModelError, match=r"neither a folder nor a hub id|no such folder"):
        load_model(name)


def test_a_file_never_reaches_the_hub(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(steer.models.load, "_read", lambda *_: pytest.fail("the hub was asked"))
    for name in ("config.json", folder / "model.safetensors"):
        with pytest.raises(ModelError, match=r"is a file. Give the folder"):
            load_model(name)


def test_devices_and_dtypes_that_cannot_be_used():
    for device in ("meta", "tpu9"):
        with pytest.raises(ModelError, match=f"device '{device}'"):
            load_model("embedded", device)
    with pytest.raises(ModelError, match="Unknown dtype 'int8'"):
        untyped_load("embedded", dtype="int8")


@pytest.fixture
def hub(saved, monkeypatch, tmp_path):
    """A hub that is switched on and has ``owner/name``; what is asked of it, and whether from the cache."""
    asked = []
    real = steer.models.load._read

    def read(source, dtype, revision, local):
        asked.append("cache" if local else "hub")
        if (local and not cached) or source != "owner/name":
            raise steer.models.load._NotReadError("tokenizer: not there")
        return real(str(saved), dtype, revision, local=True)

    cached: list[bool] = []
    monkeypatch.setattr(steer.models.load, "_read", read)
    with serving(monkeypatch, tmp_path / "cache") as hub:
        hub.repos |= {"owner/name": {}, "owner/other": {}}
        yield asked, cached


def test_the_hub_is_asked_after_the_cache_and_the_user_is_told(hub):
    asked, cached = hub
    notes: list[str] = []
    load_model("owner/name", note=notes.append)
    assert asked == ["cache", "hub"]
    assert notes == ["asking the hub for owner/name, which is not in the local cache ..."]
    cached.append(True)
    load_model("owner/name", note=notes.append)
    assert asked == ["cache", "hub", "cache"]
    assert len(notes) == 1


def test_the_hub_is_not_asked_where_it_is_switched_off(hub, monkeypatch):
    asked, _ = hub
    with pytest.raises(ModelError, match=r"with the hub switched off it cannot be loaded .*not there"):
        load_model("owner/name", offline=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="hub switched off"):
        load_model("owner/name")
    assert asked == ["cache", "cache"]


def test_what_the_hub_lacks_is_an_error_of_ours(hub):
    with pytest.raises(ModelError, match=r"the hub did not give it \(tokenizer: not there\).*HF_TOKEN"):
        load_model("owner/other")


def test_a_model_that_the_hub_does_not_have_is_asked_for_once(hub, monkeypatch):
    asked, _ = hub
    with pytest.raises(ModelError, match=r"the hub has no model of that name, or it is private.*HF_TOKEN"):
        load_model("owner/nothing")
    with pytest.raises(ModelError, match="owner/name has no revision 'v9' on the hub"):
        load_model("owner/name", revision="v9")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match=r"the hub cannot be reached \(.*Check the network"):
        load_model("owner/name")
    assert asked == ["cache"] * 3, "transformers, which asks again and again, was not let near it"


def test_a_tokenizer_with_more_ids_than_embeddings_is_refused(llama):
    larger = byte_tokenizer()
    assert len(larger) == llama.vocabulary
    larger.add_tokens(["<image>"])  # a relative's token: no text need hold it
    lm = LanguageModel(llama.model, larger, "larger")
    assert lm.generate(["hello"])
    with pytest.raises(DataError, match=r"'<image>' with id \d+, but the model has embeddings for"):
        lm.prompt_ids(["an <image>"])
    larger.eos_token = "<image>"
    with pytest.raises(ModelError, match="does not fit its model"):
        LanguageModel(llama.model, larger, "larger")


def test_whole_numbers_are_no_weights_without_their_scales(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = next(key for key in weights if key.endswith("mlp.down_proj.weight"))
    save_file({**weights, name: weights[name].to(torch.int8)}, path, {"format": "pt"})
    with pytest.raises(ModelError, match=f"{name} has dtype I8, and config.json has no quantization_config"):
        load_model(folder)
