"""``steer train`` as it stands: who gives no options gets a training that begins, with the ring that is told of."""

from safetensors.torch import load_file

import saes
from steer.cli.app import run
from steer.training.config import TrainingConfig
from steer.training.estimate import estimate


def test_the_defaults_train_and_the_ring_is_the_one_that_is_told_of(monkeypatch, tmp_path):
    """A public trainer refuses its own: its buffer is smaller than its batch, and is reported as something else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("steer.training.estimate.BURST_SECONDS", 0.0)
    told = next(one for one in estimate(TrainingConfig(total_tokens=4096, out="a")).parts if one.name == "ring")
    assert run(["train", "--total-tokens", "4096", "--out", "a", "--threads", "1"]) == 0
    sae = saes.load("a/sae")
    assert (sae.config.d_sae, sae.config.k) == (8 * sae.config.d_in, 32)
    [kept] = (tmp_path / "a" / "checkpoints").glob("step-*/state.safetensors")
    [ring] = [one for one in load_file(kept).values() if one.ndim == 3]
    assert list(ring.shape) == [1, 65_536, sae.config.d_in]
    assert ring.nbytes == told.bytes
