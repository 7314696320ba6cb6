"""Kernels against autograd in float64, and against their eager twins, on every output."""

import pytest
import torch

from saes.kernels import cpu, eager

MODULES = [
    pytest.param(eager, id="eager"),
    pytest.param(cpu, id="cpu", marks=pytest.mark.skipif(not cpu.available(), reason="no C compiler here")),
]
TOKENS, D_IN, D_OUT, D_SAE, K = 37, 24, 18, 200, 7


@pytest.fixture(params=MODULES)
def kernels(request):
    return request.param


def empty(d_out=D_OUT):
    shapes = [(D_SAE, d_out), (D_SAE, D_IN), *[(D_SAE,)] * 3]
    return eager.WeightGrads(*(torch.empty(shape) for shape in shapes))


def example(seed=0, d_out=D_OUT):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    return {
        "x": normal(TOKENS, D_IN),
        "W_enc": normal(D_IN, D_SAE),
        "b_enc": normal(D_SAE) - 10,  # so that some tokens have fewer than K positive pre-activations
        "W_dec": torch.nn.functional.normalize(normal(D_SAE, d_out), dim=-1),
        "b_dec": normal(d_out),
        "target": normal(TOKENS, d_out),
    }


@pytest.mark.parametrize(("width", "k"), [(200, 7), (64, 64), (65, 3), (5, 5), (1, 1), (1000, 1), (129, 100)])
def test_topk_finds_the_largest(kernels, width, k):
    pre = torch.randn(50, width, generator=torch.Generator().manual_seed(width))
    indices, values = kernels.topk(pre, k)
    assert torch.equal(pre.gather(-1, indices), values)
    assert torch.equal(values.sort(-1).values, pre.topk(k).values.sort(-1).values)
    assert all(len(set(row)) == k for row in indices.tolist())


def test_topk_of_many_equal_values(kernels):
    """Most pre-activations are zero after the ReLU, and still k different latents are given."""
    pre = torch.randn(50, 300, generator=torch.Generator().manual_seed(1)).sub(2.5).relu()
    indices, values = kernels.topk(pre, 20)
    assert torch.equal(values.sort(-1).values, pre.topk(20).values.sort(-1).values)
    assert all(len(set(row)) == 20 for row in indices.tolist())
    assert torch.equal(pre.gather(-1, indices), values)


def trained_like(tokens=300, d_in=64, d_sae=1500, seed=0):
    """Activations and an encoder of the kind that training gives: directions of unlike norms, few active at once."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(d_sae, d_in, generator=generator), dim=-1)
    active = torch.rand(tokens, d_sae, generator=generator) < 12 / d_sae
    x = (active * torch.rand(tokens, d_sae, generator=generator)) @ directions * 8
    norms = torch.rand(d_sae, 1, generator=generator) + 0.5
    return x, (directions * norms).T, 0.2 * torch.randn(d_sae, generator=generator)


@pytest.mark.parametrize("selection", ["exact", "proven", "fast"])
@pytest.mark.parametrize("k", [1, 32, 100])
def test_all_selections_find_the_same_latents(kernels, selection, k):
    x, W_enc, b_enc = trained_like()
    pre = x.double() @ W_enc.double() + b_enc.double()
    memory = {}
    for _ in range(2):  # the second time in the memory of the first
        indices, values = kernels.encode_topk(x, W_enc, b_enc, k, selection, memory)
        least = pre.topk(k).values[:, -1:]
        found = pre.gather(-1, indices)
        assert (found >= least - 1e-5).all(), "all of them belong there, up to rounding in float32"
        assert all(len(set(row)) == k for row in indices.tolist())
        torch.testing.assert_close(values.double(), found, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("selection", ["exact", "proven", "fast"])
@pytest.mark.parametrize(("d_sae", "k"), [(5, 5), (40, 33), (64, 64), (513, 8)])
def test_selections_of_narrow_encoders(kernels, selection, d_sae, k):
    x, W_enc, b_enc = trained_like(tokens=20, d_in=7, d_sae=d_sae)
    wanted = (x @ W_enc + b_enc).topk(k).values
    values = kernels.encode_topk(x, W_enc, b_enc, k, selection)[1]
    torch.testing.assert_close(values.sort(-1, descending=True).values, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not (cpu.available() and cpu.multiplies_bf16()), reason="no compiler, or no bfloat16 here")
@pytest.mark.parametrize("selection", ["proven", "fast"])
def test_selections_hold_where_bfloat16_cannot_tell(selection):
    """All pre-activations of a token lie within a unit of bfloat16, so a fixed number of candidates would not do."""
    generator = torch.Generator().manual_seed(3)
    common = torch.nn.functional.normalize(torch.randn(1, 64, generator=generator), dim=-1)
    W_enc = (common + 1e-4 * torch.randn(1000, 64, generator=generator)).T
    x = 8 * common + 0.1 * torch.randn(50, 64, generator=generator)
    b_enc = 1e-3 * torch.randn(1000, generator=generator)
    pre = x.double() @ W_enc.double() + b_enc.double()
    least = pre.topk(8).values[:, -1:]

    def missed(indices):
        return (pre.gather(-1, indices) < least - 4e-6).double().mean()

    assert missed(cpu.encode_topk(x, W_enc, b_enc, 8, selection)[0]) == 0
    assert missed(((x.bfloat16() @ W_enc.bfloat16()) + b_enc).topk(24).indices[:, :8]) > 0.3


@pytest.mark.parametrize("selection", ["exact", "proven", "fast"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_show(kernels, selection, value):
    x, W_enc, b_enc = trained_like(tokens=20, d_in=16, d_sae=100)
    x[3, 5] = value
    values = kernels.encode_topk(x, W_enc, b_enc, 4, selection)[1]
    assert not values[3].isfinite().all()
    assert values[:3].isfinite().all()


def batch_of(case, tokens=150, d_in=32, d_sae=700):
    x, W_enc, b_enc = trained_like(tokens, d_in, d_sae)
    if case == "a loud token":  # which the sample does not hold, and which has nearly all of the largest
        x[77] *= 60
    elif case == "quiet tokens":
        x[:140] = 0
        b_enc.fill_(-0.1)
    elif case == "few positive":
        b_enc -= 100
        b_enc[5] = 1e-3
        W_enc[:, 5] = 0
    elif case == "ties":
        W_enc, b_enc = torch.zeros(d_in, d_sae), torch.ones(d_sae)
    elif case == "nothing":
        b_enc.fill_(-1e6)
    return x, W_enc.contiguous(), b_enc


@pytest.mark.parametrize("case", ["usual", "a loud token", "quiet tokens", "few positive", "ties", "nothing"])
@pytest.mark.parametrize("k", [1, 32, 700])
def test_the_largest_of_a_batch(kernels, case, k):
    x, W_enc, b_enc = batch_of(case)
    memory = {}
    for _ in range(2):  # the second time in the memory of the first
        (indices, values), least = kernels.encode_batch_topk(x, W_enc, b_enc, k, memory)
        pre = torch.relu(x.double() @ W_enc.double() + b_enc.double())
        edge = pre.flatten().topk(k * len(x)).values[-1]
        dense = torch.zeros_like(pre).scatter(-1, indices, values.double())
        assert all(len(set(row)) == indices.shape[1] for row in indices.tolist())
        assert (dense > 0)[pre > edge + 1e-4].all()
        assert not (dense > 0)[pre < edge - 1e-4].any()
        torch.testing.assert_close(dense[dense > 0], pre[dense > 0], rtol=1e-5, atol=1e-4)
        assert (values >= 0).all()
        assert least == (values[values > 0].min() if (values > 0).any() else float("inf"))
        if case == "usual" and k < 700:
            assert (values > 0).sum() == k * len(x)
    if case == "ties":
        assert indices.shape == (150, 700)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_of_a_batch_that_are_not_finite_show(kernels, value):
    x, W_enc, b_enc = batch_of("usual")
    x[3, 5] = value
    (_, values), _ = kernels.encode_batch_topk(x, W_enc, b_enc, 4)
    assert not values[3].isfinite().all()


def test_variance(kernels):
    x = torch.randn(500, 19, generator=torch.Generator().manual_seed(2)) + 30
    wanted = (x.double() - x.double().mean(0)).square().sum().item()
    assert float(kernels.variance(x)) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_equal_those_of_autograd(kernels, bias):
    given = example()
    wanted = {name: tensor.double().requires_grad_() for name, tensor in given.items()}
    pre = torch.relu(wanted["x"] @ wanted["W_enc"] + wanted["b_enc"])
    indices = pre.topk(K).indices
    assert (pre.gather(-1, indices) == 0).any(), "some of the k are not active"
    dense = torch.zeros_like(pre).scatter(-1, indices, pre.gather(-1, indices))
    error = dense @ wanted["W_dec"] + bias * wanted["b_dec"] - wanted["target"]
    (0.3 / 2 * error.square().sum()).backward()

    values = torch.relu(given["x"] @ given["W_enc"] + given["b_enc"]).gather(-1, indices)
    b_dec = given["b_dec"] if bias else None
    made = kernels.reconstruct(indices, values, given["W_dec"], b_dec, given["target"], 0.3)
    masked = made.grads * (values > 0)
    found = empty()
    kernels.weight_grads(indices, values, masked, made.g, given["x"], found)

    def close(got, expected):
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)

    close(made.squares, error.square().sum(-1).detach())
    close(found.decoder, wanted["W_dec"].grad)
    close(found.encoder.T, wanted["W_enc"].grad)
    close(found.bias, wanted["b_enc"].grad)
    close(found.radial, (wanted["W_dec"].grad * wanted["W_dec"].detach()).sum(-1))
    rows = (wanted["W_dec"].grad, wanted["W_enc"].grad.T)
    close(found.squares, sum(part.square().sum(-1) for part in rows))
    if bias:
        close(made.g.sum(0), wanted["b_dec"].grad)
    close(-made.g, wanted["target"].grad)
    close((masked.unsqueeze(-1) * given["W_enc"].T[indices]).sum(1), wanted["x"].grad)


def test_gradients_are_added_to_earlier_ones(kernels):
    given = example()
    indices, values = kernels.topk(torch.relu(given["x"] @ given["W_enc"]), K)
    pairs = (indices, values, torch.randn(TOKENS, K), given["target"], given["x"])
    once, twice = empty(), empty()
    eager.weight_grads(*pairs, once)
    kernels.weight_grads(*pairs, twice)
    kernels.weight_grads(*pairs, twice, add=True)
    for name in ("decoder", "encoder", "bias", "radial"):
        torch.testing.assert_close(getattr(twice, name), 2 * getattr(once, name), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(twice.squares, 4 * once.squares, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("project", [True, False])
def test_adam_equals_that_of_torch(kernels, project):
    generator = torch.Generator().manual_seed(0)
    p = torch.nn.functional.normalize(torch.randn(30, 24, generator=generator), dim=-1)
    m, v = torch.zeros_like(p), torch.zeros_like(p)
    theirs = torch.nn.Parameter(p.double())
    optimiser = torch.optim.Adam([theirs], lr=0.01, betas=(0.9, 0.99), eps=1e-8)
    for number in range(1, 6):
        grad = torch.randn(30, 24, generator=generator)
        kernels.adam_(p, grad, m, v, eager.AdamStep(0.01, 0.9, 0.99, 1e-8, number, clip=0.5), project)
        gradient = grad.double()
        if project:
            gradient = gradient - (gradient * theirs.data).sum(-1, keepdim=True) * theirs.data
        theirs.grad = 0.5 * gradient
        optimiser.step()
        if project:
            theirs.data /= theirs.data.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(p.double(), theirs.data, rtol=1e-5, atol=1e-6)
    if project:
        torch.testing.assert_close(p.norm(dim=-1), torch.ones(30), rtol=1e-6, atol=1e-6)


@pytest.mark.skipif(not cpu.available(), reason="no C compiler here")
def test_results_do_not_depend_on_the_number_of_threads():
    given, threads = example(), torch.get_num_threads()

    def results():
        indices, values = cpu.topk(torch.relu(given["x"] @ given["W_enc"] + given["b_enc"]), K)
        made = cpu.reconstruct(indices, values, given["W_dec"], given["b_dec"], given["target"], 0.3)
        found = empty()
        cpu.weight_grads(indices, values, made.grads, made.g, given["x"], found)
        (of_batch, values_of_batch), _ = cpu.encode_batch_topk(given["x"], given["W_enc"], given["b_enc"], K)
        return [
            of_batch,
            values_of_batch,
            indices,
            values,
            made.g,
            made.grads,
            made.squares,
            found.decoder,
            found.encoder,
            found.bias,
            found.radial,
            found.squares,
        ]

    try:
        torch.set_num_threads(1)
        one = results()
        torch.set_num_threads(3)
        three = results()
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(one, three, strict=True))


def test_without_a_compiler_the_eager_kernels_serve(monkeypatch, tmp_path):
    from saes.kernels import kernels_for

    monkeypatch.setenv("SAES_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CC", "")
    for function in (cpu.available, cpu._library):
        function.cache_clear()
    try:
        assert kernels_for(torch.device("cpu")) is eager
    finally:
        for function in (cpu.available, cpu._library):
            function.cache_clear()


@pytest.mark.skipif(not cpu.available(), reason="no C compiler here")
def test_adam_refuses_to_work_on_a_copy():
    p = torch.ones(8, 4).T
    with pytest.raises(AssertionError):
        cpu.adam_(p, torch.ones(4, 8), torch.zeros(4, 8), torch.zeros(4, 8), eager.AdamStep(0.1, 0.9, 0.999, 1e-8, 1))
    p, m = torch.ones(4, 8), torch.zeros(4, 8)
    cpu.adam_(p, torch.ones(8, 4).T, m, torch.zeros(4, 8), eager.AdamStep(0.1, 0.9, 0.999, 1e-8, 1))
    torch.testing.assert_close(p, torch.full((4, 8), 0.9))
    assert (m > 0).all()


def test_a_torch_without_capabilities_is_served(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert isinstance(cpu._processor(), str)
