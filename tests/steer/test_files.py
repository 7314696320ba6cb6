"""Files and output folders: nothing foreign is touched, and whatever the system refuses is an error of ours."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from steer.errors import DataError, OutputError
from steer.files import LOCK, append_lines, check_output, claimed, clear_output, read_lines, remove, write_bytes
from steer.studies.record import OWNED


def fill(folder: Path, names=OWNED):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("old")


def test_clearing_removes_linked_folders_as_links(tmp_path):
    """The content of what a link leads to is not ours."""
    mine, out = tmp_path / "mine", tmp_path / "out"
    fill(mine)
    out.mkdir()
    for name in ("sae", "figures"):
        (out / name).symlink_to(mine / name)
    (out / "results.json").symlink_to(mine / "results.json")
    before = sorted(mine.rglob("*"))
    check_output(out, True, OWNED)
    clear_output(out, OWNED)
    assert list(out.iterdir()) == []
    assert sorted(mine.rglob("*")) == before


def test_clearing_removes_what_a_killed_run_left_half_written(tmp_path):
    left = [".results.json.4711", "sae/.sae.safetensors.12", "figures/.tradeoff.png.99", "sae/.config.json.7"]
    mine = [".results.json.bak", "sae/.other.12", "figures/.tradeoff.png"]
    fill(tmp_path, [*OWNED, *left, *mine])
    clear_output(tmp_path, OWNED)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == sorted(mine)


HOLD = """
import sys, time
from pathlib import Path
from steer.files import claimed
with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_run_at_a_time_writes_to_a_folder(tmp_path):
    out = tmp_path / "out"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(OutputError, match="Another run is writing"), claimed(out):
            pass
        with pytest.raises(OutputError, match="Another run is writing"):
            check_output(out, True, OWNED)
    finally:
        holder.kill()  # as a crash would end it: the claim ends with the process
        holder.communicate()
    check_output(out, True, OWNED)
    with claimed(out):
        assert (out / LOCK).exists()
    assert list(out.iterdir()) == []


def test_a_lock_that_a_killed_run_has_left_hinders_nobody(tmp_path):
    (tmp_path / LOCK).touch()
    check_output(tmp_path, False, OWNED)  # the folder counts as empty
    with claimed(tmp_path), pytest.raises(OutputError, match="Another run is writing"):
        check_output(tmp_path, False, OWNED)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_through_a_link_may_be_written_to(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to("real")
    check_output(tmp_path / "out", False, OWNED)
    clear_output(tmp_path / "out", OWNED)
    assert (tmp_path / "out").is_symlink()


PLACES = {
    "a file": "file",
    "below a file": "file/out",
    "a loop": "loop",
    "below a loop": "loop/out",
    "a dead link": "dangling",
    "a long name": "x" * 300,
    "a long name below a new folder": "new/" + "x" * 300,
    "a long path": "/".join(["x" * 200] * 25),
}


@pytest.mark.parametrize("place", PLACES)
def test_places_that_cannot_be_written_to_are_refused_and_left_alone(tmp_path, place):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("absent")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError):
        check_output(tmp_path / PLACES[place], True, OWNED)
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(OutputError):
        write_bytes(tmp_path / PLACES[place] / "results.json", b"x")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("results.json/x", "results.json is a folder where a file is needed"),
        ("figures/tradeoff.png/x", "tradeoff.png is a folder where a file is needed"),
        ("sae", "sae is a file where a folder is needed"),
        ("figures", "figures is a file where a folder is needed"),
    ],
)
def test_a_file_for_a_folder_and_the_other_way_round_are_refused(tmp_path, name, words):
    fill(tmp_path, [name])
    with pytest.raises(OutputError, match=words):
        check_output(tmp_path, True, OWNED)
    assert (tmp_path / name).read_text() == "old"


def test_a_parent_that_cannot_be_looked_into_is_refused(tmp_path, monkeypatch):
    def forbidden(path, **_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", forbidden)
    with pytest.raises(OutputError, match="Permission denied"):
        check_output(tmp_path / "closed" / "out", False)


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    fill(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, _: Path(path).name != "sae")
    with pytest.raises(OutputError, match=r"No permission to write to .*sae"):
        check_output(tmp_path, True, OWNED)


def test_a_full_disk_is_an_output_error_and_the_old_file_stays(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    path.write_text("old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"results\.json cannot be written: No space left on device"):
        write_bytes(path, b"new")
    with pytest.raises(OutputError, match="No space left"):
        append_lines(tmp_path / "completions.jsonl", [{"a": 1}])
    assert path.read_text() == "old"
    assert not list(tmp_path.glob(".*"))


def test_what_is_no_file_is_not_replaced_by_one(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OutputError, match="device or a pipe"):
        write_bytes(pipe, b"data")
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_removing_a_folder_is_refused(tmp_path):
    with pytest.raises(OutputError):
        remove(tmp_path)


def test_lines_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        list(read_lines(tmp_path))
    with pytest.raises(DataError, match="cannot be read"):
        list(read_lines(tmp_path / "absent"))
    assert list(read_lines(tmp_path / "absent", missing_ok=True)) == []
    (tmp_path / "deep").write_text("[" * 100_000 + "\n{}\n")
    with pytest.raises(DataError, match="line 1: not JSON"):
        list(read_lines(tmp_path / "deep"))
