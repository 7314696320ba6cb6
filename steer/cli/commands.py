"""The verbs of ``steer``."""

from steer.cli.compare import compare
from steer.cli.demo import demo
from steer.cli.evaluate import evaluate
from steer.cli.explore import explore
from steer.cli.find.verbs import find
from steer.cli.generate import generate
from steer.cli.index.verbs import index
from steer.cli.judge.verbs import judge
from steer.cli.options import NoEmptyOption, NothingEmpty, group
from steer.cli.plan.verbs import plan
from steer.cli.rejudge import rejudge
from steer.cli.report import report
from steer.cli.sae.verbs import sae
from steer.cli.search import search
from steer.cli.search_asked import SpacesAreTokens
from steer.cli.show import show
from steer.cli.sweep import sweep
from steer.cli.train.command import train
from steer.cli.tune import tune

app = group(
    "steer",
    "Steer language models with sparse autoencoders, and measure what it buys and what it costs.",
)
app.command(cls=NothingEmpty)(compare)
app.command()(demo)
app.command("eval", cls=NothingEmpty)(evaluate)
app.command(cls=NothingEmpty)(explore)
app.add_typer(find)
app.command(cls=NoEmptyOption)(generate)
app.add_typer(index)
app.add_typer(judge)
app.add_typer(plan)
app.command(cls=NothingEmpty)(rejudge)
app.command(cls=NothingEmpty)(report)
app.add_typer(sae)
app.command(cls=SpacesAreTokens)(search)
app.command(cls=NothingEmpty)(show)
app.command(cls=NothingEmpty)(sweep)
app.command(cls=NothingEmpty)(train)
app.command(cls=NothingEmpty)(tune)
