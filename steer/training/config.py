"""Settings of ``steer train``: one flat list of fields, the same in a file, as options and in Python."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict

from saes.config import (
    ADAM_BETA2,
    Activation,
    BDecInit,
    ComputeDtype,
    InputNorm,
    LrSchedule,
    OptimiserName,
    Selection,
    TrainConfig,
)
from saes.paths import as_path
from steer.activations.policy import Form, Roles, TokenPolicy
from steer.errors import DataError
from steer.models.load import EMBEDDED, Dtype
from steer.settings import Settings

KEEPING = (
    "device", "threads", "offline", "ring_device", "ahead", "out", "save_every_steps", "save_every_seconds", "keep",
    "use_older", "stop_after_steps", "stop_after_seconds", "tensorboard", "wandb", "repeat",
)  # fmt: skip
"""Fields that say where and how a run is kept and computed; they may be others when it is gone on with. ``repeat`` is
one since it decides nothing until the text ends; ``ActivationStream.restore`` sees to that."""
CHOICES = ("text", "dataset", "shards")
OF_DATASETS = ("subset", "split", "dataset_revision")
OF_TEXT = ("text_column", "messages_column")
OF_THE_SAE = ("d_sae", "k", "activation", "prefixes", "skip", "input_norm", "subtract_b_dec")
"""Fields that say what a new SAE is; one that training goes on from has its own."""
K = 32  # latents active on a token where none is given


def _several(value: Any) -> Any:
    """One value for a list of one; lists, as files give them, for tuples."""
    return tuple(value) if isinstance(value, list | tuple) else None if value is None else (value,)


def _a_name(value: str) -> str:
    """A name, or a path: text that is not empty and that any file could have for its name."""
    if not value.strip():
        raise ValueError("Input should be a name")
    as_path(value, "Input", DataError)
    return value


Name = Annotated[str, AfterValidator(_a_name)]
Names = Annotated[tuple[Name, ...], BeforeValidator(_several)]
Numbers = Annotated[tuple[int, ...], BeforeValidator(_several)]


class TrainingConfig(Settings):
    """What is trained, on what, and where it is kept.

    Lists of ``site``, ``d_sae``, ``k`` and ``seed`` make several SAEs, every combination, from one reading of the text.

    Raises:
        DataError: a field is unknown, missing, or not of its kind.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    model: Name | None = None
    """``embedded``, a folder in transformers format, or a hub id; None: the model of the shards, else ``embedded``."""
    revision: Name | None = None
    """Commit, branch or tag of a model of the hub."""
    device: Name = "auto"
    """Where to compute: ``auto`` takes CUDA where it is present."""
    dtype: Dtype = "auto"
    """Number format of the model: ``auto`` takes float32 on a CPU, else the checkpoint's own."""
    threads: int | None = None
    """CPU threads; None: 1 for a small model, else as many as torch takes."""
    offline: bool = False
    """Whether the network is never used."""

    site: Names | None = None
    """Where the SAEs read; None: the sites of the shards, else the layer after which half of the layers have run."""
    site_out: Names = ()
    """Where transcoders write: one for all sites, or one for each; (): autoencoders."""
    text: Names = ()
    """Files of text: ``.txt``, ``.jsonl``, both also with ``.gz``, ``.parquet``; or folders of such files."""
    dataset: Name | None = None
    """A data set of the hub, OWNER/NAME, streamed."""
    subset: Name | None = None
    """Its configuration, where it has several."""
    split: Name = "train"
    """Its split."""
    dataset_revision: Name | None = None
    """Its commit, branch or tag; None: the newest commit when it is opened."""
    shards: Name | None = None
    """Folder of stored activations, read instead of text; with text, they are written there first."""
    text_column: Name = "text"
    """Column that holds a plain text."""
    messages_column: Name = "messages"
    """Column that holds a conversation."""
    repeat: bool = False
    """Whether the text is begun again when it ends; otherwise it must hold ``total_tokens`` tokens that count."""

    form: Form = TokenPolicy.form
    """How text becomes rows of tokens; see ``TokenPolicy``, also for the next six."""
    context_size: int | None = TokenPolicy.context_size
    """Length of a row at most, in tokens; None: the model's context, but no more than 1024."""
    roles: Roles = TokenPolicy.roles
    """Whose messages count, with ``chat``."""
    exclude_first: bool = TokenPolicy.exclude_first
    """Whether the first token of every row, and of every document, is left out."""
    exclude_special: bool = TokenPolicy.exclude_special
    """Whether special tokens are left out."""
    exclude_ids: Numbers = TokenPolicy.exclude_ids
    """Ids of tokens to leave out besides."""
    max_norm_ratio: float | None = TokenPolicy.max_norm_ratio
    """Tokens whose norm is above this multiple of the median are left out; None: none."""

    ring_tokens: int = 65_536
    """Size of the shuffle ring, in tokens, at least a batch; left at its default, it grows to a larger batch."""
    ring_device: Name | None = None
    """Where the ring is and SAEs are trained; None: where the model is."""
    ahead: int = 2
    """Model passes made in advance by a background thread."""
    forward_tokens: int = 8192
    """Tokens of one pass of the model at most, padding included."""
    shuffle_seed: int = 0
    """Seed of the order of the tokens."""

    from_sae: Names | None = None
    """SAEs whose training goes on, as ``load_sae`` takes them; None: new ones, of the next seven fields."""
    d_sae: Numbers | None = None
    """Number of latents; None: 8 times the width of the activations."""
    k: Numbers | None = None
    """Latents active on a token; None: 32 for ``topk`` and ``batch_topk``, which alone have a k."""
    activation: Activation = "topk"
    """How active latents are selected."""
    prefixes: Numbers = ()
    """Matryoshka: numbers of first latents that reconstruct on their own, too; all latents need not be named."""
    skip: bool = False
    """Whether a transcoder adds a linear map of its input."""
    input_norm: InputNorm = "none"
    """What is done to each token before the encoder and undone after the decoder."""
    subtract_b_dec: bool | None = None
    """Whether the encoder reads the input less ``b_dec``; None: yes, but not in a transcoder."""

    total_tokens: int
    """Tokens to train on."""
    batch_tokens: int = TrainConfig.batch_tokens
    """Tokens per optimiser step."""
    optimiser: OptimiserName = TrainConfig.optimiser
    """See ``TrainConfig``, as for all that follow up to ``measure_every_steps``."""
    lr: float | None = TrainConfig.lr
    """Peak learning rate; None: by the number of latents and of steps."""
    lr_schedule: LrSchedule = TrainConfig.lr_schedule
    """How it falls."""
    warmup_frac: float = TrainConfig.warmup_frac
    """Share of the tokens over which it rises."""
    decay_frac: float = TrainConfig.decay_frac
    """Share of the tokens over which it falls."""
    adam_beta2: float | None = TrainConfig.adam_beta2
    """Share of its mean of squared gradients that Adam keeps at a step; None: by the activation."""
    compute_dtype: ComputeDtype = TrainConfig.compute_dtype
    """Dtype of the encoder's product."""
    selection: Selection = TrainConfig.selection
    """How the latents of the largest pre-activations are found (``topk``)."""
    k_start: int | None = TrainConfig.k_start
    """Active latents at the beginning, falling to ``k``."""
    k_decay_frac: float = TrainConfig.k_decay_frac
    """Share of the tokens over which they fall."""
    auxk_weight: float = TrainConfig.auxk_weight
    """Weight of the loss that revives dead latents."""
    dead_after_tokens: int | None = TrainConfig.dead_after_tokens
    """Tokens without firing after which a latent counts as dead; None: by the length of the run."""
    multi_topk_weight: float = TrainConfig.multi_topk_weight
    """Weight of the FVU with 4 k latents."""
    l1_weight: float = TrainConfig.l1_weight
    """Weight of the summed latents in the loss of ``relu``."""
    l0_weight: float = TrainConfig.l0_weight
    """Weight of the number of active latents in the loss of ``jumprelu``."""
    sparsity_warmup_frac: float = TrainConfig.sparsity_warmup_frac
    """Share of the tokens over which these two rise."""
    jumprelu_threshold: float = TrainConfig.jumprelu_threshold
    """Thresholds at the beginning."""
    jumprelu_bandwidth: float = TrainConfig.jumprelu_bandwidth
    """Width of the window in which pre-activations move a threshold."""
    b_dec_init: BDecInit = TrainConfig.b_dec_init
    """Where ``b_dec`` begins."""
    outlier_norm: float | None = TrainConfig.outlier_norm
    """Tokens whose norm exceeds this many times the batch's median are left out; None: none."""
    grad_clip: float = TrainConfig.grad_clip
    """Largest norm of the gradient."""
    seed: Numbers = (TrainConfig.seed,)
    """Seed of the initial weights."""
    measure_every_steps: int = TrainConfig.measure_every_steps
    """Steps between two lines of the training log."""

    out: Name
    """The run folder."""
    save_every_steps: int = 1000
    """Steps between two checkpoints."""
    save_every_seconds: float | None = None
    """Seconds between two checkpoints, if that comes first."""
    keep: int = 2
    """Newest checkpoints to keep."""
    use_older: bool = False
    """If the newest checkpoint is damaged, whether to go on from an older one."""
    stop_after_steps: int | None = None
    """Steps of this call after which it saves and ends."""
    stop_after_seconds: float | None = None
    """Seconds of this call after which it saves and ends."""
    tensorboard: bool = False
    """Whether the log goes to TensorBoard files in the run folder, too."""
    wandb: Name | None = None
    """Project of Weights & Biases that the log goes to, too."""

    def deciding(self) -> dict[str, Any]:
        """The fields that decide what is trained, as JSON data. Also what another run is told apart by.

        ``adam_beta2`` is told as the number that it is: which one is left open may be another in another release. Of
        an SAE that training goes on from, neither that is told nor what else it says itself.
        """
        if self.from_sae:
            return self.model_dump(mode="json", exclude={*KEEPING, *OF_THE_SAE})
        beta2 = ADAM_BETA2[self.activation] if self.adam_beta2 is None else self.adam_beta2
        return self.model_dump(mode="json", exclude=set(KEEPING)) | {"adam_beta2": beta2}

    @property
    def stores(self) -> bool:
        """Whether activations of the text are stored before they are trained on."""
        return bool(self.shards and (self.text or self.dataset))

    def require_one_source(self) -> None:
        """Raise DataError where it is not said, or said twice, what is read."""
        given = [name for name in CHOICES if getattr(self, name)]
        own = self.model in (None, EMBEDDED)
        if {"text", "dataset"} <= set(given) or not (given or own):
            raise DataError(
                f"One of text, dataset and shards says what is read: got {' and '.join(given) or 'none'}. "
                "Give --text FILE, --dataset OWNER/NAME or --shards FOLDER."
            )
        self._require_of_use("dataset", OF_DATASETS, "a data set of the hub (--dataset)")
        if self.shards and not self.stores:
            self._require_of_use("text", OF_TEXT, "text (--text, --dataset)")

    def _require_of_use(self, source: str, names: Sequence[str], what: str) -> None:
        """Raise DataError where a field is given that counts only with another source."""
        fields = type(self).model_fields
        for name in names if not getattr(self, source) else ():
            if (value := getattr(self, name)) != fields[name].default:
                raise DataError(f"{name} is a setting of {what}, which is not read here: got {value!r}. Leave it out.")


def each(values: Sequence[Any] | None, default: Any) -> Sequence[Any]:
    """The values of a list, or the default alone where there is none."""
    return [default] if values is None else values


def first_difference(there: Mapping[str, Any], asked: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first field that two runs differ in, and both values."""
    names = [name for name in {**there, **asked} if there.get(name) != asked.get(name)]
    return (names[0], there.get(names[0]), asked.get(names[0])) if names else None
