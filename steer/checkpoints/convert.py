"""An SAE in another format, checked: what was written is read again, and must compute the same."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import saes
from saes import SAE
from saes.formats import FORMATS, find_format, recognise
from saes.shapes import Float, Tensor
from steer.checkpoints.describe import training_summary
from steer.checkpoints.load import Located
from steer.checkpoints.staging import check_apart, check_out, staged
from steer.errors import CheckpointError
from steer.files import writing

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_PROBE = 64  # tokens
_ALLOWED = {"float32": (1e-4, 1e-3), "bfloat16": (0.1, 0.25), "float16": (0.1, 0.25)}  # difference, share of latents


@dataclass(frozen=True)
class Difference:
    """How far two SAEs are apart on the same activations."""

    latents: float
    """Largest difference of a latent that is active in both, over the token's largest one."""
    output: float
    """Largest difference of an output's coordinate, both decoding the same latents, over the token's largest one."""
    active: int
    """Latents active, counted over all tokens."""
    changed: int
    """Latents active in one of the two and not in the other: ties at the threshold, or among the k strongest."""


@dataclass(frozen=True)
class Conversion:
    """What ``convert`` has written."""

    path: Path
    format: str
    bytes: int
    """Size of the files, in bytes."""
    difference: Difference
    not_kept: tuple[str, ...]
    """Names of what the source says and the written files do not, or say otherwise."""


def convert(located: Located, out: Path, format: str, dtype: str = "float32", overwrite: bool = False) -> Conversion:
    """Write an SAE to ``out`` in a format, with weights stored in a dtype; thresholds stay float32.

    The files are written beside ``out``, read again, compared on ``probe`` activations, and only then moved there. With
    ``overwrite`` the files of an SAE in ``out`` are replaced, others are left alone.

    Raises:
        OutputError: ``out`` is there and ``overwrite`` is not set, or is the source, or cannot be written to.
        CheckpointError: the dtype is not known, or what was written computes something else.
        SaesError: the source cannot be read, or the format is unknown, read only, or has no form for the SAE.
    """
    check_target(out, format, dtype, overwrite)
    check_apart(located, out)
    with staged(out, overwrite) as stage:
        sae = located.load()
        training = training_summary(located.path)
        kept = training if format == "saes" else None
        with _named(out):
            saes.save(sae, stage, format, training=kept, dtype=DTYPES[dtype])
        again = _read_again(stage, format, sae)
        found = difference(sae, again, probe(sae))
        _check(found, format, dtype)
        size = sum(path.stat().st_size for path in recognise(stage, format).paths)
    before, after = asdict(sae.config), asdict(again.config)
    lost = [name for name, value in before.items() if after[name] != value]
    return Conversion(out, format, size, found, (*lost, *(["training"] if training and kept is None else [])))


def check_target(out: Path, format: str, dtype: str = "float32", overwrite: bool = False) -> None:
    """What can be said before the source is there, perhaps after a download. Arguments and errors as ``convert``."""
    if dtype not in DTYPES:
        raise CheckpointError(f"Unknown dtype {dtype!r}, expected one of {', '.join(DTYPES)}.")
    if find_format(format).save is None:
        written = ", ".join(one.name for one in FORMATS if one.save)
        raise CheckpointError(f"The format {format} is read only. Written are {written}.")
    check_out(out, overwrite)


@contextmanager
def _named(out: Path) -> Iterator[None]:
    """Name ``out`` where the system refuses to write what is to become it: a full disk, a folder that is gone, ...

    Raises:
        OutputError: it does.
    """
    with writing(out):
        try:
            yield
        except saes.FormatError as error:
            if isinstance(error.__cause__, OSError):
                raise error.__cause__ from error
            raise


def _read_again(path: Path, format: str, sae: SAE) -> SAE:
    try:
        return saes.load(path, format)
    except saes.FormatError as error:
        if sae.config.k is None or "Give k" not in str(error):
            raise
        return saes.load(path, format, k=sae.config.k)


def _check(found: Difference, format: str, dtype: str) -> None:
    difference, changed = _ALLOWED[dtype]
    if max(found.latents, found.output) > difference or found.changed > changed * found.active:
        raise CheckpointError(
            f"What was written as {format} in {dtype} computes something else: latents differ by up to "
            f"{found.latents:.1e}, outputs by {found.output:.1e} (relative), and {found.changed} of {found.active} "
            f"active latents are others. Nothing is kept. {'' if dtype == 'float32' else 'Choose float32.'}".rstrip()
        )


def probe(sae: SAE) -> Float[Tensor, "token d_in"]:
    """Activations on which latents fire: directions of the encoder in noise, of sizes from 1/10 to 1000 times usual."""
    config, generator = sae.config, torch.Generator().manual_seed(0)
    columns = torch.linspace(0, config.d_sae - 1, _PROBE).long()
    directions = torch.nn.functional.normalize(sae.W_enc.detach()[:, columns].T, dim=1) * config.d_in**0.5
    x = directions + torch.randn(_PROBE, config.d_in, generator=generator)
    x = x * torch.logspace(-1, 3, _PROBE)[torch.randperm(_PROBE, generator=generator)].unsqueeze(1) / config.input_scale
    return x + sae.b_dec.detach() if config.subtract_b_dec else x


@torch.no_grad()
def difference(one: SAE, other: SAE, x: Float[Tensor, "token d_in"]) -> Difference:
    """Compare two SAEs with the same latents on activations ``x``."""
    codes = one.encode(x)
    a, b = codes.to_dense(), other.encode(x).to_dense()
    both = (a > 0) & (b > 0)
    y, z = one.decode(codes, x), other.decode(codes, x)
    return Difference(
        latents=_largest((a - b) * both, a),
        output=_largest(y - z, y),
        active=int((a > 0).sum()),
        changed=int(((a > 0) != (b > 0)).sum()),
    )


def _largest(differences: Float[Tensor, "token _"], values: Float[Tensor, "token _"]) -> float:
    return float((differences.abs().amax(1) / values.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny)).max())
