"""Cells measured on a Ray cluster: workers that keep one model each, and jobs that outlive a worker."""

import os
import socket
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

PATIENCE_S = 10.0  # seconds for a cluster's first answer
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
    processes: list[int] = field(init=False, default_factory=list)
    """Ids of the processes of the workers that have loaded their model."""
    lost: int = field(init=False, default=0)
    """How many workers died."""
    _pool: "_Pool | None" = field(init=False, default=None)

    def __post_init__(self) -> None:
        _ray()

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Connected to the cluster while the block runs; its workers end with it.

        Raises:
            SteerError: the cluster does not answer.
        """
        with _cluster(_ray(), self.address, self.workers):
            try:
                yield
            finally:
                if self._pool is not None:
                    self._pool.end()
                self._pool = None

    def run(self, bench: Bench, jobs: Sequence[Job], on_done: OnDone) -> Iterator[Measured]:
        """Each job with its results, in the order in which they are done. Workers are kept for the next call.

        Raises:
            SteerError: workers are lost again and again, or what a job raised.
        """
        if self._pool is None:
            self._pool = _Pool(_ray(), bench, self)
        yield from self._pool.run(jobs, on_done)


class _Pool:
    """The workers of a sweep."""

    def __init__(self, ray: ModuleType, bench: Bench, engine: Ray) -> None:
        self._ray = ray
        self._engine = engine
        self._parts = ray.put(_parts(bench))
        there = ray.cluster_resources()
        gpus = int(there.get("GPU", 0))
        self._most = engine.workers or gpus or int(there.get("CPU", 1))
        self._kind = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0, max_restarts=0)(Worker)
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, Job | None]] = {}
        """What is running: its worker, and its job, or None while it loads its model."""

    def run(self, jobs: Sequence[Job], on_done: OnDone) -> Iterator[Measured]:
        waiting, losses, left = list(reversed(jobs)), Counter[int](), len(jobs)
        while self._idle and waiting:
            self._give(self._idle.pop(), waiting.pop())
        while len(self._busy) + len(self._idle) < min(self._most, len(jobs)):
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
            else:
                self._idle.append(worker)
            if job is None:
                self._engine.processes.append(found)
            else:
                left -= 1
                on_done(job.replies)
                yield job, found

    def end(self) -> None:
        """End the workers, whatever they do."""
        for worker in [*self._idle, *(worker for worker, _ in self._busy.values())]:
            self._ray.kill(worker)

    def _start(self) -> None:
        worker = self._kind.remote(self._parts)
        self._busy[worker.load.remote()] = worker, None

    def _give(self, worker: Any, job: Job) -> None:
        self._busy[worker.measure.remote(job)] = worker, job


@contextmanager
def _cluster(ray: ModuleType, address: str | None, workers: int | None) -> Iterator[None]:
    """A cluster to work on: the one that this process is connected to, or one to connect to or start for the block."""
    if address is not None:
        _check_reachable(address)
    if ray.is_initialized():
        yield
        return
    here = {"num_cpus": workers, "include_dashboard": False}
    try:
        ray.init(**(here if address is None else {"address": address}), log_to_driver=False, logging_level="ERROR")
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise SteerError(f"The Ray cluster at {address or 'this machine'} does not answer ({_line(error)}).") from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise SteerError where nothing listens at a host and port: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), PATIENCE_S).close()
        except (OSError, OverflowError) as error:
            raise SteerError(f"No Ray cluster answers at {address} ({error}). Check the address.") from error


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
