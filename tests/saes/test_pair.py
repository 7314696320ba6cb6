"""The two files of an SAE belong together."""

import hashlib
import json
import os
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import saes
from saes.distributed.reshard import write_whole
from saes.formats import native
from tests.conftest import random_sae
from tests.saes.test_sae import edit_config


def test_a_kill_between_the_two_renames_is_noticed(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    saes.save(random_sae(k=6), old)
    saes.save(random_sae(k=7), new)
    shutil.copy(new / "sae.safetensors", old)
    with pytest.raises(saes.FormatError, match=r"not written together with config\.json"):
        saes.load(old)
    assert saes.load(new).config.k == 7


def drop_digest(folder):
    path = folder / "config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "weights_sha256"}))


def test_weights_of_an_earlier_release_are_read(tmp_path):
    saes.save(random_sae(), tmp_path)
    weights = tmp_path / "sae.safetensors"
    save_file(load_file(weights), weights)
    drop_digest(tmp_path)
    assert saes.load(tmp_path).config == random_sae().config


def test_both_files_can_be_read_by_whom_the_umask_allows(tmp_path):
    mask = os.umask(0o022)
    try:
        saes.save(random_sae(), tmp_path)
    finally:
        os.umask(mask)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o644}


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_altered_weights_are_refused_by_name(tmp_path):
    saes.save(random_sae(), tmp_path)
    weights = tmp_path / "sae.safetensors"
    told = json.loads((tmp_path / "config.json").read_text())["weights_sha256"]
    assert told == hashlib.sha256(weights.read_bytes()).hexdigest()
    for at in (-1, weights.stat().st_size // 2):  # the lowest bits of two numbers
        flip(weights, at)
        with pytest.raises(saes.FormatError, match="has been altered, or saving it was cut short") as caught:
            saes.load(tmp_path)
        assert str(weights) in str(caught.value)
        flip(weights, at)
    assert saes.load(tmp_path).config == random_sae().config


def test_an_altered_config_is_refused(tmp_path):
    saes.save(random_sae(k=6), tmp_path)
    edit_config(tmp_path, k=7)
    with pytest.raises(saes.FormatError, match=r"not written together with config\.json"):
        saes.load(tmp_path)


def test_folders_without_a_digest_are_read(tmp_path):
    saes.save(random_sae(), tmp_path)
    weights = tmp_path / "sae.safetensors"
    with safe_open(weights, framework="pt") as file:
        (tmp_path / "config.json").write_text(file.metadata()["config.json"])  # as version 2 had it
    assert saes.load(tmp_path).config == random_sae().config
    flip(weights, -5)
    read, saved = saes.load(tmp_path).state_dict(), random_sae().state_dict()
    assert not all(torch.equal(tensor, saved[name]) for name, tensor in read.items()), "nothing tells"


def test_a_run_of_many_processes_writes_the_digest_of_the_whole(tmp_path):
    sae = random_sae(d_sae=96)
    shards = [_shard(sae, tmp_path, part, 2) for part in range(2)]
    write_whole(shards, tmp_path / "whole")
    again = saes.load(tmp_path / "whole")
    assert all(torch.equal(tensor, sae.state_dict()[name]) for name, tensor in again.state_dict().items())
    flip(tmp_path / "whole" / "sae.safetensors", -1)
    with pytest.raises(saes.FormatError, match="has been altered"):
        saes.load(tmp_path / "whole")


def test_writing_a_whole_sae_again_leaves_alone_what_is_not_its_own(tmp_path):
    sae = random_sae(d_sae=96)
    shards, whole = [_shard(sae, tmp_path, part, 2) for part in range(2)], tmp_path / "whole"
    write_whole(shards, whole)
    (whole / "README.md").write_text("a card")
    (whole / ".sae.safetensors.4711").write_text("of a killed program")
    before = (whole / "sae.safetensors").stat()
    write_whole(shards, whole)
    after = (whole / "sae.safetensors").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns), "the same weights stay"
    assert sorted(path.name for path in whole.iterdir()) == ["README.md", "config.json", "sae.safetensors"]
    flip(whole / "sae.safetensors", -1)
    write_whole(shards, whole)
    assert torch.equal(saes.load(whole).W_dec, sae.W_dec)


def test_a_whole_sae_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    old, new = random_sae(d_sae=96), random_sae(d_sae=96)
    new.W_dec.data.neg_()
    write_whole([_shard(old, tmp_path, part, 2) for part in range(2)], tmp_path / "whole")
    shards = [_shard(new, tmp_path, part, 2) for part in range(2)]

    def full(path):
        raise OSError("no space")

    monkeypatch.setattr("saes.distributed.reshard.to_disk", full)
    with pytest.raises(saes.FormatError, match="no space"):
        write_whole(shards, tmp_path / "whole")
    assert torch.equal(saes.load(tmp_path / "whole").W_dec, old.W_dec)
    assert len(list((tmp_path / "whole").iterdir())) == 2


def _shard(sae, folder, part, parts):
    """As a checkpoint of several processes holds it."""
    width = sae.config.d_sae // parts
    held = slice(part * width, (part + 1) * width)
    weights = dict(sae.state_dict()) | {"W_dec": sae.W_dec[held], "W_enc": sae.W_enc[:, held], "b_enc": sae.b_enc[held]}
    files = native.contents(sae.config, weights, whole=False)
    (folder / native.CONFIG).write_bytes(files[native.CONFIG])
    (folder / f"sae-{part}-of-{parts}.safetensors").write_bytes(files[native.WEIGHTS])
    return folder / f"sae-{part}-of-{parts}.safetensors"
