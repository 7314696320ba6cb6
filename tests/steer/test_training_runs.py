"""SAEs trained on a model's activations with a run folder, stopped and gone on with on a stream opened anew."""

import pytest
import torch

import saes
from saes import FormatError, RunConfig, SAEConfig, TrainConfig
from steer.activations.batch import StreamConfig
from steer.activations.policy import TokenPolicy
from steer.activations.reading import Reading
from steer.activations.resumable import ActivationStream
from steer.errors import DataError
from steer.models.site import Site
from tests.steer.activation_data import source_of

TRAIN = TrainConfig(32 * 9, 32, lr=1e-2, measure_every_steps=1)


@pytest.mark.parametrize("ahead", [0, 2])
def test_a_stopped_run_goes_on_bit_for_bit_with_all_its_sites(llama, tmp_path, ahead):
    source = source_of("jsonl", tmp_path)
    width = llama.d_model
    configs = [
        SAEConfig(width, 64, 4, site="1.resid_post"),
        SAEConfig(
            width, 48, 3, activation="batch_topk", site="0.resid_post", site_out="1.resid_post", subtract_b_dec=False
        ),
    ]

    def fit(folder, seed=0, **run):
        reading = Reading((Site(0), Site(1)), TokenPolicy(), forward_tokens=400, window_rows=12)
        stream = ActivationStream(llama, source, reading, StreamConfig(32, 100, seed=seed, ahead=ahead))
        try:
            return saes.fit(configs, stream, TRAIN, run=RunConfig(folder, **run))
        finally:
            stream.close()

    whole = fit(tmp_path / "whole")
    for _ in range(3):
        parts = fit(tmp_path / "parts", stop_after_steps=4)
    for one, other in zip(whole, parts, strict=True):
        assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())
    fit(tmp_path / "other", stop_after_steps=1)
    with pytest.raises(DataError, match="seed"):
        fit(tmp_path / "other", seed=1)
    path = tmp_path / "other" / "checkpoints" / "step-000000000001" / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FormatError, match=r"state\.safetensors has been cut off"):
        fit(tmp_path / "other")
