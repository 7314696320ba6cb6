"""A session to try commands in: a tiny model, an SAE of random weights, and what lines show."""

from steer.explore.about_session import ABOUT_SESSION
from steer.explore.session import begun, run
from steer.explore.shown import Line, Said, Strip, Table


class Typed:
    """A session that lines are typed into."""

    def __init__(self, bench):
        self.bench, self.session, self.shown = bench, begun(bench), ()

    def __call__(self, *lines):
        for line in lines:
            self.session, self.shown = run(self.session, line, self.bench, ABOUT_SESSION)
        return self.shown

    @property
    def state(self):
        return self.session.state

    @property
    def lines(self):
        return [one.text for one in self.shown if isinstance(one, Line)]

    @property
    def said(self):
        return [one for one in self.shown if isinstance(one, Said)]

    @property
    def tables(self):
        return [one for one in self.shown if isinstance(one, Table)]

    @property
    def strips(self):
        return [one for one in self.shown if isinstance(one, Strip)]

    @property
    def replies(self):
        return [list(ids) for ids in self.session.steps[-1].replies]
