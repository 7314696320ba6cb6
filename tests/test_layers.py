"""Imports go one way: experiments -> steer -> saes -> torch, without cycles, and hooks are registered in one place."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("saes", "steer", "experiments")
SAES_MAY_IMPORT = {"saes", "torch", "numpy", "safetensors", "einops", "jaxtyping"}


def modules(package: str) -> dict[str, ast.Module]:
    found = {}
    for path in (ROOT / package).rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imported(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the direction"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize(
    ("package", "forbidden"), [("saes", {"steer", "experiments", "tests"}), ("steer", {"experiments", "tests"})]
)
def test_imports_point_downwards(package, forbidden):
    for module, tree in modules(package).items():
        reached = {name.split(".")[0] for name in imported(tree)}
        assert not reached & forbidden, f"{module} imports {reached & forbidden}"


def test_saes_depends_on_tensors_alone():
    for module, tree in modules("saes").items():
        outside = {name.split(".")[0] for name in imported(tree)} - SAES_MAY_IMPORT - set(sys.stdlib_module_names)
        assert not outside, f"{module} imports {outside}"


def test_no_import_cycles():
    everything = {name: tree for package in PACKAGES for name, tree in modules(package).items()}
    graph = {name: imported(tree) & everything.keys() - {name} for name, tree in everything.items()}
    graph["steer"] = set()  # resolves its public names on first use; the type checker alone sees its imports
    finished: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"cycle: {' -> '.join([*path[path.index(module) :], module])}"
        if module not in finished:
            for below in sorted(graph[module]):
                visit(below, (*path, module))
            finished.add(module)

    for module in graph:
        visit(module, ())


def test_hooks_are_registered_in_one_place():
    text = {path: path.read_text(encoding="utf-8") for path in (ROOT / "steer").rglob("*.py")}
    registering = [path.name for path, source in text.items() if "register_forward" in source]
    assert registering == ["hooks.py"]


def test_the_library_prints_nothing_and_leaves_the_environment_alone():
    for path in [*(ROOT / "saes").rglob("*.py"), *(ROOT / "steer").rglob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert "print" not in calls, path
        if "cli" not in path.parts:
            assert not any(call.startswith(("os.getenv", "os.environ", "logging.basicConfig")) for call in calls), path


@pytest.mark.parametrize("code", ["import steer", "import steer.cli.app", "import steer; dir(steer)"])
def test_starting_does_not_import_torch(code):
    check = f"{code}; import sys; assert not {{'torch', 'transformers', 'numpy'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, cwd=ROOT)


def test_public_names_exist_and_are_all_listed():
    import saes
    import steer

    for package in (saes, steer):
        assert list(package.__all__) == sorted(package.__all__, key=lambda name: (not name.isupper(), name))
        assert all(getattr(package, name) is not None for name in package.__all__)
    assert set(steer.__all__) == set(steer._WHERE)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = steer.nonsense
