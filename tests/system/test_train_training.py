"""The loop: methods, resume to the bit, stops, and what it says when it cannot go on."""

from __future__ import annotations

import pytest
import torch
from train_fixtures import losses, make_fixture_reader, make_stores, trainers, weights


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return make_stores(tmp_path_factory.mktemp("stores"), cases=6, vary=True, absent=(2,))


@pytest.fixture(scope="module")
def reader(out):
    return make_fixture_reader(out)


@pytest.fixture
def trainer(out, reader, tmp_path):
    return trainers(out, reader, tmp_path)


def test_where_cases_are_kept_changes_nothing(trainer):
    runs = [trainer(cache=cache, window=(6, 14, 6), crop=None, workers=1) for cache in ("none", "ram", "device")]
    for run in runs:
        run.train()
    assert losses(runs[0]) == losses(runs[1]) == losses(runs[2])
    assert all(torch.equal(weights(runs[0]), weights(run)) for run in runs[1:])
    assert runs[2].loader.num_workers == 0


def test_workers_change_nothing(trainer):
    runs = [trainer(workers=0), trainer(workers=2)]
    for run in runs:
        run.train()
    assert losses(runs[0]) == losses(runs[1])
