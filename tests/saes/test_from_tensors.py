"""An SAE of given weights, made without drawing random ones."""

import pytest
import torch

import saes
from saes import SAE, ShapeError
from tests.saes.formats.oracle import made


@pytest.mark.parametrize("activation", ["topk", "batch_topk", "jumprelu", "relu"])
def test_an_sae_of_given_weights_is_the_drawn_one_with_these_weights(activation):
    """Parameters, buffers, their order and their order in memory are those of an SAE that is made to be trained."""
    drawn = made(activation)
    held = SAE.from_tensors(drawn.config, drawn.state_dict())
    assert list(held.state_dict()) == list(drawn.state_dict())
    assert [name for name, _ in held.named_parameters()] == [name for name, _ in drawn.named_parameters()]
    for name, tensor in held.state_dict().items():
        assert torch.equal(tensor, drawn.state_dict()[name])
        assert tensor.stride() == drawn.state_dict()[name].stride()
        assert tensor.data_ptr() != drawn.state_dict()[name].data_ptr(), "the weights are a copy"
    x = torch.randn(5, 12)
    assert torch.equal(held(x), drawn(x))


def test_given_weights_are_float32_and_must_fit():
    drawn = made()
    tensors = {name: tensor.double() for name, tensor in drawn.state_dict().items()}
    assert SAE.from_tensors(drawn.config, tensors).W_enc.dtype == torch.float32
    with pytest.raises(ShapeError, match=r"got .*'W_dec': .40, 11."):
        SAE.from_tensors(drawn.config, {**tensors, "W_dec": tensors["W_dec"][:, :11]})
    with pytest.raises(ShapeError, match="has the tensors"):
        SAE.from_tensors(drawn.config, {**tensors, "threshold": torch.zeros(40)})


def test_reading_a_checkpoint_draws_nothing(tmp_path, monkeypatch):
    for format in ("saes", "saelens"):
        saes.save(made(), tmp_path / format, format)
    monkeypatch.setattr("saes.sae._drawn", lambda *_: pytest.fail("random weights were drawn"))
    for format in ("saes", "saelens"):
        assert saes.load(tmp_path / format).config.d_sae == 40
