"""Selections over all shards of the latents, exactly as one process makes them."""

import torch

from saes.distributed.group import Group
from saes.shapes import Bool, Float, Int, Tensor

GATHERED = 2048  # candidates of a token, from all shards, up to which they travel themselves; beyond, histograms do


def topk_of_shards(
    indices: Int[Tensor, "token c"], values: Float[Tensor, "token c"], k: int, shards: Group
) -> tuple[Int[Tensor, "token n"], Float[Tensor, "token n"]]:
    """Of each token's largest values in this shard, those among its ``k`` largest in all shards, and none negative.

    The candidates are the ``min(k, width)`` largest of each shard, so the k largest are all among them: there is no
    capacity that a shard could exceed (OpenAI's trainer has one, and drops what is beyond it). Of values equal to the
    least, those with the lowest index are taken, as by the kernel of one process; shards lie in the order of their
    latents. NaN stays, and shows in the loss.
    """
    values = values.relu()
    if shards.size * values.shape[1] <= GATHERED:
        whole = shards.gather(values).movedim(0, 1).flatten(1)
        least = whole.topk(k, dim=-1, sorted=False).values.amin(-1, keepdim=True)
    else:
        least = kth_largest(values, k, shards)
    tied = values == least
    counts = shards.gather(torch.stack([tied.sum(-1), (values > least).sum(-1)]).int())  # [shard, 2, token]
    room = k - counts[:, 1].sum(0) - counts[: shards.rank, 0].sum(0)
    kept = ~(values <= least) | (tied if bool((counts[shards.rank, 0] <= room).all()) else _lowest(tied, indices, room))
    chosen = torch.where(kept, values, torch.zeros_like(values))
    return packed(indices, chosen, int(most_active(chosen > 0)))


def most_active(active: Bool[Tensor, "token c"]) -> Int[Tensor, ""]:
    """The number of active latents of the token that has most."""
    counts = active.sum(-1)
    return counts.amax() if len(counts) else counts.new_zeros(())


def packed(
    indices: Int[Tensor, "token c"], values: Float[Tensor, "token c"], most: int
) -> tuple[Int[Tensor, "token n"], Float[Tensor, "token n"]]:
    """The active latents of each token in ``most`` columns, which no token exceeds (at least one); zeros fill up."""
    values, places = values.topk(max(1, most), dim=-1, sorted=False)
    return indices.gather(-1, places), values


def kth_largest(values: Float[Tensor, "row c"], k: int, ranks: Group) -> Float[Tensor, "row 1"]:
    """The ``k``-th largest of each row, over all ranks' columns; no value is negative.

    The order of such floats is the order of their bits as whole numbers, so four histograms of 256 counts find it,
    eight bits at a time, and no value travels.
    """
    if ranks.alone:
        return values.topk(k, dim=-1, sorted=False).values.amin(-1, keepdim=True)
    bits = values.view(torch.int32) & 0x7FFFFFFF
    found, left = bits.new_zeros(len(bits), 1), torch.full_like(bits[:, :1], k, dtype=torch.long)
    for shift in (24, 16, 8, 0):
        digits = bits >> shift
        inside = ((digits >> 8) == found).int()
        counts = bits.new_zeros(len(bits), 256).scatter_add_(1, (digits & 255).long(), inside)
        counts = ranks.sum_(counts).flip(1)
        above = counts.cumsum(1)
        place = (above < left).sum(1, keepdim=True).clamp_max(255)
        left -= (above - counts).gather(1, place)
        found = (found << 8) | (255 - place).int()
    return found.view(torch.float32)


def _lowest(
    among: Bool[Tensor, "token c"], indices: Int[Tensor, "token c"], room: Int[Tensor, " token"]
) -> Bool[Tensor, "token c"]:
    """Of each token's marked places, the ``room`` with the lowest index."""
    order = torch.where(among, indices, torch.iinfo(indices.dtype).max).argsort(-1)
    place = torch.empty_like(order).scatter_(-1, order, torch.arange(order.shape[1]).to(order).expand_as(order))
    return among & (place < room.unsqueeze(-1))
