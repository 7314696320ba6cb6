"""Runs ``triton_kernels.py`` in processes of their own: interpreted, and compiled for a GPU."""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("interpret", ["1", "0"])
def test_triton_kernels(interpret, tmp_path):
    """Interpreted on a CPU, and compiled, which without a GPU is all that can be done."""
    if interpret == "1" and Version(importlib.metadata.version("triton")) < Version("3.7"):
        pytest.skip("the interpreter of Triton before 3.7 does not run with numpy 2.4")
    environment = {**os.environ, "TRITON_INTERPRET": interpret, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("PYTEST_ADDOPTS", None)
    tests = str(Path(__file__).with_name("triton_kernels.py"))
    command = [sys.executable, "-m", "pytest", "--noconftest", "-p", "no:cacheprovider", "-rs", tests]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
