"""The kernels of ``cpu.c``: twins of the eager ones, several times faster. Compiled on first use, then kept."""

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

from saes.kernels.eager import AdamStep, Reconstruction, WeightGrads
from saes.shapes import Float, Int, Tensor

SOURCE = Path(__file__).with_name("cpu.c")
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-std=c11", "-shared", "-fPIC")
OPENMP = ("-fopenmp", "-fopenmp-simd", "")  # the first that the compiler knows
COMPILE_SECONDS = 120


@cache
def available() -> bool:
    """Whether there is a C compiler that makes the kernels; ``SAES_KERNELS=eager`` in the environment says no."""
    if os.environ.get("SAES_KERNELS") == "eager":
        return False
    try:
        _library()
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def topk(pre: Float[Tensor, "token d_sae"], k: int) -> tuple[Int[Tensor, "token k"], Float[Tensor, "token k"]]:
    """See ``eager.topk``; of equal values at the edge, those with the lowest index are taken."""
    pre = pre.contiguous()
    rows, width = pre.shape
    indices = torch.empty(rows, k, dtype=torch.long)
    values = torch.empty(rows, k)
    _call("topk", [pre], rows, width, k, indices, values)
    return indices, values


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
    k, d_out, d_in, d_sae = indices.shape[1], g.shape[1], x.shape[1], len(into.bias)
    starts = torch.empty(d_sae + 1, dtype=torch.long)
    order = torch.empty(indices.numel(), dtype=torch.int32)
    _call("by_latent", [indices], indices.numel(), d_sae, starts, order)
    arrays = [starts, order, values, grads, g, x]
    _call("weight_grads", arrays, k, d_sae, d_out, d_in, int(add), into.decoder, into.encoder, into.bias)


def adam_(p: Tensor, grad: Tensor, m: Tensor, v: Tensor, step: AdamStep, project: bool = False) -> None:
    """See ``eager.adam_``."""
    rows, width = (p.shape[0], p.shape[1]) if p.ndim == 2 else (1, p.numel())
    corrections = (1 - step.beta1**step.number, 1 - step.beta2**step.number)
    numbers = (step.clip, step.lr, step.beta1, step.beta2, step.eps, *corrections)
    _call("adam", [p, grad, m, v], rows, width, *map(float, numbers), int(project))


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
    facts = (SOURCE.read_text(encoding="utf-8"), *FLAGS, compiler, platform.machine(), _processor())
    folder = _cache_folder()
    path = folder / f"cpu-{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}.so"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _compile(compiler, path)
    return ctypes.CDLL(str(path))


def _compile(compiler: str, path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        made = Path(name) / "cpu.so"
        for openmp in OPENMP:
            flags = [*FLAGS, *filter(None, [openmp])]
            command = [compiler, *flags, str(SOURCE), "-o", str(made), "-lm"]
            done = subprocess.run(command, capture_output=True, timeout=COMPILE_SECONDS)
            if done.returncode == 0:
                os.replace(made, path)
                return
    raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)


def _processor() -> str:
    return repr(sorted(torch.cpu.get_capabilities().items()))


def _cache_folder() -> Path:
    if given := os.environ.get("SAES_CACHE"):
        return Path(given)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "saes"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "saes"
