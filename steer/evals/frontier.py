"""What is worth choosing among ways that buy something and cost something."""

from collections.abc import Sequence


def unbeaten(costs: Sequence[float], gains: Sequence[float]) -> list[int]:
    """Places of the points that no other beats: none costs as little and gains as much, and is better in one of both.

    Points that are the same in both do not beat each other. By the figures alone: intervals are not looked at.
    """
    spots = list(zip(costs, gains, strict=True))
    return [
        place
        for place, (cost, gain) in enumerate(spots)
        if not any(paid <= cost and got >= gain and (paid, got) != (cost, gain) for paid, got in spots)
    ]
