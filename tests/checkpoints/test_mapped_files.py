from __future__ import annotations

import sys

import pytest
import torch

from llmapi_kit.checkpoints.mapped_files import drop_pages, drop_unused_pages, dropping_pages

NUM = 4_000_000  # 16 MB: far more than pages that stay for other reasons

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for the pages of a mapping")


@pytest.fixture
def mapped(tmp_path):
    """Numbers in a file, mapped as safetensors maps weights: what is written stays in this process."""
    path = tmp_path / "numbers"
    torch.arange(NUM, dtype=torch.float32).numpy().tofile(path)
    return torch.from_file(str(path), shared=False, size=NUM, dtype=torch.float32)


def resident_bytes(tensor):
    """Bytes of a tensor's mapping that are in this process's memory."""
    wanted = f"{tensor.untyped_storage().data_ptr():x}-"
    with open("/proc/self/smaps") as smaps:
        for line in smaps:
            if line.startswith(wanted):
                return next(int(row.split()[1]) * 1024 for row in smaps if row.startswith("Rss:"))
    raise AssertionError("the tensor is not mapped")


def test_pages_of_a_file_leave_memory_and_come_back_as_they_were(mapped):
    total = mapped.double().sum().item()
    assert resident_bytes(mapped) >= mapped.nbytes
    drop_pages(mapped)
    assert resident_bytes(mapped) < mapped.nbytes / 4
    assert mapped.double().sum().item() == total


def test_what_was_written_to_a_mapped_tensor_stays(mapped):
    mapped[12345] = -7.0
    drop_pages(mapped)
    assert mapped[12345] == -7.0
    assert mapped[-1] == NUM - 1


def test_what_a_model_does_not_use_of_its_file_leaves_memory(mapped, tmp_path):
    layer = torch.nn.Linear(1000, 1000, bias=False)
    layer.weight = torch.nn.Parameter(mapped[1_000_000:2_000_000].view(1000, 1000), requires_grad=False)
    mapped[3_500_000] = -7.0
    expected = mapped.double().sum().item()
    drop_unused_pages(layer, [tmp_path / "numbers"])
    assert layer.weight.nbytes <= resident_bytes(mapped) < 0.8 * mapped.nbytes
    assert mapped.double().sum().item() == expected


def test_a_tensor_of_no_file_keeps_its_values():
    tensor = torch.arange(NUM, dtype=torch.float32)
    drop_pages(tensor)
    assert torch.equal(tensor, torch.arange(NUM, dtype=torch.float32))


def test_each_module_lets_go_of_its_weights_after_it_ran_and_only_meanwhile(mapped):
    layer = torch.nn.Linear(2000, 2000, bias=False)
    layer.weight = torch.nn.Parameter(mapped.view(2000, 2000), requires_grad=False)
    with dropping_pages(torch.nn.Sequential(layer)) as _:
        layer(torch.ones(1, 2000))
    assert resident_bytes(mapped) < mapped.nbytes / 4
    layer(torch.ones(1, 2000))
    assert resident_bytes(mapped) >= mapped.nbytes
