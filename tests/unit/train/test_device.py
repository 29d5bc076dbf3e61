"""Devices, precision, and what to do when memory ends."""

from __future__ import annotations

import pytest
import torch

from geols_precompute.errors import InputError
from geols_train.device import (
    OutOfMemoryError,
    arithmetic,
    autocast,
    choose_device,
    explain_out_of_memory,
    set_arithmetic,
)

CPU = torch.device("cpu")


def test_devices():
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("cuda:99", "nonsense"):
        with pytest.raises(InputError, match=f"--device {name} is not available here; take auto or cpu"):
            choose_device(name)


def test_one_gpu_for_several_processes_is_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(InputError, match="--device cuda:0 is one GPU for several processes; give --device cuda"):
        choose_device("cuda:0")


def test_a_cpu_computes_in_float32_unless_it_is_asked():
    product = torch.ones(2, 2)
    for precision, expected in (("bf16", torch.bfloat16), ("float32", torch.float32), ("auto", torch.float32)):
        with autocast(CPU, precision):
            assert (product @ product).dtype == expected


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory: you tried ..."),
    ],
)
def test_out_of_memory_says_what_to_lower(error):
    with (
        pytest.raises(OutOfMemoryError, match=r"^out of memory: lower --batch-size \(now 4\)$"),
        explain_out_of_memory("--batch-size (now 4)"),
    ):
        raise error


def test_other_errors_pass_through():
    with pytest.raises(RuntimeError, match="shapes"), explain_out_of_memory("x"):
        raise RuntimeError("shapes do not fit")


def test_a_real_allocation_that_cannot_succeed():
    with pytest.raises(OutOfMemoryError), explain_out_of_memory("--window"):
        torch.empty(2**55, dtype=torch.uint8)


@pytest.mark.parametrize(("precision", "rounded"), [("float32", False), ("tf32", True), ("bf16", False)])
def test_float32_on_a_gpu_is_float32(monkeypatch, precision, rounded):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", not rounded)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", (asked := []).append)
    set_arithmetic(CPU, precision)
    assert not torch.backends.cudnn.benchmark
    set_arithmetic(torch.device("cuda"), precision)
    assert torch.backends.cudnn.allow_tf32 == rounded
    assert asked == ["high" if rounded else "highest"]
    assert torch.backends.cudnn.benchmark
    assert arithmetic(torch.device("cuda"), precision) == precision
    assert arithmetic(CPU, "tf32") == "float32"
