"""Numbers that are not finite: they stop a training, and no checkpoint holds them."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from train_fixtures import SPEC, make_fixture_reader, make_stores, tiny_config

from geols_precompute.errors import StoreError
from geols_train.checkpoint import load_checkpoint, load_network, save_checkpoint
from geols_train.device import ONE_PROCESS, avoid_amx, uses_bf16
from geols_train.run import make_spec
from geols_train.splits import make_split
from geols_train.training import Trainer, TrainingError


@pytest.fixture
def trainer(tmp_path):
    def make(**changes):
        config = tiny_config(make_stores(tmp_path / "stores"), **changes)
        reader = make_fixture_reader(tmp_path / "stores")
        (tmp_path / "run").mkdir()
        split = make_split(config.split, reader.stores.cases, seed=0)
        spec = make_spec(config, reader.stores)
        return Trainer(config, reader, split, spec, tmp_path / "run", config.random_seed, ONE_PROCESS)

    return make


def weights(run):
    return torch.cat([p.detach().flatten() for p in run.network.parameters()]).clone()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("precision", "advice"),
    [("bf16", r"\. Train again with --precision float32; what is saved"), ("float32", "--precision float32, as here")],
)
def test_one_gradient_that_is_not_finite_stops_before_the_optimiser(trainer, value, precision, advice):
    run = trainer(precision=precision)
    before = weights(run)
    seen = []

    def poison(gradient):
        seen.append(len(seen))
        if len(seen) == 2:  # the second step
            gradient = gradient.clone()
            gradient.view(-1)[3] = value
        return gradient

    run.network.encoder[1][0][0].weight.register_hook(poison)
    with pytest.raises(TrainingError, match=rf"norm of the gradients is {value} in batch 2 \(epoch 1\).*{advice}"):
        run.train()
    assert not torch.equal(weights(run), before)  # the first step was made
    assert weights(run).isfinite().all()
    assert not list(run.folder.glob("*.pt"))


def test_the_norm_is_that_of_all_gradients(trainer):
    run = trainer()
    run.train()
    expected = math.sqrt(sum(float((p.grad.double() ** 2).sum()) for p in run.network.parameters()))
    assert float(run.gradient_norm()) == pytest.approx(expected, rel=1e-5)


def test_a_checkpoint_never_holds_what_is_not_finite(tmp_path):
    path = tmp_path / "best.pt"
    network = SPEC.network()
    save_checkpoint(path, SPEC, {"model": network.state_dict(), "progress": {"best_dice": 0.5}})
    before = path.read_bytes()
    with torch.no_grad():
        network.head.bias[0] = math.nan
    for content, name in (
        ({"model": network.state_dict()}, r"model\.head\.bias"),
        ({"model": {}, "progress": {"losses": [1.0, math.inf]}}, r"progress\.losses\[1\]"),
        ({"optimizer": {"state": {0: {"exp_avg": torch.tensor([-math.inf])}}}}, r"optimizer\.state\.0\.exp_avg"),
    ):
        with pytest.raises(TrainingError, match=f"best.pt: not saved, as {name} is not finite.*--precision float32"):
            save_checkpoint(path, SPEC, content)
        assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["best.pt"]


def test_an_old_checkpoint_of_a_training_that_failed_is_refused(tmp_path):
    path, network = tmp_path / "best.pt", SPEC.network()
    network.head.weight.data[0] = math.nan
    torch.save({"version": 1, "spec": SPEC.as_json(), "model": network.state_dict()}, path)
    for load in (load_checkpoint, lambda path: load_network(path, torch.device("cpu"))):
        with pytest.raises(StoreError, match=r"model\.head\.weight is not finite, so the training had failed"):
            load(path)


def test_bf16_on_a_cpu_keeps_from_amx_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    cpu = torch.device("cpu")
    avoid_amx(cpu, "auto")
    avoid_amx(cpu, "float32")
    avoid_amx(torch.device("cuda"), "bf16")
    assert "ONEDNN_MAX_CPU_ISA" not in os.environ
    avoid_amx(cpu, "bf16")
    assert os.environ["ONEDNN_MAX_CPU_ISA"] == "AVX512_CORE_BF16"
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    avoid_amx(cpu, "bf16")
    assert os.environ["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert uses_bf16(cpu, "bf16")
    assert not uses_bf16(cpu, "auto")


def has_amx():
    cpuinfo = Path("/proc/cpuinfo")
    return platform.system() == "Linux" and cpuinfo.exists() and "amx_bf16" in cpuinfo.read_text()


@pytest.mark.skipif(not has_amx(), reason="no AMX")
def test_thin_volumes_train_in_bf16_on_a_processor_with_amx():
    # with AMX the process dies here, by a segmentation fault in the gradient of a convolution's weights
    code = """
import torch
from geols_train.device import autocast, avoid_amx
torch.manual_seed(0)
cpu = torch.device("cpu")
avoid_amx(cpu, "bf16")
convolution, image = torch.nn.Conv3d(32, 16, 3, padding=1, bias=False), torch.randn(1, 32, 12, 256, 256)
with autocast(cpu, "bf16"):
    found = convolution(image)
found.float().square().mean().backward()
found = convolution.weight.grad.clone()
convolution.weight.grad = None
convolution(image).square().mean().backward()
difference = (found - convolution.weight.grad).norm() / convolution.weight.grad.norm()
print(float(difference))
"""
    environment = {name: value for name, value in os.environ.items() if name != "ONEDNN_MAX_CPU_ISA"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=250, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.02
