"""``load_sae``: by path, from a hub on this machine, and by the names in SAELens' list."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants, hf_hub_download
from safetensors.torch import save_file

import saes
import steer
from saes import SAE, SAEConfig
from steer.checkpoints.registry import _releases, look_up
from steer.checkpoints.source import HubPlace, RegistryPlace, parse_source
from tests.conftest import random_sae
from tests.saes.formats.oracle import made, same
from tests.steer.fake_hub import Hub, serving


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with serving(monkeypatch, tmp_path / "cache") as hub:
        yield hub


@pytest.fixture
def offline(monkeypatch):
    return lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def shared(hub: Hub, tmp_path: Path, sae: SAE, repo: str, inside: str = "", format: str = "saes") -> None:
    saes.save(sae, tmp_path / "made", format)
    hub.add(repo, tmp_path / "made", inside)


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("hub:me/x", HubPlace("me/x")),
        ("hub:me/x/a/b@v1", HubPlace("me/x", "a/b", "v1")),
        ("hub:me/x@refs/pr/1", HubPlace("me/x", "", "refs/pr/1")),
        ("saelens:rel/layer_1/width", RegistryPlace("rel", "layer_1/width")),
        ("runs/sae", Path("runs/sae")),
        (Path("hub:me/x"), Path("hub:me/x")),
    ],
)
def test_what_a_source_means(source, place):
    assert parse_source(source) == place
    assert parse_source(str(place)) == place or isinstance(place, Path | RegistryPlace)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("hf:me/x", "Unknown scheme 'hf'.*written hub:owner/name"),
        ("https://huggingface.co/me/x", "Unknown scheme 'https'"),
        ("s3:bucket", "an SAE is named by a path, hub:owner/name/folder, or saelens:release/id"),
        ("hub:x", "names no place on the hub"),
        ("hub:me/x/../y", "names no place on the hub"),
        ("hub:me/x@../../y", "is no revision"),
        ("hub:me/x//y", "names no place on the hub"),
        ("me/x", "nothing is there.*write hub:me/x"),
        ("./nowhere", "nothing is there"),
    ],
)
def test_sources_that_name_nothing(source, words):
    with pytest.raises(steer.CheckpointError, match=words):
        steer.load_sae(source)


def test_a_revision_goes_with_the_hub(tmp_path):
    with pytest.raises(steer.CheckpointError, match="revision goes with hub"):
        steer.load_sae(tmp_path, revision="main")
    with pytest.raises(steer.CheckpointError, match="Two revisions"):
        steer.load_sae("hub:me/x@a", revision="b")
    with pytest.raises(saes.ConfigError, match="no format 'nonsense': expected one of saes, saelens"):
        steer.load_sae(tmp_path, format="nonsense")


def test_a_path_is_loaded_as_ever(tmp_path):
    sae = random_sae()
    saes.save(sae, tmp_path, "saelens")
    again = steer.load_sae(tmp_path, model="other", site="2.resid_post")
    same(sae, again)
    assert (again.config.model, again.config.site) == ("other", "2.resid_post")


@pytest.mark.parametrize("inside", ["", "runs/layer_3"])
def test_only_the_files_needed_are_downloaded_once_and_serve_offline(hub, offline, tmp_path, inside):
    sae, notes = random_sae(), []
    shared(hub, tmp_path, sae, "me/x", inside, "saelens")
    hub.repos["me/x"] |= {"README.md": b"card", "other/sae_weights.safetensors": b"", f"{inside or 'b'}/big.bin": b"0"}
    source = "hub:me/x" + (f"/{inside}" if inside else "")
    same(sae, steer.load_sae(source, note=notes.append))
    assert notes == [f"asking the hub for {source} ..."]
    got = {request.rsplit("/", 1)[1] for request in hub.requests if request.startswith("GET /me/x")}
    assert got == {"cfg.json", "sae_weights.safetensors"}
    hub.requests.clear()
    same(sae, steer.load_sae(source))
    assert hub.requests == ["GET /api/models/me/x"], "files of this commit are in the cache"
    offline()
    same(sae, steer.load_sae(source))
    same(sae, steer.load_sae(f"{source}@{hub.commit_of('me/x')}"))
    with pytest.raises(steer.CheckpointError, match="not in the local cache, and the hub is switched off"):
        steer.load_sae("hub:me/y")
    with pytest.raises(steer.CheckpointError, match="not in the local cache"):
        steer.load_sae(f"{source}@v2")
    with pytest.raises(steer.CheckpointError, match="has no folder or file 'elsewhere'"):
        steer.load_sae("hub:me/x/elsewhere")


def test_what_the_client_has_cached_serves_offline(hub, offline, tmp_path):
    """The layout is the client's own, so what other programs have downloaded is found."""
    shared(hub, tmp_path, random_sae(), "me/x", "a", "saelens")
    for name in ("a/cfg.json", "a/sae_weights.safetensors"):
        hf_hub_download("me/x", name)
    offline()
    same(random_sae(), steer.load_sae("hub:me/x/a"))


def test_a_hub_out_of_reach_leaves_the_cache(hub, monkeypatch, tmp_path):
    shared(hub, tmp_path, random_sae(), "me/x")
    steer.load_sae("hub:me/x")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    notes = []
    same(random_sae(), steer.load_sae("hub:me/x", note=notes.append))
    assert "what is in the local cache is used" in notes[-1]
    with pytest.raises(steer.CheckpointError, match="not in the local cache, and the hub cannot be reached"):
        steer.load_sae("hub:me/y")


def test_a_new_commit_is_fetched(hub, tmp_path):
    shared(hub, tmp_path, random_sae(), "me/x")
    steer.load_sae("hub:me/x")
    shared(hub, tmp_path, random_sae(seed=8), "me/x")
    same(random_sae(seed=8), steer.load_sae("hub:me/x"))


def test_what_the_hub_does_not_have(hub, tmp_path):
    shared(hub, tmp_path, random_sae(), "me/x", "runs/a")
    for source, words in [
        ("hub:me/none", "no repository me/none on the hub, or it is private"),
        ("hub:me/x@v9", "no revision 'v9'"),
        ("hub:me/x/runs/b", "no folder or file 'runs/b'. Weights are in runs/a"),
        ("hub:me/x", "holds no SAE that can be read.*Weights are in runs/a"),
    ]:
        with pytest.raises(steer.CheckpointError, match=words):
            steer.load_sae(source)
    with pytest.raises(steer.CheckpointError, match=r"needs .*cfg.json"):
        steer.load_sae("hub:me/x/runs/a", format="sparsify")


def test_a_download_that_breaks_off(hub, monkeypatch, tmp_path):
    shared(hub, tmp_path, random_sae(), "me/x")
    hub.broken = {"sae.safetensors"}
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(steer.CheckpointError, match=r"sae\.safetensors of me/x was not downloaded"):
        steer.load_sae("hub:me/x")
    hub.broken = set()
    same(random_sae(), steer.load_sae("hub:me/x"))


def test_single_files_and_settings_above_the_folder(hub, tmp_path):
    topk = made(site="3.resid_post")
    saes.save(topk, tmp_path / "ae", "dictionary_learning")
    hub.add("me/x", tmp_path / "ae", "trainer_0")
    hub.repos["me/x"]["trainer_0/checkpoints/ae_100.pt"] = hub.repos["me/x"]["trainer_0/ae.pt"]
    for inside in ("trainer_0", "trainer_0/ae.pt", "trainer_0/checkpoints/ae_100.pt"):
        again = steer.load_sae(f"hub:me/x/{inside}")
        same(topk, again)
        assert again.config.site == "3.resid_post", "from the config beside it or above"
    shared(hub, tmp_path, topk, "me/sparse", "layers.5", "sparsify")
    hub.repos["me/sparse"]["config.json"] = b'{"model": "EleutherAI/pythia"}'
    again = steer.load_sae("hub:me/sparse/layers.5")
    assert (again.config.model, again.config.site) == ("EleutherAI/pythia", "5.resid_post")


# SAELens' list


def released(hub: Hub, tmp_path: Path, release: str, sae_id: str, sae: SAE, format: str, **files: bytes) -> None:
    """Put an SAE where SAELens' list says that a release has it."""
    place = look_up(RegistryPlace(release, sae_id)).place
    shared(hub, tmp_path / release, sae, place.repo, place.inside, format)
    hub.repos[place.repo] |= files


@pytest.mark.parametrize("release", ["gpt2-small-res-jb", "gpt2-small-mlp-tm", "mistral-7b-res-wg"])
def test_releases_load_as_saelens_loads_them(hub, tmp_path, release):
    """Plain; with a factor that stands in the list alone; with a normalisation that the list sets against the files."""
    sae_lens = pytest.importorskip("sae_lens")
    sae_id = str(_releases()[release]["saes"][0]["id"])
    sae = made("relu", site="0.resid_pre", model="gpt2-small")
    released(hub, tmp_path, release, sae_id, sae, "saelens")
    place = look_up(RegistryPlace(release, sae_id)).place
    settings = json.loads(hub.repos[place.repo][f"{place.inside}/cfg.json"])
    if release == "gpt2-small-mlp-tm":
        settings["normalize_activations"] = "expected_average_only_in"
    hub.repos[place.repo][f"{place.inside}/cfg.json"] = json.dumps(settings).encode()
    ours = steer.load_sae(f"saelens:{release}/{sae_id}")
    theirs = sae_lens.SAE.from_pretrained(release, sae_id)
    x = 3 * torch.randn(50, 12) + 1
    codes = ours.encode(x)
    torch.testing.assert_close(codes.to_dense(), theirs.encode(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.decode(codes), theirs.decode(theirs.encode(x)), rtol=1e-5, atol=1e-5)


def test_gemma_scope_by_its_canonical_name(hub, tmp_path):
    sae = made("jumprelu", subtract_b_dec=False)
    released(hub, tmp_path, "gemma-scope-2b-pt-res-canonical", "layer_20/width_16k/canonical", sae, "gemma_scope")
    again = steer.load_sae("saelens:gemma-scope-2b-pt-res-canonical/layer_20/width_16k/canonical")
    same(sae, again)
    assert (again.config.model, again.config.site) == ("google/gemma-2-2b", "20.resid_post")


def torch_file(tmp_path: Path, contents: dict) -> bytes:
    torch.save(contents, tmp_path / "file.pt")
    return (tmp_path / "file.pt").read_bytes()


def test_single_files_by_their_names_in_the_list(hub, tmp_path):
    relu = SAE(SAEConfig(12, 40, activation="relu", subtract_b_dec=False)).requires_grad_(False)
    linear = (
        {"weight": relu.W_enc.T.contiguous(), "bias": relu.b_enc},
        {"weight": relu.W_dec.T.contiguous(), "bias": relu.b_dec},
    )
    for release, sae_id, names in [
        ("goodfire-llama-3.1-8b-instruct", "layer_19", ("encoder_linear", "decoder_linear")),
        ("deepseek-r1-distill-llama-8b-qresearch", "blocks.19.hook_resid_post", ("encoder", "decoder")),
    ]:
        entry = look_up(RegistryPlace(release, sae_id))
        state = {
            f"{name}.{key}": value for name, part in zip(names, linear, strict=True) for key, value in part.items()
        }
        hub.repos[entry.place.repo] = {entry.place.inside: torch_file(tmp_path, state)}
        again = steer.load_sae(f"saelens:{release}/{sae_id}")
        same(relu, again)
        assert again.config.site == "19.resid_post"
        assert again.config.model == _releases()[release]["model"]


def test_qwen_scope_takes_k_from_the_repository(hub, tmp_path):
    sae = SAE(SAEConfig(4, 80 * 1024, 50, subtract_b_dec=False)).requires_grad_(False)
    state = {
        "W_enc": sae.W_enc.T.contiguous(),
        "W_dec": sae.W_dec.T.contiguous(),
        "b_enc": sae.b_enc,
        "b_dec": sae.b_dec,
    }
    hub.repos["Qwen/SAE-Res-Qwen3.5-27B-W80K-L0_50"] = {"layer7.sae.pt": torch_file(tmp_path, state)}
    config = steer.load_sae("saelens:qwen-scope-3.5-27b-w80k-l50/layer7").config
    assert (config.k, config.model, config.site) == (50, "Qwen/Qwen3.5-27B", "7.resid_post")


def test_the_factor_of_llama_scope_r1_is_in_the_list(hub, tmp_path):
    release, sae_id = "llama_scope_r1_distill", "l0r_800m_slimpajama"
    entry = look_up(RegistryPlace(release, sae_id))
    assert entry.format == "llamascopium"
    tensors = {"encoder.weight": torch.randn(16, 4), "encoder.bias": torch.zeros(16)}
    tensors |= {"decoder.weight": torch.randn(4, 16), "decoder.bias": torch.zeros(4)}
    save_file(tensors | {"log_jumprelu_threshold": torch.zeros(16)}, tmp_path / "weights")
    config = {"d_model": 4, "expansion_factor": 4, "act_fn": "jumprelu", "norm_activation": "dataset-wise"}
    config |= {"hook_point_in": "blocks.0.hook_resid_post", "sparsity_include_decoder_norm": False}
    hub.repos[entry.place.repo] = {
        f"{entry.place.inside}/config.json": json.dumps(config).encode(),
        f"{entry.place.inside}/sae_weights.safetensors": (tmp_path / "weights").read_bytes(),
    }
    sae = steer.load_sae(f"saelens:{release}/{sae_id}")
    scale = _releases()[release]["saes"][0]["norm_scaling_factor"]
    assert sae.config.input_scale == pytest.approx(scale)
    torch.testing.assert_close(sae.W_enc, tensors["encoder.weight"].T * scale)
    assert sae.config.model == "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("saelens:gemma-scope-2b-pt-res-canonicl/x", "no release.*Close to it are gemma-scope-2b-pt-res-canonical"),
        ("saelens:zzzz/x", "It has 1.., for example"),
        ("saelens:gpt2-small-res-jb/blocks.99", "it has 13, for example blocks.0.hook_resid_pre"),
        ("saelens:gpt2-small-res-jb", "has no SAE ''.*Write saelens:gpt2-small-res-jb/blocks.0.hook_resid_pre"),
        ("saelens:temporal-sae-gemma-2-2b/blocks.12.hook_resid_post", "family temporal.*depend on earlier tokens"),
        ("saelens:gpt2-small-hook-z-kk/blocks.0.hook_z", "connor_rob_hook_z, which is not read"),
        ("saelens:mntss-gemma-2-2b-2.5m-clt-as-per-layer/layer_0", "cross-layer transcoder"),
    ],
)
def test_names_that_saelens_list_does_not_have(source, words):
    with pytest.raises(steer.CheckpointError, match=words):
        steer.load_sae(source)


def test_every_release_has_a_format_here_or_is_refused_by_name():
    refused = set()
    for release, facts in _releases().items():
        try:
            entry = look_up(RegistryPlace(release, str(facts["saes"][0]["id"])))
        except steer.CheckpointError as error:
            refused.add(str(error).split("family ")[1].split(",")[0])
        else:
            saes.formats.find_format(entry.format)
            assert entry.place.repo == facts["repo_id"]
    assert refused == {"connor_rob_hook_z", "mntss_clt_layer_transcoder", "mwhanna_transcoder", "temporal"}


def test_a_format_other_than_the_release_s_is_refused():
    with pytest.raises(steer.CheckpointError, match="is of the format gemma_scope, but saelens was asked for"):
        steer.load_sae("saelens:gemma-scope-2b-pt-res-canonical/layer_20/width_16k/canonical", format="saelens")
