"""Which rows run together."""

from collections.abc import Sequence

BATCH_TOKENS = 2**14  # of a batch's prompts, padding included: more at once is not faster, and takes more memory


def batches_of(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Rows of these lengths, in tokens, as batches of similar ones, the longest first.

    A batch has at most ``size`` rows and, unless it is a single row, at most ``BATCH_TOKENS`` tokens with padding. The
    longest come first so that a prompt that is too long, or memory that does not suffice, shows at once.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    found: list[list[int]] = []
    while order:
        rows = max(1, min(size, BATCH_TOKENS // max(1, lengths[order[0]])))
        found.append(order[:rows])
        order = order[rows:]
    return found
