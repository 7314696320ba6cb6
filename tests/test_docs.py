"""What the README and the docs say is run: Python examples as they stand, commands and options against the program."""

import re
import shlex
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import saes
from steer.cli.commands import app
from tests.conftest import random_sae

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python_examples_run(page, tmp_path, monkeypatch, capsys, embedded):
    """All blocks of a page, one after another, in a folder where `make demo` has left an SAE."""
    saes.save(random_sae(d_in=embedded.d_model, d_sae=1024, k=16), tmp_path / "runs" / "demo" / "sae")
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(blocks(page, "python")), str(page), "exec"), {})
    assert capsys.readouterr().out.strip()


def verbs(group, above=()):
    """Every command below a group, by the words that call it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from verbs(command, (*above, name))
        else:
            yield (*above, name), command


def test_every_command_and_option_in_the_docs_exists_and_every_command_is_documented():
    import typer

    commands = dict(verbs(typer.main.get_command(app)))
    named = set()
    for page in PAGES:
        for line in "\n".join(blocks(page, "sh")).splitlines():
            words = shlex.split(line, comments=True)
            if not words or words[0] != "steer":
                continue
            name = next(name for name in commands if tuple(words[1 : 1 + len(name)]) == name)
            named.add(name)
            options = {word for one in commands[name].params for word in (*one.opts, *one.secondary_opts)}
            used = {word.split("=")[0] for word in words[2:] if word.startswith("--")}
            assert used <= options, f"{page.name}: {line}"
    assert named == set(commands)


@pytest.mark.parametrize(("name", "page"), [("demo", "demo.md"), ("train", "training.md"), ("tune", "tuning.md")])
def test_every_option_of_a_long_command_is_in_its_page(name, page):
    import typer

    page = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for parameter in typer.main.get_command(app).commands[name].params:
        assert any(f"`{option}" in page for option in parameter.opts), parameter.opts


def test_links_between_pages_lead_somewhere():
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} -> {target}"


def test_constraints_pin_what_pyproject_asks_for():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = project["dependencies"] + project["optional-dependencies"]["dev"]
    pins = [line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    pinned = {canonicalize_name(name): version for name, version in pins}
    for requirement in map(Requirement, asked):
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement
    assert pinned["torch"] == "2.13.0"
