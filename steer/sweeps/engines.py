"""Who measures the cells: this machine's processes, or the workers of a cluster. Both do the same with the same."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from steer.evals.runner import Result
from steer.forks import forked_as_done
from steer.sweeps.bench import Bench
from steer.sweeps.measure import Job, OnDone, measure
from steer.threads import processes_for

Measured = tuple[Job, list[list[Result]]]


@runtime_checkable
class Engine(Protocol):
    """Measures jobs side by side."""

    def opened(self) -> AbstractContextManager[None]:
        """What ``run`` needs is there while the block runs: seen to before anything is loaded.

        Raises:
            SteerError: it is not to be had.
        """
        ...

    def run(self, bench: Bench, jobs: Sequence[Job], on_done: OnDone) -> Iterator[Measured]:
        """Each job with what ``measure`` gives for it, as soon as it is done; ``on_done`` counts replies."""
        ...


@dataclass(frozen=True)
class Local:
    """Forked processes of this machine, which share the model; with one, this process itself."""

    processes: int | None = None
    """None: one for each CPU for a small model on a CPU, else one."""

    def opened(self) -> AbstractContextManager[None]:
        """Nothing is needed."""
        return nullcontext()

    def run(self, bench: Bench, jobs: Sequence[Job], on_done: OnDone) -> Iterator[Measured]:
        """Each job with its results, in the order in which they are done."""
        processes = min(processes_for(bench.lm.model, self.processes), len(jobs))
        if processes <= 1:
            for job in jobs:
                yield job, measure(bench, job, on_done)
            return
        work: Callable[[Job], list[list[Result]]] = lambda job: measure(bench, job)  # noqa: E731  # typed so
        with closing(forked_as_done(work, jobs, processes)) as done:
            for place, results in done:
                on_done(jobs[place].replies)
                yield jobs[place], results
