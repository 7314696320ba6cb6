"""Options of ``steer train``, by panel. Each is named like its field in a config file; None: it is not given."""

from pathlib import Path
from typing import Annotated, Any

import typer


def _in(panel: str, help: str, default: str | None = None, *names: str, **more: Any) -> Any:
    """An option of a panel; ``default`` is told, since the option itself has none."""
    return typer.Option(*names, help=help, show_default=default or False, rich_help_panel=panel, **more)


MODEL, READ, TOKENS, MIX = "Model", "What is read", "Which tokens count", "How they are mixed"
SAES, TRAIN, LOSS, RUN = "SAEs", "Training", "Losses and sparsity", "The run"
MANY_PROCESSES = "With torchrun"
MANY = "LIST"  # values separated by commas

Model = Annotated[
    str | None,
    _in(MODEL, "`embedded`, a folder in transformers format, or a hub id.", "that of the shards, or embedded"),
]
Revision = Annotated[str | None, _in(MODEL, "Commit, branch or tag of a hub's model.")]
Device = Annotated[str | None, _in(MODEL, "`auto`, `cpu`, `cuda`, `cuda:1`, ...", "auto")]
Dtype = Annotated[
    str | None, _in(MODEL, "auto (float32 on a CPU, else the model's own), float32, bfloat16, float16.", "auto")
]
Threads = Annotated[
    int | None, _in(MODEL, "CPU threads; else OMP_NUM_THREADS.", "1 for a small model", min=1, max=1024)
]
Offline = Annotated[bool | None, _in(MODEL, "Never use the network for the model.", None, "--offline")]

Site = Annotated[str | None, _in(READ, "Where SAEs read, such as 1.resid_post.", "the middle layer", metavar=MANY)]
SiteOut = Annotated[str | None, _in(READ, "Where transcoders write.", metavar=MANY)]
Text = Annotated[list[str] | None, _in(READ, "Text: .txt, .jsonl (.gz), .parquet, a folder; may be repeated.")]
Dataset = Annotated[str | None, _in(READ, "A data set of the hub, OWNER/NAME, streamed.")]
Subset = Annotated[str | None, _in(READ, "Its configuration, where it has several.")]
Split = Annotated[str | None, _in(READ, "Its split.", "train")]
DatasetRevision = Annotated[str | None, _in(READ, "Its commit, branch or tag.", "the newest")]
Shards = Annotated[str | None, _in(READ, "Folder of stored activations, instead of text.")]
TextColumn = Annotated[str | None, _in(READ, "Column that holds a text.", "text")]
MessagesColumn = Annotated[str | None, _in(READ, "Column that holds a conversation.", "messages")]
Repeat = Annotated[bool | None, _in(READ, "Read the text again when it ends.", None, "--repeat/--no-repeat")]

Form = Annotated[str | None, _in(TOKENS, "packed, documents or chat.", "packed")]
ContextSize = Annotated[int | None, _in(TOKENS, "Tokens of a row.", "the model's context, at most 1024")]
Roles = Annotated[str | None, _in(TOKENS, "With chat: all, assistant or user.", "all")]
ExcludeFirst = Annotated[
    bool | None, _in(TOKENS, "Leave out first tokens.", "exclude-first", "--exclude-first/--no-exclude-first")
]
ExcludeSpecial = Annotated[
    bool | None,
    _in(TOKENS, "Leave out special tokens.", "no-exclude-special", "--exclude-special/--no-exclude-special"),
]
ExcludeIds = Annotated[str | None, _in(TOKENS, "Ids of tokens to leave out.", metavar=MANY)]
MaxNormRatio = Annotated[float | None, _in(TOKENS, "Leave out tokens above this multiple of the median norm.")]

RingTokens = Annotated[int | None, _in(MIX, "Size of the shuffle ring, in tokens.", "65536")]
RingDevice = Annotated[str | None, _in(MIX, "Where the ring is and SAEs are trained.", "where the model is")]
Ahead = Annotated[int | None, _in(MIX, "Model passes made in advance by a thread; 0: no thread.", "2")]
ForwardTokens = Annotated[int | None, _in(MIX, "Tokens of a pass of the model.", "8192")]
ShuffleSeed = Annotated[int | None, _in(MIX, "Seed of the order of tokens.", "0")]

DSae = Annotated[str | None, _in(SAES, "Number of latents.", "8 times the width", metavar=MANY)]
K = Annotated[str | None, _in(SAES, "Latents active on a token.", "32", metavar=MANY)]
Activation = Annotated[str | None, _in(SAES, "topk, batch_topk, jumprelu or relu.", "topk")]
Prefixes = Annotated[str | None, _in(SAES, "Matryoshka: first latents that reconstruct alone.", metavar=MANY)]
Skip = Annotated[bool | None, _in(SAES, "Add a linear map of a transcoder's input.", "no-skip", "--skip/--no-skip")]
InputNorm = Annotated[str | None, _in(SAES, "none, layer_norm or constant_norm.", "none")]
SubtractBDec = Annotated[
    bool | None,
    _in(
        SAES, "Encode the input less b_dec.", "yes, but for transcoders", "--subtract-b-dec/--no-subtract-b-dec"
    ),
]  # fmt: skip
Seed = Annotated[str | None, _in(SAES, "Seed of the initial weights.", "0", metavar=MANY)]

TotalTokens = Annotated[int | None, _in(TRAIN, "Tokens to train on; needed.")]
BatchTokens = Annotated[int | None, _in(TRAIN, "Tokens per optimiser step.", "2048")]
Optimiser = Annotated[str | None, _in(TRAIN, "adam, adam_bf16 (half the state) or signum.", "adam")]
Lr = Annotated[float | None, _in(TRAIN, "Peak learning rate.", "by latents and steps")]
LrSchedule = Annotated[str | None, _in(TRAIN, "linear, cosine or constant.", "linear")]
WarmupFrac = Annotated[float | None, _in(TRAIN, "Share of the tokens over which it rises.", "0.05")]
DecayFrac = Annotated[float | None, _in(TRAIN, "Share of the tokens over which it falls.", "0.2")]
AdamBeta2 = Annotated[float | None, _in(TRAIN, "Share of its mean of squares that Adam keeps at a step.", "0.95")]
ComputeDtype = Annotated[str | None, _in(TRAIN, "Of the encoder's product: float32 or bfloat16.", "float32")]
Selection = Annotated[str | None, _in(TRAIN, "topk: exact, proven or fast.", "exact")]
BDecInit = Annotated[str | None, _in(TRAIN, "mean, geometric_median or zero.", "mean")]
OutlierNorm = Annotated[float | None, _in(TRAIN, "Leave out tokens above this multiple of a batch's median norm.")]
GradClip = Annotated[float | None, _in(TRAIN, "Largest norm of the gradient.", "0.01")]

AuxkWeight = Annotated[float | None, _in(LOSS, "Of the loss that revives dead latents.", "0.03125")]
DeadAfterTokens = Annotated[
    int | None, _in(LOSS, "Silent tokens after which a latent is dead.", "by the length of the run")
]
MultiTopkWeight = Annotated[float | None, _in(LOSS, "Of the FVU with 4 k latents.", "0.0")]
KStart = Annotated[int | None, _in(LOSS, "k at the beginning, falling to k.", "k itself")]
KDecayFrac = Annotated[float | None, _in(LOSS, "Share of the tokens over which it falls.", "0.1")]
L1Weight = Annotated[float | None, _in(LOSS, "relu: of the summed latents.", "0.05")]
L0Weight = Annotated[float | None, _in(LOSS, "jumprelu: of the number of active latents.", "0.001")]
SparsityWarmupFrac = Annotated[float | None, _in(LOSS, "Share of the tokens over which these rise.", "0.05")]
JumpreluThreshold = Annotated[float | None, _in(LOSS, "Thresholds at the beginning.", "0.1")]
JumpreluBandwidth = Annotated[float | None, _in(LOSS, "Window in which they learn.", "0.1")]

Out = Annotated[str | None, _in(RUN, "The run folder; needed. The same command goes on with a run that was stopped.")]
Config = Annotated[
    Path | None, _in(RUN, "TOML or JSON file with fields named like these options (or a run's run.json).")
]
DryRun = Annotated[bool, _in(RUN, "Estimate memory, time and files; write nothing.", None, "--dry-run")]
Overwrite = Annotated[bool, _in(RUN, "Remove the run in the folder and begin anew.", None, "--overwrite")]
SaveEverySteps = Annotated[int | None, _in(RUN, "Steps between two checkpoints.", "1000")]
SaveEverySeconds = Annotated[float | None, _in(RUN, "Seconds between two, if that comes first.")]
Keep = Annotated[int | None, _in(RUN, "Checkpoints to keep.", "2")]
UseOlder = Annotated[bool | None, _in(RUN, "Pass over a damaged checkpoint.", None, "--use-older")]
StopAfterSteps = Annotated[int | None, _in(RUN, "Save and end after so many steps.")]
StopAfterSeconds = Annotated[float | None, _in(RUN, "Save and end after so many seconds.")]
MeasureEverySteps = Annotated[int | None, _in(RUN, "Steps between two lines of the log.", "25")]
Tensorboard = Annotated[bool | None, _in(RUN, "Log to TensorBoard files, too.", None, "--tensorboard")]
Wandb = Annotated[str | None, _in(RUN, "Project of Weights & Biases to log to, too.", metavar="PROJECT")]
LatentShards = Annotated[int, _in(MANY_PROCESSES, "Parts that the latents are divided into.", "1", min=1)]
Timeout = Annotated[float, _in(MANY_PROCESSES, "Seconds after which a silent process counts as gone.", "300.0")]
Json = Annotated[bool, _in(RUN, "Print the result as JSON.", None, "--json")]
