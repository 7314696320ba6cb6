"""Cells measured on a Ray cluster: workers that keep one model each, and jobs that outlive a worker."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from types import ModuleType
from typing import Any

import torch

from steer.errors import DataError, MissingExtra, SteerError
from steer.evals.runner import Result
from steer.models.load import EMBEDDED
from steer.progress import Silent
from steer.sweeps.bench import Bench, load_for
from steer.sweeps.digests import of_model
from steer.sweeps.engines import Measured
from steer.sweeps.measure import Job, OnDone, measure
from steer.threads import torch_threads

LOSSES = 3  # workers that may be lost with the same job before it is the job that is blamed


class Worker:
    """What runs on a worker: a model, loaded once, and the jobs that it is given."""

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self._parts = parts
        self._bench: Bench | None = None

    def load(self) -> int:
        """Load the model, and return the id of the process.

        Raises:
            DataError: it is another than the one that the study was begun with.
        """
        lm = load_for(self._parts["study"], Silent())
        expected = self._parts["identity"]
        got = {"model": of_model(lm), "dtype": str(next(lm.model.parameters()).dtype)}
        if strange := [name for name, value in got.items() if value != expected[name]]:
            raise DataError(
                f"A worker has loaded another model than the study was begun with: its {strange[0]} is "
                f"{got[strange[0]]}, expected {expected[strange[0]]}. Have the same files on every machine, and give "
                "the study a dtype."
            )
        sae = self._parts["sae"]
        arms = {name: arm.bound(lm) for name, arm in self._parts["arms"].items()}
        made = {"lm": lm, "sae": None if sae is None else sae.on(lm.device), "arms": arms}
        self._bench = Bench(**{**self._parts, **made})
        return os.getpid()

    def measure(self, job: Job) -> list[list[Result]]:
        """See ``steer.sweeps.measure``."""
        assert self._bench is not None, "it is loaded first"
        with torch_threads(self._bench.lm.model):
            return measure(self._bench, job)


@dataclass
class Ray:
    """Workers of a Ray cluster, each with a model of its own. A lost worker is replaced and its job given to another.

    Raises:
        MissingExtra: Ray is not installed.
    """

    address: str | None = None
    """Of the cluster, such as ``auto`` or ``ray://host:10001``; None: one is started on this machine."""
    workers: int | None = None
    """None: one for each GPU of the cluster, or for each CPU where it has none."""
    processes: list[int] = field(default_factory=list)
    """Ids of the processes of the workers that have loaded their model."""
    lost: int = 0
    """How many workers died."""

    def __post_init__(self) -> None:
        _ray()

    def run(self, bench: Bench, jobs: Sequence[Job], on_done: OnDone) -> Iterator[Measured]:
        """Each job with its results, in the order in which they are done.

        Raises:
            SteerError: workers are lost again and again, or what a job raised.
        """
        ray = _ray()
        with _cluster(ray, self.address, self.workers):
            yield from _Pool(ray, bench, self, self._size(ray, len(jobs))).run(jobs, on_done)

    def _size(self, ray: ModuleType, jobs: int) -> int:
        there = ray.cluster_resources()
        return max(1, min(self.workers or int(there.get("GPU", 0) or there.get("CPU", 1)), jobs))


class _Pool:
    """The workers of one run."""

    def __init__(self, ray: ModuleType, bench: Bench, engine: Ray, size: int) -> None:
        self._ray = ray
        self._engine = engine
        self._size = size
        self._parts = ray.put(_parts(bench))
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        self._kind = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0)(Worker)
        self._busy: dict[Any, tuple[Any, Job | None]] = {}
        """What is running: its worker, and its job, or None while it loads its model."""

    def run(self, jobs: Sequence[Job], on_done: OnDone) -> Iterator[Measured]:
        waiting, losses, left = list(reversed(jobs)), Counter[int](), len(jobs)
        for _ in range(self._size):
            self._start()
        while left:
            done = self._ray.wait(list(self._busy), num_returns=1)[0][0]
            worker, job = self._busy.pop(done)
            try:
                found = self._ray.get(done)
            except self._ray.exceptions.RayTaskError as error:
                raise _raised(error) from None
            except self._ray.exceptions.RayActorError as error:
                self._engine.lost += 1
                losses[id(job)] += 1
                if losses[id(job)] == LOSSES:
                    what = "while they loaded the model" if job is None else f"at {job.cells[0].key[:3]}"
                    raise SteerError(
                        f"{LOSSES} workers were lost {what} ({_line(error)}). Often memory ran out: run fewer "
                        "workers, or lower batch_rows. What is finished is kept."
                    ) from None
                if job is not None:
                    waiting.append(job)
                self._start()
                continue
            if waiting:  # first of all, so that the worker does not wait for what is done with its results
                self._give(worker, waiting.pop())
            if job is None:
                self._engine.processes.append(found)
            else:
                left -= 1
                on_done(job.replies)
                yield job, found

    def _start(self) -> None:
        worker = self._kind.remote(self._parts)
        self._busy[worker.load.remote()] = worker, None

    def _give(self, worker: Any, job: Job) -> None:
        self._busy[worker.measure.remote(job)] = worker, job


@contextmanager
def _cluster(ray: ModuleType, address: str | None, workers: int | None) -> Iterator[None]:
    """A cluster to work on: one that is there, the caller's, or one that is started for the block."""
    if ray.is_initialized():
        yield
        return
    try:
        here = {"num_cpus": workers, "include_dashboard": False}
        ray.init(**(here if address is None else {"address": address}), log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        raise SteerError(f"The Ray cluster at {address or 'this machine'} does not answer ({_line(error)}).") from error
    try:
        yield
    finally:
        ray.shutdown()


def _parts(bench: Bench) -> dict[str, Any]:
    """A bench without its model, as workers get it: paths from the root, since they work in other folders."""
    model = bench.study.model
    folder = os.path.abspath(model) if model != EMBEDDED and os.path.isdir(model) else model
    parts = {one.name: getattr(bench, one.name) for one in fields(bench) if one.name != "lm"}
    sae = None if bench.sae is None else bench.sae.on(torch.device("cpu"))
    arms = {name: arm.bound(None) for name, arm in bench.arms.items()}
    return {**parts, "study": bench.study.model_copy(update={"model": folder}), "sae": sae, "arms": arms}


def _raised(error: Any) -> Exception:
    """What was raised on a worker: ours as it was, anything else as Ray tells it."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, SteerError) else error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _ray() -> ModuleType:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise MissingExtra("The engine 'ray' needs the package ray: pip install 'saesteer[ray]'.") from error
    found: ModuleType = ray
    return found
