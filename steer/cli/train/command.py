"""``steer train``: SAEs from text, in one command."""

import os
from typing import Any

import typer

from steer.cli.interrupts import INTERRUPTED, importing
from steer.cli.train import options as o


def train(
    model: o.Model = None,
    revision: o.Revision = None,
    device: o.Device = None,
    dtype: o.Dtype = None,
    threads: o.Threads = None,
    offline: o.Offline = None,
    site: o.Site = None,
    site_out: o.SiteOut = None,
    text: o.Text = None,
    dataset: o.Dataset = None,
    subset: o.Subset = None,
    split: o.Split = None,
    dataset_revision: o.DatasetRevision = None,
    shards: o.Shards = None,
    text_column: o.TextColumn = None,
    messages_column: o.MessagesColumn = None,
    repeat: o.Repeat = None,
    form: o.Form = None,
    context_size: o.ContextSize = None,
    roles: o.Roles = None,
    exclude_first: o.ExcludeFirst = None,
    exclude_special: o.ExcludeSpecial = None,
    exclude_ids: o.ExcludeIds = None,
    max_norm_ratio: o.MaxNormRatio = None,
    ring_tokens: o.RingTokens = None,
    ring_device: o.RingDevice = None,
    ahead: o.Ahead = None,
    forward_tokens: o.ForwardTokens = None,
    shuffle_seed: o.ShuffleSeed = None,
    d_sae: o.DSae = None,
    k: o.K = None,
    activation: o.Activation = None,
    prefixes: o.Prefixes = None,
    skip: o.Skip = None,
    input_norm: o.InputNorm = None,
    subtract_b_dec: o.SubtractBDec = None,
    seed: o.Seed = None,
    total_tokens: o.TotalTokens = None,
    batch_tokens: o.BatchTokens = None,
    optimiser: o.Optimiser = None,
    lr: o.Lr = None,
    lr_schedule: o.LrSchedule = None,
    warmup_frac: o.WarmupFrac = None,
    decay_frac: o.DecayFrac = None,
    adam_beta2: o.AdamBeta2 = None,
    compute_dtype: o.ComputeDtype = None,
    selection: o.Selection = None,
    b_dec_init: o.BDecInit = None,
    outlier_norm: o.OutlierNorm = None,
    grad_clip: o.GradClip = None,
    auxk_weight: o.AuxkWeight = None,
    dead_after_tokens: o.DeadAfterTokens = None,
    multi_topk_weight: o.MultiTopkWeight = None,
    k_start: o.KStart = None,
    k_decay_frac: o.KDecayFrac = None,
    l1_weight: o.L1Weight = None,
    l0_weight: o.L0Weight = None,
    sparsity_warmup_frac: o.SparsityWarmupFrac = None,
    jumprelu_threshold: o.JumpreluThreshold = None,
    jumprelu_bandwidth: o.JumpreluBandwidth = None,
    out: o.Out = None,
    config: o.Config = None,
    dry_run: o.DryRun = False,
    overwrite: o.Overwrite = False,
    save_every_steps: o.SaveEverySteps = None,
    save_every_seconds: o.SaveEverySeconds = None,
    keep: o.Keep = None,
    use_older: o.UseOlder = None,
    stop_after_steps: o.StopAfterSteps = None,
    stop_after_seconds: o.StopAfterSeconds = None,
    measure_every_steps: o.MeasureEverySteps = None,
    tensorboard: o.Tensorboard = None,
    wandb: o.Wandb = None,
    as_json: o.Json = False,
    latent_shards: o.LatentShards = 1,
    timeout: o.Timeout = 300.0,
) -> None:
    """Train sparse autoencoders on the activations of a model.

    Values separated by commas in --site, --d-sae, --k and --seed train one SAE each, every combination, from one
    reading of the text. Training is kept in a run folder: stopped with Ctrl-C, or killed, the same command goes on
    exactly where it was. Started by torchrun, its processes train together, with the losses of one.
    """
    given: dict[str, Any] = {name: value for name, value in locals().items() if name not in _OWN and value is not None}
    with importing():
        from saes.distributed.world import World
        from steer.cli.console import Terminal, import_transformers
        from steer.cli.memory import keep_freed_memory
        from steer.cli.options import asked_threads
        from steer.cli.train.interrupted import Interrupts
        from steer.cli.train.settings import merged, numbers, words
        from steer.cli.train.shown import print_estimate, print_result
        from steer.progress import Silent
        from steer.training.estimate import estimate
        from steer.training.job import train as run

        import_transformers()
    given |= {name: numbers(given[name]) for name in ("d_sae", "k", "seed", "prefixes", "exclude_ids") if name in given}
    given |= {name: words(given[name]) for name in ("site", "site_out") if name in given}
    settings = merged(given, config)
    if settings.threads is None and (asked := asked_threads(None)):
        settings = settings.model_copy(update={"threads": asked})
    keep_freed_memory()
    with World.from_env(os.environ, latent_shards, timeout_s=timeout) as world:
        first = world.rank == 0
        terminal = Terminal() if first else Silent()
        if dry_run:
            if first:
                print_estimate(estimate(settings, overwrite, terminal), as_json)
            return
        with Interrupts(first) as interrupts:
            result = run(settings, overwrite, terminal, interrupts.stop, world)
    if interrupts.asked and not result.done:
        terminal.note(
            f"interrupted: {result.folder} holds a checkpoint after {result.tokens:,} of {settings.total_tokens:,} "
            "tokens. The same command goes on from there."
        )
        raise typer.Exit(INTERRUPTED)
    if first:
        print_result(result, as_json)
    if not result.done:
        terminal.note(f"stopped after {result.tokens:,} tokens, as asked. The same command goes on from there.")


_OWN = ("config", "dry_run", "overwrite", "as_json", "latent_shards", "timeout")
