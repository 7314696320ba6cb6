"""Sources of text: every kind gives the same documents, again and again, and from any position."""

import gzip
import json
import sys

import pytest

from steer.activations.sources.hub import HubSource
from steer.activations.sources.local import FileSource
from steer.activations.sources.opened import open_source
from steer.activations.sources.source import Columns, Source
from steer.errors import DataError
from tests.steer.activation_data import KINDS, conversations, source_of, texts, write_lines, write_parquet


@pytest.mark.parametrize("kind", KINDS)
def test_documents_come_in_order_again_and_from_every_position(kind, tmp_path):
    source = source_of(kind, tmp_path)
    assert isinstance(source, Source)
    found = list(source.documents())
    assert [document.strip() for document, _ in found] == [text.strip() for text in texts()]
    assert list(source.documents()) == found
    for number in (0, 1, 12, 13, 14, 38, 39):  # also beside a border of files and of row groups
        position = json.loads(json.dumps(found[number][1]))
        assert [document for document, _ in source.documents(position)] == [d for d, _ in found[number + 1 :]]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "txt"])
def test_conversations_are_documents_too(kind, tmp_path):
    found = [document for document, _ in source_of(kind, tmp_path, "chat", 30).documents()]
    assert found == conversations(30)


@pytest.mark.parametrize("kind", KINDS)
def test_the_digest_tells_texts_apart_and_not_places(kind, tmp_path):
    for name in ("here", "there", "other"):
        (tmp_path / name).mkdir()
    digest = source_of(kind, tmp_path / "here").digest()
    assert source_of(kind, tmp_path / "there").digest() == digest
    assert source_of(kind, tmp_path / "other", count=39).digest() != digest


def test_columns_may_be_chosen_and_a_conversation_goes_before_a_text(tmp_path):
    turns = [{"role": "user", "content": "hello"}]
    write_lines(tmp_path / "a.jsonl", [{"text": "t", "body": "b", "messages": turns, "chat": None}])

    def read(**columns):
        return [document for document, _ in open_source(tmp_path / "a.jsonl", Columns(**columns)).documents()]

    assert read() == [turns]
    assert read(text="body", messages=None) == ["b"]
    assert read(messages="chat") == ["t"], "a null is no document"


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "hub"])
def test_a_source_without_a_usable_column_names_those_it_has_and_the_setting(kind, tmp_path):
    source = source_of(kind, tmp_path)
    other = type(source)(**{**vars(source), "columns": Columns(text="body")})
    with pytest.raises(DataError, match=r"expected a column 'messages' or 'body', got 'number', 'text'.*Columns"):
        next(other.documents())


def test_a_row_of_another_kind_is_named(tmp_path):
    write_lines(tmp_path / "a.jsonl", [{"text": "good"}, {"text": 5}])
    with pytest.raises(DataError, match=r"a\.jsonl, line 2: expected a text in column 'text', got int 5"):
        list(open_source(tmp_path / "a.jsonl").documents())
    write_parquet(tmp_path / "a.parquet", [{"messages": [{"role": "user", "content": "x"}]}] * 9 + [{"messages": [{}]}])
    with pytest.raises(DataError, match=r"a\.parquet, row 10: A message needs a role"):
        list(open_source(tmp_path / "a.parquet").documents())
    write_lines(tmp_path / "b.jsonl", [{"messages": "hello"}])
    with pytest.raises(DataError, match="expected a list of messages in column 'messages', got str"):
        list(open_source(tmp_path / "b.jsonl").documents())


def test_empty_rows_are_passed_over(tmp_path):
    write_lines(tmp_path / "a.jsonl", [{"text": ""}, {"text": "one"}, {"text": None}, {"messages": []}])
    (tmp_path / "a.jsonl").write_bytes(b"\n \n" + (tmp_path / "a.jsonl").read_bytes())
    assert [document for document, _ in open_source(tmp_path / "a.jsonl").documents()] == ["one"]


def test_text_of_dos_and_with_a_mark_in_front_is_read(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\nmore\r\n\r\ntwo".encode())
    assert [document for document, _ in open_source(tmp_path / "a.txt").documents()] == ["one\r\nmore", "two"]


PACKED = gzip.compress(b"".join(b'{"text": "%d"}\n' % (number * number) for number in range(999)))
FLIPPED = PACKED[:1500] + bytes(255 - byte for byte in PACKED[1500:1510]) + PACKED[1510:]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'{"text": "x"}\nnot json\n', "line 2: cannot be read as JSON lines"),
        ("a.jsonl", b"[1]\n", "line 1: expected a JSON object, got list"),
        ("a.txt", b"fine\n\n\xff\xfe\n", "block at line 3: not UTF-8"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 999)[:-12], "cannot be read"),
        ("a.jsonl.gz", FLIPPED, "cannot be read"),
        ("a.parquet", b"PAR1 and no more", "cannot be read as Parquet"),
    ],
    ids=["not JSON", "no object", "not UTF-8", "cut off archive", "damaged archive", "cut off Parquet"],
)
def test_damaged_files_are_refused_with_their_name(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words) as error:
        list(open_source(tmp_path / name).documents())
    assert name in str(error.value)


def test_what_is_no_source_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no such file.*hub:OWNER/NAME"):
        open_source(tmp_path / "absent.jsonl")
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(DataError, match=r"of no known kind: expected a name that ends in \.txt"):
        open_source(tmp_path / "a.csv")
    with pytest.raises(DataError, match="holds no text"):
        open_source(tmp_path)
    with pytest.raises(DataError, match="Name at least one"):
        Columns(None, None)


def test_only_what_is_named_as_of_the_hub_is_looked_for_there(tmp_path, monkeypatch):
    assert open_source("hub:owner/name") == HubSource("owner/name")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        open_source("owner/name")


def test_a_data_set_that_the_hub_does_not_give_is_one_message():
    with pytest.raises(DataError, match=r"'nobody/nothing' .*split train.* cannot be opened: .*Check the name"):
        next(HubSource("nobody/nothing").documents())


def test_a_split_that_is_not_there_is_one_message(tmp_path):
    source = source_of("hub", tmp_path)
    with pytest.raises(DataError, match=r"split test.* cannot be opened: .*test"):
        next(HubSource(source.name, split="test").documents())


@pytest.mark.parametrize(("kind", "package"), [("parquet", "pyarrow"), ("hub", "datasets")])
def test_a_missing_package_is_named_with_the_extra_that_brings_it(kind, package, tmp_path, monkeypatch):
    source = source_of(kind, tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=rf"needs the package {package}: pip install 'saesteer\[data\]'"):
        next(source.documents())


def test_a_folder_is_read_in_the_order_of_names_and_other_files_in_it_are_not(tmp_path):
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "readme.md").write_text("none")
    source = open_source(tmp_path)
    assert isinstance(source, FileSource)
    assert [document for document, _ in source.documents()] == ["first", "second"]


def test_the_digest_of_a_local_data_set_is_that_of_its_files_and_their_names(tmp_path):
    folder = tmp_path / "set"
    for name in ("v1.0", ".git"):
        (folder / name).mkdir(parents=True)
    (folder / "v1.0" / "train.jsonl").write_text('{"text": "x"}')
    digest = HubSource(str(folder)).digest()
    (folder / ".git" / "index.lock").write_text("of git")
    assert HubSource(str(folder)).digest() == digest
    (folder / "v1.0" / "train.jsonl").rename(folder / "v1.0" / "test.jsonl")
    assert HubSource(str(folder)).digest() != digest
