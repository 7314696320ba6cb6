"""Selections over all shards of the latents, exactly as one process makes them."""

import torch

from saes.distributed.group import Group
from saes.shapes import Bool, Float, Int, Tensor


def topk_of_shards(
    indices: Int[Tensor, "token c"], values: Float[Tensor, "token c"], k: int, shards: Group
) -> tuple[Int[Tensor, "token n"], Float[Tensor, "token n"]]:
    """Of each token's largest values in this shard, those among its ``k`` largest in all shards, and none negative.

    The candidates are the ``min(k, width)`` largest of each shard, so the k largest are all among them: there is no
    capacity that a shard could exceed (OpenAI's trainer has one, and drops what is beyond it). Of values equal to the
    least, those with the lowest index are taken, as by the kernel of one process; shards lie in the order of their
    latents. Only values travel. NaN stays, and shows in the loss.
    """
    every = shards.gather(values)  # [shard, token, c]
    whole = every.movedim(0, 1).flatten(1)
    least = whole.topk(k, dim=-1, sorted=False).values.amin(-1, keepdim=True)
    tied = values == least
    equal = (every == least).sum(-1)  # [shard, token]
    room = k - (whole > least).sum(-1) - equal[: shards.rank].sum(0)
    kept = ~(values <= least) | (tied if bool((equal[shards.rank] <= room).all()) else _lowest(tied, indices, room))
    return packed(indices, torch.where(kept, values.relu(), torch.zeros_like(values)))


def packed(
    indices: Int[Tensor, "token c"], values: Float[Tensor, "token c"]
) -> tuple[Int[Tensor, "token n"], Float[Tensor, "token n"]]:
    """The active latents of each token, in as many columns as the token with most of them needs; zeros fill up."""
    most = max(1, int((values > 0).sum(-1).max())) if values.numel() else 1
    values, places = values.topk(most, dim=-1, sorted=False)
    return indices.gather(-1, places), values


def kth_largest(values: Float[Tensor, "token c"], k: int, ranks: Group) -> Float[Tensor, ""]:
    """The ``k``-th largest of all ranks' values, none of which is negative.

    The order of such floats is the order of their bits as whole numbers, so four histograms of 256 counts find it,
    eight bits at a time, and no value travels.
    """
    if ranks.alone:
        return values.flatten().topk(k, sorted=False).values.amin()
    bits, found, left = values.flatten().view(torch.int32), 0, k
    for shift in (24, 16, 8, 0):
        counts = ranks.sum_(torch.bincount((bits >> shift) & 255, minlength=256)).flip(0)
        above = counts.cumsum(0)
        place = min(255, int(torch.searchsorted(above, left)))
        left -= int(above[place] - counts[place])
        found = (found << 8) | (255 - place)
        bits = bits[(bits >> shift) == found]
    return torch.tensor(found, dtype=torch.int32, device=values.device).view(torch.float32)


def _lowest(
    among: Bool[Tensor, "token c"], indices: Int[Tensor, "token c"], room: Int[Tensor, " token"]
) -> Bool[Tensor, "token c"]:
    """Of each token's marked places, the ``room`` with the lowest index."""
    order = torch.where(among, indices, torch.iinfo(indices.dtype).max).argsort(-1)
    place = torch.empty_like(order).scatter_(-1, order, torch.arange(order.shape[1]).to(order).expand_as(order))
    return among & (place < room.unsqueeze(-1))
