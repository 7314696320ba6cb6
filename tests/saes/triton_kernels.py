"""The Triton kernels against plain torch in float64, on every output. ``test_triton_kernels.py`` runs this file.

It is run in a process of its own, since Triton decides on import whether kernels are interpreted. Interpreted, they run
on a CPU, at a millisecond for each pair of token and latent: shapes are tiny, and block sizes too, so that each branch
of each kernel is taken. Where there is a GPU, the same tests run on it.
"""

import inspect
import os

import pytest
import torch

try:  # a machine with a GPU may have torch and pytest alone
    from jaxtyping import install_import_hook

    import tests.typecheck  # noqa: F401  # the hook names it by its path

    install_import_hook(["saes"], "tests.typecheck.check")
except ImportError:
    pass

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from saes.config import SAEConfig, TrainConfig
from saes.errors import ConfigError
from saes.kernels import cpu, eager, kernels_for
from saes.kernels import triton as kernels
from saes.kernels.triton import adam, gradients, reconstruction, rescoring, selection
from saes.sae import SAE
from saes.step import Training, step

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
runs = pytest.mark.skipif(not INTERPRETED and not torch.cuda.is_available(), reason="no GPU here")
OPERATIONS = ("topk", "encode_topk", "variance", "reconstruct", "weight_grads", "adam_")


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def close(got, expected, rtol=1e-5, atol=1e-5):
    torch.testing.assert_close(got.double(), expected.double(), rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", OPERATIONS)
def test_all_kernels_have_the_same_signatures(name):
    def arguments(module):
        return [
            (one.name, one.kind, one.default) for one in inspect.signature(getattr(module, name)).parameters.values()
        ]

    assert arguments(kernels) == arguments(eager) == arguments(cpu)


def test_they_are_chosen_on_cuda(monkeypatch):
    monkeypatch.delenv("SAES_KERNELS", raising=False)
    assert kernels_for(torch.device("cuda")) is kernels
    assert kernels_for(torch.device("cpu")) is not kernels
    monkeypatch.setenv("SAES_KERNELS", "eager")
    assert kernels_for(torch.device("cuda")) is eager
    assert kernels_for(torch.device("cpu")) is eager
    monkeypatch.setenv("SAES_KERNELS", "tritn")
    with pytest.raises(ConfigError, match="eager or triton, got 'tritn'"):
        kernels_for(torch.device("cuda"))


# --- topk


def strange(rows, width):
    """Ties at the edge, both zeros, both infinities, NaN, and rows of one value."""
    pre = normal(rows, width, seed=width).sub(1.5).relu()
    pre[0, ::2] = -0.0
    pre[1, width // 2] = float("nan")
    pre[2] = -float("inf")
    pre[3, 3] = float("inf")
    pre[4] = -2.0
    pre[5, width - 2 :] = float("nan")
    return pre


def check_topk(pre, k):
    """Exactly the k that a stable sort puts first, so of equal ones those of lowest index, by rising index."""
    indices, values = kernels.topk(pre, k)
    wanted = pre.float().sort(dim=-1, descending=True, stable=True).indices[:, :k].sort(-1).values
    assert torch.equal(indices, wanted)
    assert values.dtype == pre.dtype
    torch.testing.assert_close(values, pre.gather(-1, wanted), rtol=0, atol=0, equal_nan=True)


@runs
@pytest.mark.parametrize(("width", "k"), [(1, 1), (5, 5), (65, 64), (200, 7), (130, 1), (1001, 4)])
def test_topk_is_exact(width, k):
    check_topk(normal(2, width, seed=width), k)


@runs
@pytest.mark.parametrize("k", [1, 40])
def test_topk_of_bfloat16(k):
    """In which many values are equal."""
    check_topk(normal(2, 1001, dtype=torch.bfloat16), k)


@runs
def test_the_zero_largest_are_none():
    """As AuxK asks for them where the activations have one dimension."""
    indices, values = kernels.topk(normal(2, 9), 0)
    assert indices.shape == values.shape == (2, 0)
    made = kernels.reconstruct(indices, values, normal(9, 1), None, normal(2, 1), 1.0)
    close(made.g, -normal(2, 1))
    found = empty(9, 1, 1)
    kernels.weight_grads(indices, values, made.grads, made.g, normal(2, 1), found)
    assert not found.decoder.any()


@runs
def test_topk_of_what_is_not_contiguous():
    check_topk(normal(2, 300)[:, ::2], 4)


@runs
@pytest.mark.parametrize(("width", "k"), [(9, 3), (300, 20), (1001, 3)])
def test_topk_of_ties_and_numbers_that_are_none(width, k):
    check_topk(strange(6, width), k)


@runs
@pytest.mark.parametrize(("width", "k"), [(40, 33), (400, 5)])
def test_topk_of_rows_too_wide_for_one_block(monkeypatch, width, k):
    monkeypatch.setattr(selection, "SEARCH_BLOCK", 32)
    monkeypatch.setattr(selection, "VALUES_BLOCK", 128)
    check_topk(normal(1, width, seed=width), k)
    check_topk(strange(6, width)[:3], k)


@runs
@pytest.mark.parametrize(("width", "k"), [(40, 33), (400, 5)])
def test_topk_adds_the_bias_in_float32(monkeypatch, width, k):
    """Of pre-activations that bfloat16 cannot tell apart, the bias alone decides."""
    monkeypatch.setattr(selection, "SEARCH_BLOCK", 32)
    monkeypatch.setattr(selection, "VALUES_BLOCK", 128)
    pre = torch.full((3, width), 8.0, dtype=torch.bfloat16, device=DEVICE)
    bias = 1e-3 * normal(width, seed=width)
    indices, values = selection.topk_of_sum(pre, bias, k)
    sums = pre.float() + bias
    wanted = sums.topk(k).indices.sort(-1).values
    assert torch.equal(indices, wanted)
    assert torch.equal(values, sums.gather(-1, wanted))


@runs
@pytest.mark.parametrize("selection", ["exact", "fast"])
def test_encoding_selects_as_the_eager_one(selection):
    given = (normal(3, 20), normal(20, 90, seed=1), normal(90, seed=2), 5, selection)
    (ours, our_values), (theirs, their_values) = kernels.encode_topk(*given), eager.encode_topk(*given)
    theirs, order = theirs.sort(-1)
    assert torch.equal(ours.sort(-1).values, theirs)
    close(our_values.gather(-1, ours.argsort(-1)), their_values.gather(-1, order))


@runs
@pytest.mark.parametrize(("rows", "n", "d_sae", "width"), [(3, 5, 9, 7), (2, 1, 1, 1), (2, 20, 33, 50)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_candidates_are_scored_in_float32(monkeypatch, rows, n, d_sae, width, dtype):
    monkeypatch.setattr(rescoring, "GATHERED_BLOCK", 16 * 8)  # so that wide rows are read in several turns
    x, table = normal(rows, width, dtype=dtype), normal(d_sae, width, seed=1, dtype=dtype)
    indices = torch.randint(d_sae, (rows, n), generator=torch.Generator().manual_seed(2)).to(DEVICE)
    wanted = (table.double()[indices] * x.double().unsqueeze(1)).sum(-1)
    found = rescoring.dots(x, table, indices)
    close(found, wanted)
    assert found.dtype == torch.float32


# --- reconstruct


def problem(rows, k, d_sae, d_out, dtype=torch.float32):
    """Pairs of which some have the value zero, and what goes with them."""
    indices = torch.stack([torch.randperm(d_sae, generator=torch.Generator().manual_seed(n))[:k] for n in range(rows)])
    values = normal(rows, k, seed=1).relu().to(dtype)
    W_dec = torch.nn.functional.normalize(normal(d_sae, d_out, seed=2), dim=-1).to(dtype)
    return (
        indices.to(DEVICE),
        values,
        W_dec,
        normal(d_out, seed=3, dtype=dtype),
        normal(rows, d_out, seed=4, dtype=dtype),
    )


TRUNCATED = {"rtol": 2**-7, "atol": 1e-5}  # of bfloat16: the interpreter rounds towards zero


def check_reconstruct(indices, values, W_dec, bias, target, scale=0.3, **tolerance):
    a, w, b, x = (
        one.detach().double().requires_grad_()
        for one in (values, W_dec, torch.zeros_like(target[0]) if bias is None else bias, target)
    )
    dense = torch.zeros(len(a), len(w), dtype=torch.double, device=DEVICE).scatter(-1, indices, a)
    error = dense @ w + b - x
    (scale / 2 * error.square().sum()).backward()
    made = kernels.reconstruct(indices, values, W_dec, bias, target, scale)
    close(made.squares, error.square().sum(-1).detach())
    assert made.squares.dtype == torch.float64
    close(made.grads, a.grad)
    close(made.g, -x.grad, **tolerance)
    assert made.g.dtype == target.dtype
    if bias is not None and not tolerance:
        close(made.g.sum(0), b.grad)


@runs
@pytest.mark.parametrize(
    ("rows", "k", "d_sae", "d_out"), [(5, 7, 20, 18), (1, 1, 1, 1), (3, 1, 4, 33), (2, 6, 6, 5), (2, 64, 70, 300)]
)
@pytest.mark.parametrize("with_bias", [True, False])
def test_reconstruct_equals_autograd(rows, k, d_sae, d_out, with_bias):
    indices, values, W_dec, bias, target = problem(rows, k, d_sae, d_out)
    check_reconstruct(indices, values, W_dec, bias if with_bias else None, target)
    theirs = eager.reconstruct(indices, values, W_dec, bias, target, 0.3)
    ours = kernels.reconstruct(indices, values, W_dec, bias, target, torch.tensor(0.3, device=DEVICE))
    for name in ("g", "grads", "squares"):
        close(getattr(ours, name), getattr(theirs, name))
        assert getattr(ours, name).dtype == getattr(theirs, name).dtype


@runs
def test_reconstruct_in_several_blocks(monkeypatch):
    monkeypatch.setattr(reconstruction, "K_BLOCK", 4)
    monkeypatch.setattr(reconstruction, "K_TURN", 4)
    monkeypatch.setattr(reconstruction, "D_BLOCK", 8)
    monkeypatch.setattr(reconstruction, "GATHERED_BLOCK", 32)
    check_reconstruct(*problem(3, 11, 20, 27))
    check_reconstruct(*problem(3, 4, 20, 27))


@runs
def test_reconstruct_of_bfloat16_sums_in_float32():
    check_reconstruct(*problem(3, 7, 20, 18, torch.bfloat16), **TRUNCATED)
    indices, values, W_dec, bias, target = problem(3, 7, 20, 18)
    check_reconstruct(indices, values.bfloat16(), W_dec.bfloat16(), bias, target)


# --- weight_grads


def empty(d_sae, d_out, d_in, dtype=torch.float32):
    shapes = ((d_sae, d_out), (d_sae, d_in), (d_sae,), (d_sae,), (d_sae,))
    return eager.WeightGrads(*(torch.full(shape, float("nan"), dtype=dtype, device=DEVICE) for shape in shapes))


def check_weight_grads(indices, d_sae, d_out=18, d_in=11, dtype=torch.float32):
    """Against autograd of a loss whose gradient with respect to reconstruction, values and pre-activations is given."""
    rows, k = indices.shape
    indices = indices.to(DEVICE)
    values, grads = normal(rows, k, seed=1, dtype=dtype), normal(rows, k, seed=2)
    g, x = normal(rows, d_out, seed=3, dtype=dtype), normal(rows, d_in, seed=4, dtype=dtype)
    W_dec = torch.zeros(d_sae, d_out, dtype=torch.double, device=DEVICE, requires_grad=True)
    W_enc = torch.zeros(d_sae, d_in, dtype=torch.double, device=DEVICE, requires_grad=True)
    b_enc = torch.zeros(d_sae, dtype=torch.double, device=DEVICE, requires_grad=True)
    out = (values.double().unsqueeze(-1) * W_dec[indices]).sum(1)
    pre = (x.double() @ W_enc.T + b_enc).gather(-1, indices)
    ((out * g.double()).sum() + (pre * grads.double()).sum()).backward()

    found = empty(d_sae, d_out, d_in)
    kernels.weight_grads(indices, values, grads, g, x, found)
    for got, weight in ((found.decoder, W_dec), (found.encoder, W_enc), (found.bias, b_enc)):
        close(got, weight.grad)
    pairs = (values.double() * grads.double()).flatten()
    close(found.radial, torch.zeros_like(b_enc).detach().index_add(0, indices.flatten(), pairs))
    close(found.squares, W_dec.grad.square().sum(-1) + W_enc.grad.square().sum(-1))
    unused = torch.ones(d_sae, dtype=torch.bool, device=DEVICE).index_fill(0, indices.flatten(), False)
    assert not found.decoder[unused].any()
    assert not found.bias[unused].any()
    return values, grads, g, x, found


@runs
@pytest.mark.parametrize(("rows", "k", "d_sae"), [(9, 4, 30), (1, 1, 1), (3, 7, 7), (5, 1, 3)])
def test_weight_grads_equal_autograd(rows, k, d_sae):
    check_weight_grads(problem(rows, k, d_sae, 1)[0], d_sae)


@runs
def test_weight_grads_of_a_latent_that_fires_on_every_token(monkeypatch):
    """Its pairs are cut into chunks of which some belong to it alone; and again, it is the same to the bit."""
    monkeypatch.setattr(gradients, "CHUNK", 4)
    monkeypatch.setattr(gradients, "D_BLOCK", 8)
    indices = torch.stack([torch.tensor([5, row % 5]) for row in range(19)])
    values, grads, g, x, found = check_weight_grads(indices, 8)
    again = empty(8, 18, 11)
    kernels.weight_grads(indices.to(DEVICE), values, grads, g, x, again)
    for name in ("decoder", "encoder", "bias", "radial", "squares"):
        assert torch.equal(getattr(again, name), getattr(found, name))


@runs
def test_weight_grads_are_added_to_earlier_ones():
    indices = problem(4, 3, 9, 1)[0]
    values, grads, g, x, found = check_weight_grads(indices, 9)
    once = {name: getattr(found, name).clone() for name in ("decoder", "encoder", "bias", "radial")}
    squares = found.squares.clone()
    kernels.weight_grads(indices.to(DEVICE), values, grads, g, x, found, add=True)
    for name, tensor in once.items():
        close(getattr(found, name), 2 * tensor)
    close(found.squares, 4 * squares)


@runs
def test_weight_grads_of_bfloat16_sum_in_float32():
    check_weight_grads(problem(6, 3, 9, 1)[0], 9, dtype=torch.bfloat16)


# --- adam_


@runs
@pytest.mark.parametrize("project", [True, False])
@pytest.mark.parametrize("shape", [(7, 24), (1, 1), (3, 33)])
def test_adam_equals_that_of_torch(monkeypatch, shape, project):
    monkeypatch.setattr(adam, "FLAT_BLOCK", 32)
    p = torch.nn.functional.normalize(normal(*shape), dim=-1)
    m, v = torch.zeros_like(p), torch.zeros_like(p)
    theirs = torch.nn.Parameter(p.double())
    optimiser = torch.optim.Adam([theirs], lr=0.01, betas=(0.9, 0.99), eps=1e-8)
    for number in range(1, 4):
        grad = normal(*shape, seed=number)
        clip = 0.5 if number == 1 else torch.tensor(0.5, device=DEVICE)
        kernels.adam_(p, grad, m, v, eager.AdamStep(0.01, 0.9, 0.99, 1e-8, number, clip), project)
        gradient = grad.double()
        if project:
            gradient = gradient - (gradient * theirs.data).sum(-1, keepdim=True) * theirs.data
        theirs.grad = 0.5 * gradient
        optimiser.step()
        if project:
            theirs.data /= theirs.data.norm(dim=-1, keepdim=True)
    close(p, theirs.data, atol=1e-6)
    close(m, optimiser.state[theirs]["exp_avg"], atol=1e-6)
    close(v, optimiser.state[theirs]["exp_avg_sq"], atol=1e-6)


@runs
def test_adam_changes_what_is_not_contiguous_and_vectors():
    for p in (normal(6, 4).T, normal(5)):
        grad, m, v = torch.ones_like(p), torch.zeros_like(p), torch.zeros_like(p)
        wanted = [one.clone() for one in (p, grad, m, v)]
        taken = eager.AdamStep(0.01, 0.9, 0.99, 1e-8, 1)
        eager.adam_(*wanted, taken)
        kernels.adam_(p, grad, m, v, taken)
        for got, expected in zip((p, grad, m, v), wanted, strict=True):
            close(got, expected)


@runs
def test_adam_takes_moments_in_bfloat16():
    p, grad, v = normal(5, 9), normal(5, 9, seed=1), normal(5, 9, seed=2).square()
    m = normal(5, 9, seed=3, dtype=torch.bfloat16)
    wanted = [p.clone(), grad.clone(), m.float(), v.clone()]
    taken = eager.AdamStep(0.01, 0.9, 0.99, 1e-8, 4)
    eager.adam_(*wanted, taken)
    kernels.adam_(p, grad, m, v, taken)
    close(p, wanted[0])
    close(v, wanted[3])
    close(m, wanted[2], **TRUNCATED)


# --- together


@runs
def test_steps_equal_those_of_the_eager_kernels(monkeypatch):
    """Two steps with AuxK: of every weight, moment and counter, and of what is reported."""

    def trained(kind):
        monkeypatch.setenv("SAES_KERNELS", kind)
        config = TrainConfig(100, 5, auxk_weight=1 / 32, grad_clip=0.1, dead_after_tokens=100)
        made = Training(SAE(SAEConfig(d_in=6, d_sae=15, k=3)).to(DEVICE), config)
        made.silent_tokens[::4] = 1000
        facts = [step(made, normal(5, 6, seed=number) + 1, 1e-2) for number in range(2)]
        return made, facts

    (ours, our_facts), (theirs, their_facts) = trained("triton"), trained("eager")
    assert [fact.loss for fact in our_facts] == pytest.approx([fact.loss for fact in their_facts], rel=1e-5)
    for name, p in theirs.sae.named_parameters():
        close(getattr(ours.sae, name).detach(), p.detach())
        for part, other in theirs.moments[name].items():
            close(ours.moments[name][part], other)
    assert torch.equal(ours.silent_tokens, theirs.silent_tokens)


@pytest.mark.skipif(INTERPRETED, reason="interpreted kernels are not compiled")
def test_every_kernel_compiles_for_hopper(monkeypatch):
    """To machine code, at full size, with tensors without memory: the interpreter takes what the compiler refuses."""

    class Hopper:
        def get_current_target(self):
            return GPUTarget("cuda", 90, 32)

        def get_current_device(self):
            return 0

        def get_current_stream(self, device):
            return 0

    compiled = {}
    launch = JITFunction.run

    def compile_only(self, *args, warmup, **kwargs):
        compiled[self.fn.__name__] = launch(self, *args, warmup=True, **kwargs)

    monkeypatch.setattr(JITFunction, "run", compile_only)
    driver = triton.runtime.driver
    monkeypatch.setattr(driver, "_active" if hasattr(driver, "_active") else "active", Hopper())

    def tensor(*shape, dtype=torch.float32):
        return torch.empty(*shape, dtype=dtype, device="meta")

    tokens, d, d_sae, k = 8192, 4096, 131072, 64
    x, W_dec, pre = (tensor(*shape, dtype=torch.bfloat16) for shape in ((tokens, d), (d_sae, d), (tokens, d_sae)))
    selection.topk_of_sum(pre, tensor(d_sae), k)
    indices, values = kernels.topk(pre, k)
    rescoring.dots(tensor(tokens, d), tensor(d_sae, d), tensor(tokens, k + 32, dtype=torch.long))
    made = kernels.reconstruct(indices, values, W_dec, tensor(d), x, 0.1)
    kernels.reconstruct(tensor(tokens, d // 2, dtype=torch.long), tensor(tokens, d // 2), W_dec, None, x, 0.1)
    into = eager.WeightGrads(*(tensor(d_sae, d) for _ in range(2)), *(tensor(d_sae) for _ in range(3)))
    kernels.weight_grads(indices, values, made.grads, made.g, x, into)
    for project in (True, False):
        weights = [tensor(d_sae, d) for _ in range(4)]
        kernels.adam_(*weights, eager.AdamStep(0.01, 0.9, 0.99, 1e-8, 1), project)
    modules = (adam, gradients, reconstruction, rescoring, selection)
    entries = {name for module in modules for name, one in vars(module).items() if isinstance(one, JITFunction)}
    helpers = {"_biased", "_key", "_keys", "_place", "_decoder_rows", "_weighted_sum"}
    assert compiled.keys() == entries - helpers
    assert all(kernel.asm["cubin"] for kernel in compiled.values())
