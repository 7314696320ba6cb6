"""Options of ``steer train``, by panel. Each is named like its field in a config file; None: it is not given."""

from collections.abc import Callable
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any

import typer


def _in(kind: Any, panel: str, help: str, default: str | None = None, *names: str, **more: Any) -> tuple[Any, Any]:
    """An option of a panel: its type, and what typer is told; ``default`` is shown, as it has none itself."""
    told = typer.Option(None, *names, help=help, show_default=default or False, rich_help_panel=panel, **more)
    return kind | None, told


MODEL, READ, TOKENS, MIX = "Model", "What is read", "Which tokens count", "How they are mixed"
SAES, TRAIN, LOSS, RUN = "SAEs", "Training", "Losses and sparsity", "The run"
MANY_PROCESSES = "With torchrun"
MANY = "LIST"  # values separated by commas

OPTIONS: dict[str, tuple[Any, Any]] = {
    "model": _in(
        str,
        MODEL,
        "`embedded`, a folder in transformers format, or a hub id.",
        "that of the shards, or embedded",
    ),
    "revision": _in(str, MODEL, "Commit, branch or tag of a hub's model."),
    "device": _in(str, MODEL, "`auto`, `cpu`, `cuda`, `cuda:1`, ...", "auto"),
    "dtype": _in(str, MODEL, "auto (float32 on a CPU, else the model's own), float32, bfloat16, float16.", "auto"),
    "threads": _in(int, MODEL, "CPU threads; else OMP_NUM_THREADS.", "1 for a small model", min=1, max=1024),
    "offline": _in(bool, MODEL, "Never use the network for the model.", None, "--offline"),
    "site": _in(str, READ, "Where SAEs read, such as 1.resid_post.", "the middle layer", metavar=MANY),
    "site_out": _in(str, READ, "Where transcoders write.", metavar=MANY),
    "text": _in(list[str], READ, "Text: .txt, .jsonl (.gz), .parquet, a folder; may be repeated."),
    "dataset": _in(str, READ, "A data set of the hub, OWNER/NAME, streamed."),
    "subset": _in(str, READ, "Its configuration, where it has several."),
    "split": _in(str, READ, "Its split.", "train"),
    "dataset_revision": _in(str, READ, "Its commit, branch or tag.", "the newest"),
    "shards": _in(str, READ, "Folder of stored activations, read instead of text; with text, written first."),
    "text_column": _in(str, READ, "Column that holds a text.", "text"),
    "messages_column": _in(str, READ, "Column that holds a conversation.", "messages"),
    "repeat": _in(bool, READ, "Read the text again when it ends.", None, "--repeat/--no-repeat"),
    "form": _in(str, TOKENS, "packed, documents or chat.", "packed"),
    "context_size": _in(int, TOKENS, "Tokens of a row.", "the model's context, at most 1024"),
    "roles": _in(str, TOKENS, "With chat: all, assistant or user.", "all"),
    "exclude_first": _in(
        bool, TOKENS, "Leave out first tokens.", "exclude-first", "--exclude-first/--no-exclude-first"
    ),
    "exclude_special": _in(
        bool,
        TOKENS,
        "Leave out special tokens.",
        "no-exclude-special",
        "--exclude-special/--no-exclude-special",
    ),
    "exclude_ids": _in(str, TOKENS, "Ids of tokens to leave out.", metavar=MANY),
    "max_norm_ratio": _in(float, TOKENS, "Leave out tokens above this multiple of the median norm."),
    "ring_tokens": _in(int, MIX, "Size of the shuffle ring, in tokens.", "65536"),
    "ring_device": _in(str, MIX, "Where the ring is and SAEs are trained.", "where the model is"),
    "ahead": _in(int, MIX, "Model passes made in advance by a thread; 0: no thread.", "2"),
    "forward_tokens": _in(int, MIX, "Tokens of a pass of the model.", "8192"),
    "shuffle_seed": _in(int, MIX, "Seed of the order of tokens.", "0"),
    "from_sae": _in(
        list[str],
        SAES,
        "Go on from the weights of this SAE: a path, hub:OWNER/NAME/FOLDER or saelens:RELEASE/ID; may be repeated.",
        metavar="SAE",
    ),
    "d_sae": _in(str, SAES, "Number of latents.", "8 times the width", metavar=MANY),
    "k": _in(str, SAES, "Latents active on a token.", "32", metavar=MANY),
    "activation": _in(str, SAES, "topk, batch_topk, jumprelu or relu.", "topk"),
    "prefixes": _in(str, SAES, "Matryoshka: first latents that reconstruct alone.", metavar=MANY),
    "skip": _in(bool, SAES, "Add a linear map of a transcoder's input.", "no-skip", "--skip/--no-skip"),
    "input_norm": _in(str, SAES, "none, layer_norm or constant_norm.", "none"),
    "subtract_b_dec": _in(
        bool,
        SAES,
        "Encode the input less b_dec.",
        "yes, but for transcoders",
        "--subtract-b-dec/--no-subtract-b-dec",
    ),
    "seed": _in(str, SAES, "Seed of the initial weights.", "0", metavar=MANY),
    "total_tokens": _in(int, TRAIN, "Tokens to train on; needed."),
    "batch_tokens": _in(int, TRAIN, "Tokens per optimiser step.", "2048"),
    "optimiser": _in(str, TRAIN, "adam, adam_bf16 (half the state), adam_8bit (a quarter) or signum.", "adam"),
    "lr": _in(float, TRAIN, "Peak learning rate.", "by latents and steps"),
    "adam_beta2": _in(float, TRAIN, "Share of its mean of squares that Adam keeps at a step.", "0.95"),
    "lr_schedule": _in(str, TRAIN, "linear, cosine or constant.", "linear"),
    "warmup_frac": _in(float, TRAIN, "Share of the tokens over which it rises.", "0.05"),
    "decay_frac": _in(float, TRAIN, "Share of the tokens over which it falls.", "0.2"),
    "compute_dtype": _in(str, TRAIN, "Of the encoder's product: float32 or bfloat16.", "float32"),
    "selection": _in(str, TRAIN, "topk: exact, proven or fast.", "exact"),
    "b_dec_init": _in(str, TRAIN, "mean, geometric_median or zero.", "mean"),
    "outlier_norm": _in(float, TRAIN, "Leave out tokens above this multiple of a batch's median norm."),
    "grad_clip": _in(float, TRAIN, "Largest norm of the gradient.", "0.01"),
    "auxk_weight": _in(float, LOSS, "Of the loss that revives dead latents.", "0.03125"),
    "dead_after_tokens": _in(int, LOSS, "Silent tokens after which a latent is dead.", "by the length of the run"),
    "multi_topk_weight": _in(float, LOSS, "Of the FVU with 4 k latents.", "0.0"),
    "k_start": _in(int, LOSS, "k at the beginning, falling to k.", "k itself"),
    "k_decay_frac": _in(float, LOSS, "Share of the tokens over which it falls.", "0.1"),
    "l1_weight": _in(float, LOSS, "relu: of the summed latents.", "0.05"),
    "l0_weight": _in(float, LOSS, "jumprelu: of the number of active latents.", "0.001"),
    "sparsity_warmup_frac": _in(float, LOSS, "Share of the tokens over which these rise.", "0.05"),
    "jumprelu_threshold": _in(float, LOSS, "Thresholds at the beginning.", "0.1"),
    "jumprelu_bandwidth": _in(float, LOSS, "Window in which they learn.", "0.1"),
    "out": _in(str, RUN, "The run folder; needed. The same command goes on with a run that was stopped."),
    "config": _in(Path, RUN, "TOML or JSON file with fields named like these options (or a run's run.json)."),
    "dry_run": _in(bool, RUN, "Estimate memory, time and files; write nothing.", None, "--dry-run"),
    "overwrite": _in(bool, RUN, "Remove the run in the folder and begin anew.", None, "--overwrite"),
    "save_every_steps": _in(int, RUN, "Steps between two checkpoints.", "1000"),
    "save_every_seconds": _in(float, RUN, "Seconds between two, if that comes first."),
    "keep": _in(int, RUN, "Checkpoints to keep.", "2"),
    "use_older": _in(bool, RUN, "Pass over a damaged checkpoint.", None, "--use-older"),
    "stop_after_steps": _in(int, RUN, "Save and end after so many steps."),
    "stop_after_seconds": _in(float, RUN, "Save and end after so many seconds."),
    "measure_every_steps": _in(int, RUN, "Steps between two lines of the log.", "25"),
    "tensorboard": _in(bool, RUN, "Log to TensorBoard files, too.", None, "--tensorboard"),
    "wandb": _in(str, RUN, "Project of Weights & Biases to log to, too.", metavar="PROJECT"),
    "latent_shards": _in(int, MANY_PROCESSES, "Parts that the latents are divided into.", "1", min=1),
    "timeout": _in(float, MANY_PROCESSES, "Seconds after which a silent process counts as gone.", "300.0"),
    "ranks": _in(int, MANY_PROCESSES, "With --dry-run: processes to estimate for.", "those there are", min=1),
    "as_json": _in(bool, RUN, "Print the result as JSON.", None, "--json"),
}


def takes_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command that is handed all of them by name, None where one is not given."""
    parameters = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=told, annotation=kind) for name, (kind, told) in OPTIONS.items()
    ]
    command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]  # where typer looks for them
    return command
