"""HarmBench (Mazeika et al., arXiv 2402.04249): the behaviours of its test part, standard and contextual."""

from dataclasses import replace

from steer.errors import DataError
from steer.evals.refusing import BEHAVIOUR, CONTEXT, HARMFUL, refusal_task
from steer.evals.sample import Sample, request
from steer.evals.sources import Source, rows_of
from steer.evals.tables import Row
from steer.evals.task import Task
from steer.evals.tasks.options import TaskOptions
from steer.evals.tasks.part import first_of_each
from steer.judges.harmbench import with_context
from steer.judges.verdict import Behaviour

SOURCE = Source(
    ("Behavior", "FunctionalCategory", "SemanticCategory", "ContextString", "BehaviorID"),
    "harmbench/harmbench_behaviors_text_test.csv",
)
COPYRIGHT, CONTEXTUAL = "copyright", "contextual"


def harmbench(options: TaskOptions) -> Task:
    """Contextual behaviours come with their context before them, as its authors give it, and judges that read
    behaviours (``harmbench``) get both apart.

    Behaviours about copyright are left out: whether a text was copied is no question of refusal, and has a detector of
    its own.

    Raises:
        DataError: the behaviours are not to be had, or a contextual one has no context.
    """
    samples = [
        _sample(row)
        for row in rows_of(SOURCE, "harmbench", options.data, options.offline)
        if row["FunctionalCategory"] != COPYRIGHT
    ]
    kept = first_of_each(samples, "category", options.limit)
    return refusal_task("harmbench", kept, options.judge, cluster="category")


def _sample(row: Row) -> Sample:
    behaviour = Behaviour(row["Behavior"], row["ContextString"] or "")
    if row["FunctionalCategory"] == CONTEXTUAL and not behaviour.context.strip():
        raise DataError(
            f"harmbench: the behaviour {row['BehaviorID']!r} is contextual, and its ContextString is empty. Without "
            "the text that it refers to it asks for something else; take the file as its authors publish it."
        )
    tags = {"harm": HARMFUL, "category": row["SemanticCategory"], "kind": row["FunctionalCategory"]}
    found = request(f"harmbench-{row['BehaviorID']}", "harmbench", with_context(behaviour), tags)
    if not behaviour.context:
        return found
    return replace(found, expect={BEHAVIOUR: behaviour.text, CONTEXT: behaviour.context})
