"""The kernels of the C files beside: twins of the eager ones, several times faster.

They are compiled on first use, then kept.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch

from saes.config import Selection
from saes.kernels.eager import AdamStep, Memory, Reconstruction, WeightGrads, kept
from saes.select import Selected
from saes.shapes import Float, Int, Tensor, UInt8

SOURCES = tuple(Path(__file__).with_name(name) for name in ("select.c", "batch.c", "sparse.c", "adam.c", "chosen.c"))
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-std=c11", "-shared", "-fPIC")
# the first that the compiler knows; compilers hold back with long registers, which are faster here
EXTRAS = (("-fopenmp", "-mprefer-vector-width=512"), ("-fopenmp",), ("-fopenmp-simd",), ())
COMPILE_SECONDS = 120
DEVIATIONS = 6  # standard deviations of the error of a product in bfloat16 that the fast selection allows for


@cache
def available() -> bool:
    """Whether there is a C compiler that makes the kernels."""
    try:
        _library()
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def topk(pre: Float[Tensor, "token d_sae"], k: int) -> tuple[Int[Tensor, "token k"], Float[Tensor, "token k"]]:
    """See ``eager.topk``; of equal values at the edge, those with the lowest index are taken."""
    return _topk(pre, None, k)


def encode_topk(
    x: Float[Tensor, "token d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    k: int,
    selection: Selection = "exact",
    memory: Memory | None = None,
) -> tuple[Int[Tensor, "token k"], Float[Tensor, "token k"]]:
    """See ``eager.encode_topk``. Where the processor cannot multiply in bfloat16, all selections are ``exact``."""
    d_sae, selection = W_enc.shape[1], selection_done(selection)
    if selection == "exact":
        pre = kept(memory, "pre", (len(x), d_sae), x)
        torch.mm(x, W_enc, out=pre)  # the bias waits for the selection: addmm takes up to twice the time of mm
        return _topk(pre, b_enc, k)
    rough_x, norms, changes = _to_bf16(x, memory, "x")
    rough_rows, row_norms, row_changes = _to_bf16(W_enc.T, memory, "W_enc")
    pre = kept(memory, "pre", (len(x), d_sae), x, torch.bfloat16)
    torch.mm(rough_x, rough_rows.T, out=pre)
    # |x.w - x'.w'| <= |x - x'| |w'| + |x| |w - w'|, where ' is rounded, and sums of d_in products in float32
    share = (changes / norms.clamp_min(1e-30)).nan_to_num(0.0, 0.0).max()  # NaN is found later, in its own row
    summing = 2.0**-23 * x.shape[1]
    slack = 1.01 * (share * (row_norms + row_changes) + row_changes + summing * row_norms)
    if selection == "fast":  # errors of rounding are of either sign: their sum is far from the bound
        slack *= min(1.0, DEVIATIONS / x.shape[1] ** 0.5)
    indices, values = torch.empty(len(x), k, dtype=torch.long), torch.empty(len(x), k)
    arrays = [pre, b_enc, x, W_enc.T, norms, slack]
    _call("rescored_topk", arrays, len(x), d_sae, x.shape[1], k, indices, values)
    return indices, values


def encode_batch_topk(
    x: Float[Tensor, "token d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    k: int,
    memory: Memory | None = None,
) -> tuple[Selected, Float[Tensor, ""]]:
    """See ``eager.encode_batch_topk``."""
    rows, d_sae = len(x), W_enc.shape[1]
    pre = kept(memory, "pre", (rows, d_sae), x)
    torch.mm(x, W_enc, out=pre)  # see encode_topk
    starts, counts, facts = (torch.empty(n, dtype=torch.long) for n in (rows, rows, 2))
    edge, least = torch.empty(1), torch.empty(1)
    room = max(2 * k * rows, len(memory["places"]) if memory and "places" in memory else 0)
    while True:
        places, values = kept(memory, "places", (room,), x, torch.int32), kept(memory, "values", (room,), x)
        found = (places, values, starts, counts)
        _call("batch_candidates", [pre, b_enc], rows, d_sae, k * rows, room, *found, facts, edge)
        if facts[0] <= room:
            break
        room = int(facts[0])
    indices = torch.empty(rows, int(facts[1]), dtype=torch.long)
    kept_values = torch.empty(indices.shape)
    _call("batch_filled", list(found), edge.item(), *indices.shape, indices, kept_values, least)
    return (indices, kept_values), least[0]


def chosen_activations(
    x: Float[Tensor, "token d_in"],
    centre: Float[Tensor, " d_in"] | None,
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    latents: Int[Tensor, "_ n"],
    k: int,
    seen: int,
) -> tuple[Float[Tensor, "token n"], Float[Tensor, "token n"]]:
    """Activations of chosen latents as far as the ``seen`` first latents decide them, and how many of those are larger.

    What ``saes.chosen.topk_activations`` says, but for latents of which fewer than k of those are larger: the others
    have not been looked at.
    """
    n = latents.shape[1]
    chosen, larger = torch.empty(len(x), n), torch.empty(len(x), n)
    sizes = (n if len(latents) > 1 else 0), len(x), seen, x.shape[1], n, k
    _call("chosen_activations", [x, centre, W_enc.T, b_enc, latents], *sizes, chosen, larger)
    return chosen, larger


def selection_done(selection: Selection) -> Selection:
    """What ``encode_topk`` does where ``selection`` is asked for: all are ``exact`` without products in bfloat16."""
    return selection if multiplies_bf16() else "exact"


@cache
def multiplies_bf16() -> bool:
    """Whether the processor has instructions for products in bfloat16; without them they are slower than float32."""
    capable = _capabilities()
    return any(capable.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def _topk(
    pre: Float[Tensor, "token d_sae"], bias: Float[Tensor, " d_sae"] | None, k: int
) -> tuple[Int[Tensor, "token k"], Float[Tensor, "token k"]]:
    rows, width = pre.shape
    indices = torch.empty(rows, k, dtype=torch.long)
    values = torch.empty(rows, k)
    _call("topk", [pre, bias], rows, width, k, indices, values)
    return indices, values


def _to_bf16(
    x: Float[Tensor, "row width"], memory: Memory | None, name: str
) -> tuple[Tensor, Float[Tensor, " row"], Float[Tensor, " row"]]:
    """The rows in bfloat16, their norms, and the norms of what rounding changed."""
    rounded = kept(memory, f"{name} in bfloat16", tuple(x.shape), x, torch.bfloat16)
    norms, changes = torch.empty(len(x)), torch.empty(len(x))
    _call("to_bf16", [x], *x.shape, rounded, norms, changes)
    return rounded, norms, changes


def variance(x: Float[Tensor, "token d_in"]) -> float:
    """See ``eager.variance``; summed in float64, but infinite where float32 ends, as there."""
    total = torch.empty(1, dtype=torch.float64)
    _call("variance", [x], *x.shape, total)
    return total.float().item()


def reconstruct(
    indices: Int[Tensor, "token k"],
    values: Float[Tensor, "token k"],
    W_dec: Float[Tensor, "d_sae d_out"],
    bias: Float[Tensor, " d_out"] | None,
    target: Float[Tensor, "token d_out"],
    scale: float | Float[Tensor, ""],
) -> Reconstruction:
    """See ``eager.reconstruct``."""
    rows, k = indices.shape
    width = W_dec.shape[1]
    g, grads, squares = torch.empty(rows, width), torch.empty(rows, k), torch.empty(rows, dtype=torch.float64)
    _call("reconstruct", [indices, values, W_dec, bias, target], float(scale), rows, k, width, g, grads, squares)
    return Reconstruction(g, grads, squares)


def weight_grads(
    indices: Int[Tensor, "token k"],
    values: Float[Tensor, "token k"],
    grads: Float[Tensor, "token k"],
    g: Float[Tensor, "token d_out"],
    x: Float[Tensor, "token d_in"],
    into: WeightGrads,
    add: bool = False,
) -> None:
    """See ``eager.weight_grads``."""
    sizes = (*indices.shape, len(into.bias), g.shape[1], x.shape[1])
    sums = (into.decoder, into.encoder, into.bias, into.radial, into.squares)
    _call("weight_grads", [indices, values, grads, g, x], *sizes, int(add), *sums)


def adam_(p: Tensor, grad: Tensor, m: Tensor, v: Tensor, step: AdamStep, project: bool = False) -> None:
    """See ``eager.adam_``."""
    _adam("adam", p, grad, (m, v), step, project)


def adam_bf16_(p: Tensor, grad: Tensor, m: Tensor, v: Tensor, step: AdamStep, key: int, project: bool = False) -> None:
    """See ``eager.adam_bf16_``."""
    _adam("adam_bf16", p, grad, (m, v, key), step, project)


def adam_8bit_(
    p: Float[Tensor, "row width"],
    grad: Float[Tensor, "row width"],
    m: Int[Tensor, "row width"],
    v: UInt8[Tensor, "row width"],
    scales: tuple[Float[Tensor, "row block"], Float[Tensor, "row block"]],
    step: AdamStep,
    key: int,
    project: bool = False,
) -> None:
    """See ``eager.adam_8bit_``."""
    _adam("adam_8bit", p, grad, (m, v, *scales, key), step, project)


def _adam(name: str, p: Tensor, grad: Tensor, state: Sequence[Tensor | int], step: AdamStep, project: bool) -> None:
    rows, width = (p.shape[0], p.shape[1]) if p.ndim == 2 else (1, p.numel())
    corrections = (1 - step.beta1**step.number, 1 - step.beta2**step.number)
    numbers = (step.clip, step.lr, step.beta1, step.beta2, step.eps, *corrections)
    # changed in place, so they must not be copied: ``_call`` asserts that these are contiguous
    _call(name, [], p, grad.contiguous(), *state, rows, width, *map(float, numbers), int(project))


def _call(name: str, arrays: Sequence[Tensor | None], *rest: Tensor | int | float) -> None:
    """Call a function of the library; contiguous tensors go as pointers and stay alive until it returns."""
    kept = [None if array is None else array.contiguous() for array in arrays]
    given: list[object] = []
    for one in (*kept, *rest):
        if isinstance(one, Tensor):
            assert one.is_contiguous()
            assert one.device.type == "cpu"
            given.append(ctypes.c_void_p(one.data_ptr()))
        elif one is None:
            given.append(ctypes.c_void_p())
        else:
            given.append(ctypes.c_float(one) if isinstance(one, float) else ctypes.c_int64(one))
    getattr(_library(), name)(*given)


@cache
def _library() -> ctypes.CDLL:
    """The compiled kernels, from the cache where they are there.

    Raises:
        OSError: there is no compiler, or no folder to write to.
        subprocess.SubprocessError: it does not compile them.
    """
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", ""), "cc", "gcc", "clang"))), None)
    if compiler is None:
        raise FileNotFoundError("no C compiler")
    # the processor is part of the name: a home folder may be shared by machines of several kinds
    sources = [path.read_text(encoding="utf-8") for path in SOURCES]
    facts = (*sources, *FLAGS, *EXTRAS, compiler, platform.machine(), _processor())
    folder = _cache_folder()
    path = folder / f"cpu-{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}.so"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _compile(compiler, path)
    return ctypes.CDLL(str(path))


def _compile(compiler: str, path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        made = Path(name) / "cpu.so"
        for extra in EXTRAS:
            command = [compiler, *FLAGS, *extra, *map(str, SOURCES), "-o", str(made), "-lm"]
            done = subprocess.run(command, capture_output=True, timeout=COMPILE_SECONDS)
            if done.returncode == 0:
                os.replace(made, path)
                return
    raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)


def _capabilities() -> dict[str, object]:
    """What torch finds out about the processor; older versions do not tell."""
    return dict(getattr(torch.cpu, "get_capabilities", dict)())


def _processor() -> str:
    return repr(sorted(_capabilities().items()))


def _cache_folder() -> Path:
    if given := os.environ.get("SAES_CACHE"):
        return Path(given)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "saes"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "saes"
