"""Plans out as plain steering vectors, and such vectors in as plans."""

import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from steer.errors import MissingExtra, PlanError
from steer.models.site import Site
from steer.plans.plan import SteeringPlan
from steer.plans.vectors import export_vectors, import_vectors
from steer.steering.steered import steered
from tests.conftest import D_MODEL, PROMPTS, random_sae
from tests.steer.plan_data import vectors

ALL = {"first_token": True}
ADD = {"kind": "direction", "site": "1.resid_post", "direction": "push", "strength": 3.0, "window": ALL}
LATENTS = {"kind": "latents", "sae": "one", "values": {"3": 2.0, "9": -1.0}, "operation": "add", "window": ALL}
PLAIN = [ADD, {**ADD, "direction": "across", "site": "2.resid_pre"}, {**ADD, "site": "2.resid_post"}, LATENTS]


def quiet(note):
    """Notes are read by other tests."""


def plan_of(edits, **more):
    return SteeringPlan(vectors=vectors(), saes={"one": {"source": "sae"}}, edits=edits, **more)


def by_hand():
    v, sae = vectors(), random_sae()
    one = 3.0 * v["push"].double() / v["push"].double().norm()
    other = 3.0 * v["across"].double() / v["across"].double().norm()
    return {1: one + other + 2.0 * sae.W_dec[3].double() - sae.W_dec[9].double(), 2: one}


@pytest.mark.parametrize("suffix", [".safetensors", ".gguf"])
def test_what_a_plan_adds_to_each_layer_goes_out_and_comes_in(llama, tmp_path, suffix):
    path, notes, plan = tmp_path / f"vectors{suffix}", [], plan_of(PLAIN, label="a test", system="Be brief.")
    given = {"one": random_sae()}
    found = export_vectors(plan, path, notes.append, saes=given)
    for layer, vector in by_hand().items():
        torch.testing.assert_close(found[layer].double(), vector, rtol=1e-6, atol=1e-6)
    assert notes[-1] == f"not in vectors{suffix}, which has no place for it: system, label."
    back = import_vectors(path, quiet, "tiny-llama")
    assert [edit.site for edit in back.edits] == ["1.resid_post", "2.resid_post"]
    for edit in back.edits:
        vector = found[Site.parse(edit.site).layer]
        torch.testing.assert_close(edit.strength * back.vectors[edit.direction] / vector.norm(), vector)
    rows = llama.prompt_ids(PROMPTS)
    with steered(llama, *plan.bind(llama, saes=given).interventions):
        expected = llama.forward(llama.pad(rows))
    with steered(llama, *back.bind(llama).interventions):
        torch.testing.assert_close(llama.forward(llama.pad(rows)), expected, rtol=1e-4, atol=1e-4)
    twice = import_vectors(path, quiet, strength=2.0)
    assert [edit.strength for edit in twice.edits] == [2 * edit.strength for edit in back.edits]
    again = export_vectors(back, tmp_path / f"again{suffix}", quiet)
    for layer, vector in found.items():
        torch.testing.assert_close(again[layer], vector)


def test_a_control_vector_is_what_llama_cpp_and_repeng_read(tmp_path):
    import gguf

    export_vectors(plan_of([ADD]), tmp_path / "x.gguf", quiet, hint="llama")
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    assert reader.get_field("general.architecture").contents() == "controlvector"
    assert reader.get_field("controlvector.model_hint").contents() == "llama"
    assert reader.get_field("controlvector.layer_count").contents() == 1
    (tensor,) = reader.tensors
    assert (tensor.name, tensor.tensor_type.name, list(tensor.shape)) == ("direction.1", "F32", [D_MODEL])


def test_a_control_vector_of_repeng_is_read(tmp_path):
    """Written as ``ControlVector.export_gguf`` of repeng does."""
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "controlvector")
    writer.add_string("controlvector.model_hint", "mistral")
    writer.add_uint32("controlvector.layer_count", 2)
    drawn = np.random.default_rng(0).standard_normal((2, D_MODEL)).astype(np.float32)
    for layer, vector in zip((1, 2), drawn, strict=True):
        writer.add_tensor(f"direction.{layer}", vector)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    notes = []
    plan = import_vectors(tmp_path / "x.gguf", notes.append)
    assert "architecture 'mistral'" in notes[0]
    assert plan.model.d_model == D_MODEL
    for edit, vector in zip(plan.edits, drawn, strict=True):
        assert edit.strength == pytest.approx(np.linalg.norm(vector))
        assert np.array_equal(plan.vectors[edit.direction].numpy(), vector)


def test_vectors_named_by_sites_are_read_and_zeros_left_out(tmp_path):
    tensors = {
        "blocks.2.hook_resid_pre": torch.ones(4),
        "direction.0": torch.ones(4).half(),
        "3.mlp_out": torch.zeros(4),
    }
    save_file(tensors, tmp_path / "x.safetensors")
    notes = []
    plan = import_vectors(tmp_path / "x.safetensors", notes.append)
    assert [edit.site for edit in plan.edits] == ["0.resid_post", "2.resid_pre"]
    assert import_vectors(tmp_path / "x.safetensors", notes.append).digest == plan.digest
    assert notes == ["left out, since they are zero: 3.mlp_out."] * 2


def test_the_first_token_is_told_of(tmp_path):
    notes = []
    export_vectors(plan_of([{**ADD, "window": {}}]), tmp_path / "x.safetensors", notes.append)
    assert notes == ["the plan leaves the first token of a row alone; who uses x.safetensors adds to it as well."]
    assert list(load_file(tmp_path / "x.safetensors")) == ["direction.1"]


@pytest.mark.parametrize(
    ("edits", "words"),
    [
        ([], "has no edits"),
        ([ADD, {**LATENTS, "operation": "set"}], r"edits\.1 is no plain vector: what setting a latent .a clamp."),
        ([{**LATENTS, "operation": "scale"}], "what scale adds depends on the token"),
        ([{**ADD, "operation": "project_out"}], "what project_out adds depends on the token"),
        ([{**ADD, "unit": "residual_norm"}], "a multiple of each token's norm"),
        ([{**LATENTS, "error": "drop"}], "error='drop'"),
        ([{**ADD, "window": {"phase": "generated"}}], "its window does not hold all tokens"),
        ([{**ADD, "gate": {"kind": "text", "classifier": "x"}}], "it has a gate"),
        ([{**ADD, "site": "1.mlp_out"}], "1.mlp_out is not what leaves a layer"),
        ([{**ADD, "site": "0.resid_pre"}], "0.resid_pre is not what leaves a layer"),
        ([{**ADD, "site": "0.resid_post"}], "no layer 0"),
        ([{**LATENTS, "values": {"96": 1.0}}], "Latent 96 is out of range"),
    ],
)
def test_what_is_no_plain_vector_is_refused_and_nothing_written(tmp_path, edits, words):
    with pytest.raises(PlanError, match=words):
        export_vectors(plan_of(edits), tmp_path / "x.gguf", quiet, saes={"one": random_sae()})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"W_dec": torch.ones(4)}, "'W_dec' is named neither direction.LAYER nor by a site"),
        ({"direction.1": torch.ones(4), "1.resid_post": -torch.ones(4)}, "two vectors for 1.resid_post"),
        ({"direction.1": torch.ones(4), "direction.01": -torch.ones(4)}, "two vectors for 1.resid_post"),
        (
            {"direction.1": torch.tensor(3.0)},
            r"must be a vector of finite real numbers, got torch.float32 of shape \[\]",
        ),
        ({"direction.1": 1j * torch.ones(4)}, "got torch.complex64"),
        ({"direction.1": torch.full((4,), 1e300, dtype=torch.float64)}, "finite real numbers"),
        ({"direction.1": torch.ones(4), "direction.2": torch.ones(5)}, "have 4 and 5 dimensions"),
        ({"direction.1": torch.zeros(4)}, "no vector that is not zero"),
        ({"direction.1": torch.ones(2, 2)}, r"of shape \[2, 2\]"),
        ({"direction.1": torch.full((4,), torch.nan)}, "finite"),
    ],
)
def test_files_that_hold_no_plain_vectors(tmp_path, tensors, words):
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(PlanError, match=words):
        import_vectors(tmp_path / "x.safetensors", quiet)


def test_damaged_and_foreign_gguf_files_are_refused(tmp_path):
    import gguf

    (tmp_path / "x.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(PlanError, match="no GGUF file that can be read"):
        import_vectors(tmp_path / "x.gguf", quiet)
    with pytest.raises(PlanError, match="cannot be read: No such file"):
        import_vectors(tmp_path / "y.gguf", quiet)
    with pytest.raises(PlanError, match=r"ends in .safetensors or .gguf"):
        import_vectors(tmp_path / "x.svec", quiet)
    for name, architecture, shape, words in (
        ("direction.1", "llama", (4,), "general.architecture is 'llama'"),
        ("direction.0", "controlvector", (4,), "expected tensors direction.LAYER from layer 1 on"),
        ("direction.1", "controlvector", (2, 4), r"got direction.1 of \[4, 2\]"),
    ):
        writer = gguf.GGUFWriter(tmp_path / "x.gguf", architecture)
        writer.add_tensor(name, np.ones(shape, dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with pytest.raises(PlanError, match=words):
            import_vectors(tmp_path / "x.gguf", quiet)


def test_without_its_package_gguf_is_refused_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    for call in (
        lambda: import_vectors(tmp_path / "x.gguf", quiet),
        lambda: export_vectors(plan_of([ADD]), tmp_path / "x.gguf", quiet),
    ):
        with pytest.raises(MissingExtra, match=r"pip install 'saesteer\[gguf\]'"):
            call()
