"""A small study on a tiny model of random weights, all in a folder; and what a sweep of it leaves, killed or not."""

import json
import os
import signal

import torch

import saes
from steer.files import read_lines
from steer.models.load import load_model
from steer.models.model import LanguageModel
from steer.sweeps.engines import Local
from steer.sweeps.read import parse_study
from steer.sweeps.sweep import run_sweep
from steer.tuning.adapter import Adapter, lora_config
from steer.tuning.adapter_files import save_adapter
from tests.conftest import random_sae, tiny_model

HERE = Local(1)
ROWS = 6 + 4 + 3  # prompts of the three tasks
REFUSALS = ["hello there", "x", "a rather longer prompt, to be padded for", "why?", "how?", "tell me"]


def samples(name, prompts, kind="refusal", **expect):
    return [
        {
            "id": f"{name}-{number}",
            "set": name,
            "messages": [{"role": "user", "content": text}],
            "expect": {"kind": kind, **expect},
        }
        for number, text in enumerate(prompts)
    ]


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_study_folder(folder):
    """A folder with a model, an SAE and three files of prompts."""
    lm = tiny_model("llama")
    lm.model.save_pretrained(folder / "model")
    lm.tokenizer.save_pretrained(folder / "model")
    saes.save(random_sae(), folder / "sae")
    write_lines(folder / "bad.jsonl", samples("bad", REFUSALS))
    write_lines(folder / "good.jsonl", samples("good", [text.upper() for text in REFUSALS[:4]]))
    choices = {"choices": ["a", "b", "cd"], "answer": 1}
    write_lines(folder / "choice.jsonl", samples("choice", REFUSALS[:3], "choice", **choices))
    return folder


def study_of(folder, **fields):
    """A study of one latent at two strengths on the three files; ``fields`` take the place of some of its own."""
    given = {
        "model": str(folder / "model"),
        "sae": str(folder / "sae"),
        "strengths": [4.0, 14.0],
        "tasks": [
            {"file": str(folder / "bad.jsonl"), "better": "higher"},
            {"file": str(folder / "good.jsonl"), "better": "lower"},
            str(folder / "choice.jsonl"),
        ],
        "max_new_tokens": 8,
        "harmful": str(folder / "bad.jsonl"),
        "harmless": str(folder / "good.jsonl"),
        "controls": False,
        "arm": [{"latents": [3]}],
        **fields,
    }
    return parse_study({name: value for name, value in given.items() if value is not None})


def cells(out):
    """The heads and rows of all cells, by arm, strength, task and seed."""
    found = {}
    for path in (out / "cells").glob("*.jsonl"):
        head, *rows = read_lines(path)
        found[head["arm"], head["strength"], head["task"], head["seed"]] = head, rows
    return found


def contents(out):
    """The bytes of all files of cells, by name."""
    return {path.name: path.read_bytes() for path in (out / "cells").iterdir()}


class Counted:
    """How many replies a model has made, and choices it has scored, since the count began."""

    def __init__(self, monkeypatch):
        self.rows = 0
        for name in ("generate_ids", "choice_logprobs"):
            monkeypatch.setattr(LanguageModel, name, self._counting(getattr(LanguageModel, name)))

    def _counting(self, method):
        def counted(lm, prompts, second=None, copies=1, **more):
            self.rows += len(prompts) * copies
            return method(lm, prompts, second, copies, **more)

        return counted


def make_adapter(folder, model=None, run="run", seed=1):
    """A run folder of ``steer tune`` with an adapter of the study's model that changes what it says."""
    lm = load_model(model or folder / "model")
    adapter = Adapter(lm, lora_config(lm, 2, 4.0, 0.0, ()))
    draw = torch.Generator().manual_seed(seed)
    for parameter in adapter.parameters().values():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=draw)
    path = folder / run / "adapter"
    path.mkdir(parents=True, exist_ok=True)
    save_adapter(adapter, path)
    return path.parent


def killed(study, out, at, moment):
    """Run a sweep in a fork that kills itself when the cell number ``at`` is written: before it is, or after."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    done = 0

    def die(*_):
        nonlocal done
        done += 1
        if done == at:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        replace = os.replace
        if moment == "before":  # the new file lies beside the place where it belongs

            def replaced(source, target):
                if "cells" in str(target):
                    die()
                replace(source, target)

            os.replace = replaced
            run_sweep(study, out, HERE)
        else:
            run_sweep(study, out, HERE, on_cell=die)
    finally:
        os._exit(99)
