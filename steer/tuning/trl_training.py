"""What ``trl`` does in tuning by preferences, and what keeps it to itself.

Its trainer changes the model that it is given, reports to its makers over the network, seeds the program's random
numbers and prints. Here it gets modules of its own over the model's weights, reports nothing, writes to a folder that
is removed, and leaves the random numbers as they were.
"""

import copy
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np
import torch
from torch import Tensor, nn

from saes.checkpoints import TEMPORARY
from steer.errors import MissingExtra, ModelError
from steer.models.model import LanguageModel
from steer.tuning.adapter import Adapter, require_peft
from steer.tuning.preference_config import PreferenceConfig
from steer.tuning.preferences import Pair
from steer.tuning.training import seeded

Line = Mapping[str, Any]
"""Of the log: the step, and of its preferences the loss, the margin and the accuracy, before the step was taken."""


def require_trl() -> Any:
    """The package trl.

    Raises:
        MissingExtra: it, or peft, is not installed.
    """
    require_peft()
    try:
        import trl
    except ImportError as error:
        raise MissingExtra(
            "Tuning by preferences needs the package trl, which is not installed: pip install 'saesteer[dpo]'."
        ) from error
    return trl


def trained(
    adapter: Adapter,
    pairs: Sequence[Pair],
    config: PreferenceConfig,
    steps: int,
    folder: Path,
    on_step: Callable[[Line], None],
) -> dict[str, Tensor]:
    """The adapter's weights after so many steps, named as ``Adapter.state`` names them; it itself stays as it is.

    The reference is the adapter as it is given. ``folder`` is where temporary files may lie.

    Raises:
        ModelError: trl cannot tune such a model.
    """
    lm = adapter.lm
    with lm.lock, seeded(config.seed, lm.device), _kept_random(), _no_telemetry(), _kept_grads(lm.model):
        with TemporaryDirectory(dir=folder, prefix=TEMPORARY) as scratch, torch.enable_grad(), catch_warnings():
            simplefilter("ignore", FutureWarning)  # trl's settings use names that transformers is about to drop
            model = _peft_model(adapter)
            try:
                trainer = _trainer(lm, model, pairs, config, steps, scratch, on_step)
            except (ValueError, TypeError, NotImplementedError) as error:
                raise ModelError(f"trl cannot tune {lm.name}: {' '.join(str(error).split())[:300]}") from error
            trainer.train()
        found = require_peft().get_peft_model_state_dict(model, adapter_name="default", save_embedding_layers=False)
    return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}


def _peft_model(adapter: Adapter) -> Any:
    """The model under the adapter as trl wants it, made of new modules over the same weights."""
    peft = require_peft()
    config = copy.deepcopy(adapter.config)
    config.base_model_name_or_path = None  # peft compares it with a name of its own finding
    model = peft.get_peft_model(_same_weights(adapter.lm.model), config)
    peft.set_peft_model_state_dict(model, adapter.state())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".default." in name)
    return model


def _same_weights(model: nn.Module) -> nn.Module:
    """Other modules that hold the same parameters and buffers: what is done to the modules stays with them."""
    return copy.deepcopy(model, {id(one): one for one in (*model.parameters(), *model.buffers())})


def _trainer(
    lm: LanguageModel,
    model: Any,
    pairs: Sequence[Pair],
    config: PreferenceConfig,
    steps: int,
    scratch: str,
    on_step: Callable[[Line], None],
) -> Any:
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    class Trainer(DPOTrainer):
        """trl's, on conversations as this package renders them, ended as its replies end."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    class Told(TrainerCallback):
        """Tells of each step."""

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
            if logs and "rewards/margins" in logs:
                names = {"loss": "loss", "margin": "rewards/margins", "accuracy": "rewards/accuracies"}
                on_step({"step": state.global_step, **{ours: logs[theirs] for ours, theirs in names.items()}})

    settings = DPOConfig(
        output_dir=scratch, beta=config.beta, loss_type=["sigmoid"], learning_rate=config.lr, max_steps=steps,
        lr_scheduler_type="cosine", weight_decay=config.weight_decay, max_grad_norm=config.grad_clip,
        per_device_train_batch_size=config.micro_batch, max_length=None, disable_dropout=True,
        gradient_accumulation_steps=config.batch // config.micro_batch, seed=config.seed, data_seed=config.seed,
        use_cpu=lm.device.type == "cpu", bf16=False, fp16=False, gradient_checkpointing=False, report_to="none",
        save_strategy="no", eval_strategy="no", logging_steps=1, logging_nan_inf_filter=False, disable_tqdm=True,
        dataloader_pin_memory=False, push_to_hub=False,
    )  # fmt: skip
    trainer = Trainer(
        model=model,
        args=settings,
        train_dataset=Dataset.from_list([asdict(pair) for pair in pairs]),
        processing_class=copy.deepcopy(lm.tokenizer),
        callbacks=[Told()],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


@contextmanager
def _no_telemetry() -> Iterator[None]:
    """Let nothing that is made in the block report to the hub."""
    from huggingface_hub import constants

    before = constants.HF_HUB_DISABLE_TELEMETRY
    constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = before


@contextmanager
def _kept_random() -> Iterator[None]:
    """Python's and numpy's random numbers go on after the block as if there had been none."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def _kept_grads(model: nn.Module) -> Iterator[None]:
    """Which parameters want gradients is after the block what it was before; none is left on them."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for parameter, needs in before:
            parameter.requires_grad_(needs)
