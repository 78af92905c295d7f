"""Threads of torch: those of one thread for good are nobody else's."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch

from llmapi_kit.runners.thread_count import keep_num_threads


def test_a_thread_keeps_its_number_and_threads_that_begin_later_have_theirs():
    before = torch.get_num_threads()
    with ThreadPoolExecutor(1) as worker, ThreadPoolExecutor(1) as later:
        worker.submit(keep_num_threads, before + 1).result()
        assert worker.submit(torch.get_num_threads).result() == before + 1
        assert later.submit(torch.get_num_threads).result() == before
    assert torch.get_num_threads() == before
