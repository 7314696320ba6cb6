"""Gradients of the whole batch, from those of each rank's tokens."""

import dataclasses

import torch

from saes.gradients.gradients import Gradients
from saes.shapes import Float, Tensor
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


def gradient_norm(training: Training, made: Gradients) -> Float[Tensor, ""]:
    """Norm of the whole gradient, less the part that the projection of the decoder takes away; in float64."""
    large = () if made.squares is None else ("W_dec", "W_enc")  # these need not be read again
    squares = {n: torch.linalg.vector_norm(grad).double().square() for n, grad in made.of.items() if n not in large}
    own = sum(squares[n] for n in squares if n in PER_LATENT)
    own = (own if made.squares is None else made.squares.double().sum() + own) - made.radial.square().sum().double()
    shared = sum(squares[n] for n in squares if n not in PER_LATENT)
    # the radial part comes from other sums than the norms, so that rounding can leave less than nothing
    return (training.world.latents.sum_(own) + shared).clamp_min(0).sqrt()
