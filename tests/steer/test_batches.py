"""Which rows run together."""

from steer.models.batches import BATCH_TOKENS, batches_of


def test_every_row_is_in_one_batch_and_the_longest_come_first():
    lengths = [5, 100, 7, 3000, 8, 9, 16000, 100]
    batches = batches_of(lengths, 3)
    flat = [row for batch in batches for row in batch]
    assert sorted(flat) == list(range(len(lengths)))
    assert [lengths[row] for row in flat] == sorted(lengths, reverse=True)


def test_a_batch_is_bounded_in_rows_and_in_tokens():
    lengths = [1000] * 40 + [10] * 300
    for batch in batches_of(lengths, 256):
        assert len(batch) <= 256
        assert len(batch) * max(lengths[row] for row in batch) <= BATCH_TOKENS


def test_a_row_longer_than_a_batch_runs_alone():
    assert batches_of([BATCH_TOKENS * 2, BATCH_TOKENS], 8) == [[0], [1]]
    assert batches_of([], 8) == []
