"""The k largest of each row, exactly, with one reading of the row and of few of its values once more.

Let the row be cut into groups. The k groups with the largest maxima (of equal ones, the first) hold k largest values:
any value in another group has k values before it, the maxima of those groups. So the maxima of all groups are the one
full pass over memory; selecting k of them, and then k of the values in their groups, touches few values.

Both selections search for the k-th largest value bit by bit, over integers that are ordered as the numbers are.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl

from saes.kernels.triton.launch import power_of_two
from saes.shapes import Float, Int, Tensor

VALUES_BLOCK = 8192  # of a row, in one program of the full pass
SEARCH_BLOCK = 4096  # of the values searched that stay in registers
SMALLEST_GROUP = 8  # below it, the maxima are too many to save anything
LEAST: tl.constexpr = tl.constexpr(-(2**31))  # less than the key of any number


def topk(pre: Float[Tensor, "token d_sae"], k: int) -> tuple[Int[Tensor, "token k"], Float[Tensor, "token k"]]:
    """See ``eager.topk``; by rising index. Of equal values, those with the lowest index are taken.

    NaN counts as largest, so that it shows in the loss. Beside the result, this takes memory for one number in each
    group of about ``sqrt(d_sae / k)`` values.
    """
    return topk_of_sum(pre, None, k)


def topk_of_sum(
    pre: Float[Tensor, "token d_sae"], bias: Float[Tensor, " d_sae"] | None, k: int
) -> tuple[Int[Tensor, "token k"], Float[Tensor, "token k"]]:
    """``topk`` of ``pre + bias``, which is added in float32 and kept nowhere; the values are in float32 then."""
    pre, bias = pre.contiguous(), None if bias is None else bias.float().contiguous()
    rows, width = pre.shape
    assert k <= width
    indices = torch.empty(rows, k, dtype=torch.long, device=pre.device)
    values = pre.new_empty(rows, k, dtype=pre.dtype if bias is None else torch.float32)
    size = 1 << ((width // max(1, k)).bit_length() - 1) // 2  # a power of two, at most sqrt(width / k)
    with torch.cuda.device_of(pre):
        if size < SMALLEST_GROUP:
            _select(pre, None, 1, k, indices, values, bias)
            return indices, values
        groups = triton.cdiv(width, size)
        maxima = torch.empty(rows, groups, dtype=torch.int32, device=pre.device)
        block = VALUES_BLOCK // size
        _group_maxima[(rows, triton.cdiv(groups, block))](
            pre,
            pre if bias is None else bias,
            maxima,
            width,
            groups,
            GROUP=size,
            BIASED=bias is not None,
            BLOCK=block,
            num_warps=8,
        )
        chosen = torch.empty(rows, k, dtype=torch.int32, device=pre.device)
        _select(maxima, None, 1, k, chosen, None)
        _select(pre, chosen, size, k, indices, values, bias)
    return indices, values


def _select(
    source: Tensor,
    groups: Tensor | None,
    size: int,
    k: int,
    places: Tensor,
    values: Tensor | None,
    bias: Tensor | None = None,
) -> None:
    """Write the places of the k largest of each row of ``source``, or of the given groups of each row."""
    rows, width = source.shape
    count = width if groups is None else k * size
    block = power_of_two(max(count, 32), SEARCH_BLOCK)
    _k_largest[(rows,)](
        source,
        source if bias is None else bias,
        source if groups is None else groups,
        places,
        source if values is None else values,
        width,
        count,
        k,
        GROUP=size,
        GROUPED=groups is not None,
        KEYS=source.dtype == torch.int32,
        BIASED=bias is not None,
        VALUES=values is not None,
        BLOCK=block,
        num_warps=max(1, block // 256),
    )


@triton.jit
@no_type_check
def _key(x):
    """Integers in the order of the numbers: NaN above all of them, as in torch.topk, and -0 equal to 0."""
    bits = x.to(tl.float32).to(tl.int32, bitcast=True)
    key = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    key = tl.where(x == 0, 0, key)
    return tl.where(x != x, 0x7FFFFFFF, key)


@triton.jit
@no_type_check
def _biased(source, bias, place, real, BIASED: tl.constexpr):
    """Numbers of a row, and what is added to them; -inf where there are none."""
    x = tl.load(source + place, mask=real, other=float("-inf"))
    if BIASED:
        x = x.to(tl.float32) + tl.load(bias + place, mask=real, other=0)
    return x


@triton.jit
@no_type_check
def _group_maxima(pre, bias, maxima, width, groups, GROUP: tl.constexpr, BIASED: tl.constexpr, BLOCK: tl.constexpr):
    """The largest key of each group of a row; BLOCK groups a program."""
    row = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    place = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    x = _biased(pre + row * width, bias, place, place < width, BIASED)
    tl.store(maxima + row * groups + group, tl.max(_key(x), 1), mask=group < groups)


@triton.jit
@no_type_check
def _place(groups, candidate, count, GROUP: tl.constexpr, GROUPED: tl.constexpr):
    """Where in the row a candidate stands."""
    if GROUPED:
        group = tl.load(groups + candidate // GROUP, mask=candidate < count, other=0)
        place = group * GROUP + candidate % GROUP
    else:
        place = candidate
    return place


@triton.jit
@no_type_check
def _keys(source, bias, place, real, KEYS: tl.constexpr, BIASED: tl.constexpr):
    key = tl.load(source + place, mask=real, other=0) if KEYS else _key(_biased(source, bias, place, real, BIASED))
    return tl.where(real, key, LEAST)


@triton.jit
@no_type_check
def _k_largest(
    source,
    bias,
    groups,
    places,
    values,
    width,
    count,
    k,
    GROUP: tl.constexpr,
    GROUPED: tl.constexpr,
    KEYS: tl.constexpr,
    BIASED: tl.constexpr,
    VALUES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The k largest of ``count`` candidates of a row, in their order."""
    row = tl.program_id(0).to(tl.int64)
    source += row * width
    groups += row * k
    places += row * k
    values += row * k
    inside = tl.arange(0, BLOCK)
    place = _place(groups, inside, count, GROUP, GROUPED)
    first = _keys(source, bias, place, (inside < count) & (place < width), KEYS, BIASED)

    # the largest key that at least k candidates reach, from its highest bit (the sign) down to its lowest
    edge = tl.full((), LEAST, tl.int32)
    bit = tl.full((), LEAST, tl.int32)
    above = tl.full((), 0, tl.int32)
    for _ in range(32):
        trial = edge ^ bit
        reach = tl.sum((first >= trial).to(tl.int32), 0)
        for start in range(BLOCK, count, BLOCK):
            candidate = start + inside
            place = _place(groups, candidate, count, GROUP, GROUPED)
            key = _keys(source, bias, place, (candidate < count) & (place < width), KEYS, BIASED)
            reach += tl.sum((key >= trial).to(tl.int32), 0)
        edge = tl.where(reach >= k, trial, edge)
        above = tl.where(reach >= k, above, reach)  # the last one too few: those above the edge
        bit = tl.where(bit < 0, 1 << 30, bit >> 1)

    ties = k - above
    seen = tl.full((), 0, tl.int32)
    taken = tl.full((), 0, tl.int32)
    for start in range(0, count, BLOCK):
        candidate = start + inside
        place = _place(groups, candidate, count, GROUP, GROUPED)
        key = _keys(source, bias, place, (candidate < count) & (place < width), KEYS, BIASED)
        tie = (key == edge).to(tl.int32)
        keep = (key > edge) | ((key == edge) & (seen + tl.cumsum(tie, 0) <= ties))
        into = taken + tl.cumsum(keep.to(tl.int32), 0) - 1
        tl.store(places + into, place, mask=keep)
        if VALUES:
            tl.store(values + into, _biased(source, bias, place, keep, BIASED), mask=keep)
        seen += tl.sum(tie, 0)
        taken += tl.sum(keep.to(tl.int32), 0)
