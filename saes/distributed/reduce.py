"""Gradients of the whole batch, from those of each rank's tokens."""

import dataclasses

import torch

from saes.gradients.gradients import Gradients
from saes.training import PER_LATENT, Training


def summed(training: Training, made: Gradients) -> Gradients:
    """The gradients, and which latents fired, summed over the ranks that share the batch: one exchange."""
    ranks, parts = training.world.data, training.in_buffer
    if ranks.alone:
        return made
    for name, part in {**made.of, "radial": made.radial, "fired": made.fired}.items():
        if parts[name].data_ptr() != part.data_ptr():
            parts[name].copy_(part)
    ranks.sum_(training.buffer)
    of = {name: parts[name] for name in made.of}
    # squares of sums are not sums of squares: what is known of one rank's tokens says nothing now
    return dataclasses.replace(made, of=of, radial=parts["radial"], fired=parts["fired"] > 0, squares=None)


def gradient_norm(training: Training, made: Gradients) -> float:
    """Norm of the whole gradient, less the part that the projection of the decoder takes away."""
    large = () if made.squares is None else ("W_dec", "W_enc")  # these need not be read again
    squares = {n: torch.linalg.vector_norm(grad).item() ** 2 for n, grad in made.of.items() if n not in large}
    known = 0.0 if made.squares is None else made.squares.double().sum().item()
    own = known + sum(squares[n] for n in squares if n in PER_LATENT) - made.radial.square().sum().item()
    shared = sum(squares[n] for n in squares if n not in PER_LATENT)
    # the radial part comes from other sums than the norms, so that rounding can leave less than nothing
    return max(0.0, training.world.latents.total(own) + shared) ** 0.5
