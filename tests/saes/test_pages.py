"""Large pages change nothing but where memory lies."""

import sys

import pytest
import torch

from saes import pages
from saes.pages import LEAST_BYTES, in_large_pages


def test_the_content_stays_and_small_tensors_too():
    large = torch.arange(2 * LEAST_BYTES, dtype=torch.uint8)
    wanted = large.clone()
    assert in_large_pages(large) is large
    assert torch.equal(large, wanted)
    small = torch.ones(3)
    assert in_large_pages(small) is small
    columns = torch.randn(2048, 1024).T
    assert torch.equal(in_large_pages(columns), columns.clone())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="madvise is Linux's")
def test_only_whole_pages_of_the_tensor_are_asked_for(monkeypatch):
    asked = []

    class Libc:
        def madvise(self, start, length, advice):
            asked.append((start.value, length.value, advice))

    monkeypatch.setattr(pages, "_libc", lambda: Libc())
    tensor = torch.empty(3 * LEAST_BYTES, dtype=torch.uint8)
    in_large_pages(tensor)
    assert [advice for _, _, advice in asked] == [pages.HUGEPAGE, pages.COLLAPSE]
    for start, length, _ in asked:
        assert start % pages.PAGE_BYTES == length % pages.PAGE_BYTES == 0
        assert tensor.data_ptr() <= start
        assert start + length <= tensor.data_ptr() + tensor.nbytes
        assert length >= 2 * LEAST_BYTES


def test_systems_without_it_are_served(monkeypatch):
    monkeypatch.setattr(pages, "_libc", lambda: None)
    tensor = torch.ones(LEAST_BYTES)
    assert in_large_pages(tensor) is tensor
