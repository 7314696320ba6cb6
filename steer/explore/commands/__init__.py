"""The commands, each a file or with its like."""

from steer.explore.command import Command
from steer.explore.commands.ask import ASK, MORE
from steer.explore.commands.clamp import CLAMP, PLAN, UNCLAMP
from steer.explore.commands.diff import DIFF
from steer.explore.commands.prompt import PROMPT
from steer.explore.commands.search import CONTRAST, SEARCH
from steer.explore.commands.settings import SET, STATE, SYSTEM
from steer.explore.commands.show import SHOW

COMMANDS: dict[str, Command] = {
    one.name: one for one in (PROMPT, ASK, MORE, CLAMP, UNCLAMP, PLAN, DIFF, SHOW, SEARCH, CONTRAST, SYSTEM, SET, STATE)
}
"""By name. What is typed without a command is a prompt."""
