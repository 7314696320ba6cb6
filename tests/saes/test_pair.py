"""The two files of an SAE belong together."""

import os
import shutil

import pytest
from safetensors.torch import load_file, save_file

import saes
from tests.conftest import random_sae


def test_a_kill_between_the_two_renames_is_noticed(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    saes.save(random_sae(k=6), old)
    saes.save(random_sae(k=7), new)
    shutil.copy(new / "sae.safetensors", old)
    with pytest.raises(saes.FormatError, match=r"not written together with config\.json"):
        saes.load(old)
    assert saes.load(new).config.k == 7


def test_weights_of_an_earlier_release_are_read(tmp_path):
    saes.save(random_sae(), tmp_path)
    weights = tmp_path / "sae.safetensors"
    save_file(load_file(weights), weights)
    assert saes.load(tmp_path).config == random_sae().config


def test_both_files_can_be_read_by_whom_the_umask_allows(tmp_path):
    mask = os.umask(0o022)
    try:
        saes.save(random_sae(), tmp_path)
    finally:
        os.umask(mask)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o644}
