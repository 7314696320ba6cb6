"""One of the SAEs that ``saes.fit`` trains: what it takes from each batch, its state, and the SAE that comes out."""

import dataclasses
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from saes.batches import Alike, as_activations, at_site
from saes.config import SAEConfig, TrainConfig
from saes.distributed.world import ONE, World
from saes.errors import ConfigError, DivergedError
from saes.folding import digest_of, folded, require_startable, start_of, unfolded
from saes.losses import all_equal
from saes.normalise import normalise
from saes.optimisers import OPTIMISERS
from saes.sae import SAE
from saes.scale import Scale, centre, ordinary
from saes.schedule import default_lr, lr_factor
from saes.shapes import Float, Tensor
from saes.step import step
from saes.training import Training

Batch = Float[Tensor, "_ d_in"] | Mapping[Any, Float[Tensor, "_ _"]]
"""Activations of one site, or those of the same tokens at several, by the name of the site."""


@dataclass(frozen=True)
class TrainRecord:
    """One line of the training log."""

    tokens: int
    """Tokens seen, this step's included."""
    fvu: float
    """Fraction of variance unexplained of the step's batch."""
    l0: float
    """Mean number of active latents of a token."""
    dead_fraction: float
    """Share of the latents that have been silent for so many tokens that they count as dead."""
    loss: float
    """All losses together."""
    seconds: float
    """Time since the training began, pauses between its parts left out."""
    lr: float = 0.0
    """Learning rate of the step."""
    k: int | None = None
    """Active latents asked for at this step; None where the activation has no k."""
    tokens_per_second: float = 0.0
    """Since the line before."""
    memory_mib: float | None = None
    """Peak memory of the process, on a GPU that of its tensors; None where the system does not tell."""
    sae: int = 0
    """Which SAE of those that are trained together, from 0."""


class Fitting:
    """An SAE that is being trained, from raw batches; of several ranks, each has one, and gives its share of them.

    It is a new one of a config, or goes on from the weights of an SAE, which is not changed.
    """

    def __init__(self, sae: SAEConfig | SAE, train: TrainConfig, number: int = 0, world: World = ONE) -> None:
        self._start = sae if isinstance(sae, SAE) else None
        config = dataclasses.replace(sae.config, input_scale=1.0) if isinstance(sae, SAE) else sae
        _check_together(config, train)
        if self._start is not None:
            require_startable(self._start, train)
        self.started_from = None if self._start is None else digest_of(self._start)
        """By which the SAE that training goes on from is known again; None: it is a new one."""
        train = train.of(config.activation)  # what was left open is kept as the number that it is
        self.config, self.train, self.number, self.world = config, train, number, world
        self.latents, self.share = world.shard(config.d_sae), world.share(train.batch_tokens)
        optimiser = OPTIMISERS[train.optimiser]
        lr = default_lr(config.d_sae, train.steps, optimiser.LR, optimiser.LONG_STEPS)
        self._peak = lr if train.lr is None else train.lr
        self._training: Training | None = None
        self._read_scale = self._written_scale = Scale()
        self._started = time.perf_counter()
        self._last = (self._started, 0)
        """When the last line of the log was made, and the tokens seen then."""
        self._pending: tuple[Mapping[str, Any], Mapping[str, Tensor]] | None = None
        self._alike = Alike()

    @property
    def steps_done(self) -> int:
        """Steps made so far."""
        if self._pending:
            return self._pending[0]["training"]["steps_done"]
        return self._training.steps_done if self._training else 0

    def advance(self, batch: object) -> TrainRecord | None:
        """Train on one batch (a ``Batch``, once it is seen to be one); gives a line of the log where one is due.

        What a batch and the loss hold is looked at whenever ``Training.looks``: on a CPU at every step.

        Raises:
            ConfigError: the batch lacks a site that the SAE reads or writes.
            ShapeError: it has the wrong shape, holds NaN or infinite values, or no variance.
            DivergedError: the loss, or its gradient, is not finite.
        """
        looks = self._training is None or self._training.looks
        x, y = self._tokens(*self.world.together(lambda: self._given(batch, looks)), looks)
        training, train = self._in_training((x, y)), self.train
        number = training.steps_done
        lr = self._peak * lr_factor(number, train.steps, train.warmup_frac, train.decay_frac, train.lr_schedule)
        k = training.k if self.config.k is not None else None
        read = self._read_scale.apply(x)
        facts = step(training, read, lr, read if y is x else self._written_scale.apply(y))
        told = number % train.measure_every_steps == 0 or number == train.steps - 1
        if looks or told:
            self._require_finite(facts.loss, number)
        if not told:
            return None
        now, tokens = time.perf_counter(), (number + 1) * train.batch_tokens
        (before, tokens_before), self._last = self._last, (now, tokens)
        return TrainRecord(
            tokens=tokens,
            fvu=facts.fvu,
            l0=facts.l0,
            dead_fraction=self.world.latents.total(training.dead.sum().item()) / self.config.d_sae,
            loss=facts.loss,
            seconds=now - self._started,
            lr=lr,
            k=k,
            tokens_per_second=(tokens - tokens_before) / max(now - before, 1e-9),
            memory_mib=peak_memory_mib(x.device),
            sae=self.number,
        )

    def folded(self) -> tuple[SAEConfig, dict[str, Tensor]]:
        """The SAE as it is now, for raw activations: its config and weights, not copied where they are the same.

        Raises:
            DivergedError: a loss was not finite since somebody looked: then the weights are worth nothing.
        """
        training = self._in_training(None)
        self._require_finite(training.ill.item(), training.steps_done - 1)
        weights = {name: tensor.detach() for name, tensor in training.sae.state_dict().items()}
        told = dataclasses.replace(self.config, input_scale=self._read_scale.whole)
        return told, folded(weights, self._read_scale, self._written_scale)

    def finish(self) -> SAE:
        """The trained SAE (this rank's latents of it), for raw activations; it cannot be trained further here."""
        sae = self._in_training(None).sae
        sae.config, weights = self.folded()
        for name, tensor in sae.state_dict().items():
            tensor.copy_(weights[name])
        return sae.requires_grad_(False)

    def state(self) -> dict[str, Any]:
        """What decides what comes next, apart from the weights that are the same in ``folded``."""
        training = self._in_training(None)
        _, folded = self.folded()
        weights = {name: tensor.detach() for name, tensor in training.sae.state_dict().items()}
        return {
            "training": training.state(),
            "read_scale": [self._read_scale.exponent, self._read_scale.factor],
            "written_scale": [self._written_scale.exponent, self._written_scale.factor],
            "weights": {
                name: tensor for name, tensor in weights.items() if folded[name].data_ptr() != tensor.data_ptr()
            },
            "seconds": time.perf_counter() - self._started,
            "dtypes": self._alike.dtypes,
        }

    def restore(self, state: Mapping[str, Any], folded: Mapping[str, Tensor]) -> None:
        """Go on from a ``state`` and the weights of ``folded`` of that time."""
        self._training, self._pending, self._start = None, (state, folded), None
        self._started = time.perf_counter() - state["seconds"]
        self._alike = Alike(state.get("dtypes"))  # earlier releases did not keep them
        self._read_scale, self._written_scale = Scale(*state["read_scale"]), Scale(*state["written_scale"])

    def _in_training(self, first: tuple[Tensor, Tensor] | None) -> Training:
        """What is trained; at first it is begun with the first batch, or put where the restored state says."""
        if self._training is None:
            if self._pending:
                self._training = self._resumed(*self._pending, first[0].device if first else torch.device("cpu"))
                self._pending = None
            else:
                assert first is not None, "there is nothing to give before the first batch"
                self._training = self._begun(*first)
        return self._training

    def _begun(self, x: Float[Tensor, "token d_in"], y: Float[Tensor, "token d_out"]) -> Training:
        """An SAE whose scale fits the first batch, and the decoder bias too if it is a new one."""
        if self.config.input_norm == "none":  # else each token has its own scale
            self._read_scale = Scale.of(x, self.world.data)
            self._written_scale = self._read_scale if y is x else Scale.of(y, self.world.data)
        scale = self._written_scale
        if self._start is not None:
            weights = unfolded(start_of(self._start, self.latents), self._read_scale, scale)
            self._start = None  # nothing needs it any more
            return Training(SAE.from_tensors(self.config, weights, self.latents).to(x.device), self.train, self.world)
        sae = SAE(self.config, self.train.seed, self.latents).to(x.device)
        sae.b_dec.copy_(centre(scale.shift(y), self.train.b_dec_init, self.world.data) * scale.factor)
        if self.config.activation == "jumprelu":
            sae.threshold.fill_(self.train.jumprelu_threshold)
        return Training(sae, self.train, self.world)

    def _resumed(self, state: Mapping[str, Any], folded: Mapping[str, Tensor], device: torch.device) -> Training:
        sae = SAE.from_tensors(self.config, {**folded, **state["weights"]}, self.latents).to(device)
        training = Training(sae, self.train, self.world)
        training.restore(state["training"])
        self._last = (time.perf_counter(), training.steps_done * self.train.batch_tokens)
        return training

    def _require_finite(self, loss: float, number: int) -> None:
        if math.isfinite(loss):
            return
        every = self._training.look_every if self._training else 1
        when = f"at step {number}" if every == 1 else f"at step {number} or one of the {every - 1} before"
        raise DivergedError(
            f"The loss became {loss} {when} ({number * self.train.batch_tokens} tokens). "
            f"Lower the learning rate{self._weights_of_losses()}, or look at the activations for outliers"
            + ("." if every == 1 else ", NaN and infinite values.")
        )

    def _weights_of_losses(self) -> str:
        """What else of the settings makes a loss large, with its value."""
        counted = self.config.activation in ("topk", "batch_topk")
        penalty = {"relu": ["l1_weight"], "jumprelu": ["l0_weight"]}.get(self.config.activation, [])
        names = [*penalty, "auxk_weight", *(["multi_topk_weight"] if counted else [])]
        defaults = {one.name: one.default for one in dataclasses.fields(TrainConfig)}
        told = [name for name in names if name in penalty or getattr(self.train, name) > defaults[name]]
        return "".join(f" or {name} ({getattr(self.train, name):g})" for name in told)

    def _given(self, batch: object, looks: bool) -> tuple[Float[Tensor, "token d_in"], Float[Tensor, "token d_out"]]:
        """What this rank's stream gives for the SAE to read and to write, the same tensor in an autoencoder."""
        config, tokens = self.config, self.share
        given = [at_site(batch, site, config) for site in (config.site, config.site_out or config.site)]
        for x, site in zip(given, (config.site, config.site_out or config.site), strict=True):
            self._alike.require(x, site or "")
        x = y = as_activations(given[0], config.d_in, tokens, looks)
        if config.site_out is not None:
            y = as_activations(given[1], config.width_out, tokens, looks)
        return x, y

    def _tokens(
        self, x: Float[Tensor, "_ d_in"], y: Float[Tensor, "_ d_out"], looks: bool
    ) -> tuple[Float[Tensor, "token d_in"], Float[Tensor, "token d_out"]]:
        """What the SAE reads and what it shall write, not scaled yet.

        They are the tokens of all ranks that divide its latents, less the outliers of the batch.
        """
        config, ranks = self.config, self.world.data
        rows = self.world.latents.rows(x)
        x, y = rows, rows if y is x else self.world.latents.rows(y)
        for one in (x, y) if looks else ():
            ends = torch.aminmax(one, dim=0)
            if (ranks.max_(ends.max) == -ranks.max_(-ends.min)).all():
                raise all_equal()
        if self.train.outlier_norm is not None:
            keep = ordinary(x, self.train.outlier_norm, ranks)
            kept = x[keep]
            x, y = kept, kept if y is x else y[keep]
        if config.input_norm != "none":
            x = y = normalise(x, config.input_norm, config.norm_eps).x
        return x, y


def _check_together(config: SAEConfig, train: TrainConfig) -> None:
    if train.selection != "exact" and not (
        config.activation == "topk" and train.compute_dtype == "float32" and not train.multi_topk_weight
    ):
        raise ConfigError(
            f"selection {train.selection} is a way to find the k largest of topk's product in float32, and has no "
            f"effect with activation {config.activation}, compute_dtype {train.compute_dtype}, multi_topk_weight "
            f"{train.multi_topk_weight:g}. Leave it out, or use topk with float32 and without multi-top-k."
        )
    if train.k_start is not None and (config.k is None or not config.k <= train.k_start <= config.d_sae):
        raise ConfigError(
            f"k_start falls to k, so it lies between k = {config.k} and d_sae = {config.d_sae}: got {train.k_start}. "
            "Leave it out where the activation has no k."
        )
    if config.site_out is None and config.width_out != config.d_in:
        raise ConfigError(
            f"An SAE that writes width {config.width_out} and reads width {config.d_in} writes another site than it "
            "reads. Say which with site_out."
        )


def peak_memory_mib(device: torch.device) -> float | None:
    """Peak memory: of the tensors on a GPU, else of the process; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows has none
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
