"""The log of a run that somebody has cut off, removed or edited: the run goes on, and the log says so."""

import json

import pytest
import torch

import saes
from tests.saes.test_run import CONFIG, TOKENS, TRAIN, Stream, fit, lines, same


def removed(path):
    path.unlink()


def emptied(path):
    path.write_text("")


def halved(path):
    """In the midst of a line."""
    path.write_bytes(b"\n".join(path.read_bytes().split(b"\n")[:3])[:-20])


def spoilt(path):
    """One line in the midst is no JSON; the file is even longer than it was."""
    found = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*found[:2], b"\xff" * 2000, *found[3:]]))


@pytest.mark.parametrize(("damage", "kept"), [(removed, 0), (emptied, 0), (halved, 2), (spoilt, 5)])
def test_a_log_that_lacks_lines_says_so_and_the_weights_are_exact(tmp_path, damage, kept):
    whole = saes.fit(CONFIG, Stream(), TRAIN)
    fit(tmp_path, save_every_steps=3, stop_after_steps=6)
    damage(tmp_path / "log.jsonl")
    assert same(fit(tmp_path, save_every_steps=3), whole)
    found = lines(tmp_path)
    assert ["tokens" in line for line in found] == [True] * kept + [False] + [True] * 6
    assert found[kept].keys() == {"note"}
    assert f"Lines are missing above: after {TOKENS * 6} tokens the log was" in found[kept]["note"]
    assert [line["tokens"] for line in found[kept + 1 :]] == [TOKENS * step for step in range(7, 13)]
    before = (tmp_path / "log.jsonl").read_bytes()
    fit(tmp_path)
    assert (tmp_path / "log.jsonl").read_bytes() == before, "it is said once"


def test_a_kill_after_the_note_leaves_each_line_whole_and_once(tmp_path):
    """The checkpoint still tells the old length, and what was written since may be longer than that."""
    fit(tmp_path, save_every_steps=3, stop_after_steps=3)
    (tmp_path / "log.jsonl").unlink()

    class Ends(Stream):
        def __next__(self):
            if self.given == 11:
                raise KeyboardInterrupt
            return super().__next__()

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, stream=Ends(), save_every_steps=None)
    fit(tmp_path)
    found = lines(tmp_path)
    assert [line.get("tokens") for line in found] == [None, *(TOKENS * step for step in range(4, 13))]


def test_the_length_of_a_log_that_was_cut_back_is_told_right(tmp_path):
    """Lines of steps that are made again are cut off; a checkpoint before the next line knows the length."""
    train = saes.TrainConfig(TOKENS * 12, TOKENS, lr=1e-2, measure_every_steps=4)
    fit(tmp_path, train=train, save_every_steps=3, stop_after_steps=9)
    (tmp_path / "log.jsonl").open("a").write(json.dumps({"tokens": TOKENS * 20}) + "\n")
    fit(tmp_path, train=train, stop_after_steps=1)
    fit(tmp_path, train=train)
    assert [line["tokens"] for line in lines(tmp_path)] == [TOKENS * step for step in (1, 5, 9, 12)]


def test_several_saes_share_a_log(tmp_path):
    configs = [CONFIG, CONFIG]
    trains = [TRAIN, saes.TrainConfig(TOKENS * 4, TOKENS, lr=1e-2, measure_every_steps=1)]
    fit(tmp_path, configs, trains, save_every_steps=2, stop_after_steps=6)
    halved(tmp_path / "log.jsonl")
    together = fit(tmp_path, configs, trains)
    assert all(map(same, together, saes.fit(configs, Stream(), trains)))
    assert sum("note" in line for line in lines(tmp_path)) == 1
    assert torch.equal(saes.load(tmp_path / "sae-1").W_dec, together[1].W_dec)
