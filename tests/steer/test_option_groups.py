"""A dataclass of options as one parameter of a command."""

from dataclasses import dataclass, field
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from steer.cli.option_groups import with_groups


@dataclass(frozen=True)
class Drink:
    sort: Annotated[str, typer.Option(help="Tea or coffee.")] = "tea"
    sugar: Annotated[int, typer.Option("--lumps", min=0)] = 0
    sweet: bool = field(init=False)

    def __post_init__(self):
        if self.sort not in ("tea", "coffee"):
            raise typer.BadParameter(f"{self.sort} is no drink")
        object.__setattr__(self, "sweet", self.sugar > 0)


def said(*arguments):
    seen = []

    @with_groups
    def order(
        cups: Annotated[int, typer.Argument()],
        *,
        drink: Drink,
        name: Annotated[str, typer.Option()],
        hot: Annotated[bool, typer.Option("--hot")] = False,
    ) -> None:
        """Order something."""
        seen.append((cups, drink, name, hot))

    app = typer.Typer()
    app.command()(order)
    found = CliRunner().invoke(app, arguments)
    return found, seen


def test_each_field_is_an_option_and_the_command_gets_the_whole():
    found, seen = said("2", "--name", "A", "--lumps", "3", "--hot")
    assert (found.exit_code, seen) == (0, [(2, Drink(sugar=3), "A", True)])
    assert seen[0][1].sweet
    assert said("1", "--name", "A")[1] == [(1, Drink(), "A", False)]


def test_what_the_group_refuses_ends_with_code_2_and_help_tells_of_its_options():
    for arguments, told in ((("--sort", "soup"), "soup is no drink"), (("--lumps", "-1"), "--lumps")):
        found, seen = said("1", "--name", "A", *arguments)
        assert (found.exit_code, seen) == (2, [])
        assert told in found.output
    helped = said("--help")[0].output
    assert "Order something." in helped
    assert "Tea or coffee." in helped
    assert "--sweet" not in helped


def test_a_name_that_the_command_has_itself_is_refused():
    def twice(sort: str, *, drink: Drink) -> None: ...

    with pytest.raises(ValueError, match="duplicate parameter name: 'sort'"):
        with_groups(twice)
