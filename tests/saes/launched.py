"""A small run for torchrun: ``torchrun --nproc-per-node 2 -m tests.saes.launched FOLDER``."""

import os
import sys

import torch

import saes


class Stream:
    """Random batches, the same on every process."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def __iter__(self):
        return self

    def __next__(self):
        return torch.randn(32, 8, generator=self.generator)

    def state(self):
        return {"generator": self.generator.get_state()}

    def restore(self, state):
        self.generator.set_state(state["generator"])


if __name__ == "__main__":
    with saes.World.from_env(os.environ, latent_shards=2, timeout_s=60) as world:
        saes.fit(
            saes.SAEConfig(8, 64, 3),
            saes.Slices(Stream(), world),
            saes.TrainConfig(3 * 32, 32, measure_every_steps=1),
            run=saes.RunConfig(sys.argv[1]),
            world=world,
        )
