"""Checkpoints are whole or not there, hold all that prediction needs, and unpickle no code."""

from __future__ import annotations

import pickle

import pytest
import torch
from train_fixtures import SPEC

from geols_precompute.errors import StoreError
from geols_train.checkpoint import NetworkSpec, load_checkpoint, load_network, save_checkpoint


def test_the_specification_comes_back():
    assert NetworkSpec.from_json(SPEC.as_json()) == SPEC


def test_a_network_comes_back_with_its_weights(tmp_path):
    network = SPEC.network().eval()
    save_checkpoint(tmp_path / "best.pt", SPEC, {"model": network.state_dict()})
    spec, restored = load_network(tmp_path / "best.pt", torch.device("cpu"))
    assert spec == SPEC
    assert not restored.training
    image = torch.randn(1, 2, 4, 5, 6)
    assert torch.equal(network(image), restored(image))
    assert [p.name for p in tmp_path.iterdir()] == ["best.pt"]


def test_a_crash_while_writing_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "last.pt", SPEC, {"epoch": 1})

    def crash(content, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", crash)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path / "last.pt", SPEC, {"epoch": 2})
    assert load_checkpoint(tmp_path / "last.pt")[1]["epoch"] == 1


class Evil:
    def __reduce__(self):
        return print, ("this must not run",)


def test_files_that_are_refused(tmp_path, capsys):
    path = tmp_path / "best.pt"
    with pytest.raises(StoreError, match="no such checkpoint; is this the folder of a run"):
        load_network(path, torch.device("cpu"))
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(StoreError, match="not a whole checkpoint"):
        load_network(path, torch.device("cpu"))
    path.write_bytes(pickle.dumps({"model": Evil()}))
    with pytest.raises(StoreError, match="not a whole checkpoint"):
        load_checkpoint(path)
    torch.save({"version": 99}, path)
    with pytest.raises(StoreError, match="version 99 of a checkpoint"):
        load_checkpoint(path)
    save_checkpoint(path, SPEC, {"model": {}})
    with pytest.raises(StoreError, match="its weights do not fit"):
        load_network(path, torch.device("cpu"))
    assert "must not run" not in capsys.readouterr().out
