"""Pictures exist, also where there is nothing to draw."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from train_fixtures import make_fixture_reader, make_stores, tiny_config

from geols_precompute.errors import MissingExtraError
from geols_train.data import whole_box
from geols_train.evaluate import CaseResult
from geols_train.log import RunLog
from geols_train.metrics import Agreement
from geols_train.pictures import draw_cases, draw_curves
from geols_train.run import make_spec


def test_curves_of_one_epoch(tmp_path):
    with RunLog(tmp_path) as log:
        log.write({"loss": 1.0}, 1)
        log.write({"epoch": 1, "loss": 1.0, "validation_dice": 0.5, "validation_dice_a": 0.5}, 1)
    draw_curves(tmp_path)
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_cases_with_and_without_anything_predicted(tmp_path):
    reader = make_fixture_reader(make_stores(tmp_path, cases=3))
    spec = make_spec(tiny_config(tmp_path), reader.stores)
    shown = []
    for number, case in enumerate(reader.stores.cases):
        sample = reader.read(case, whole_box(reader.shape(case)))
        predicted = np.full_like(sample.label, 2) if number == 1 else sample.label * (number == 2)
        probabilities = torch.nn.functional.one_hot(torch.from_numpy(predicted).long(), 3).movedim(-1, 0).float()
        found = {n: Agreement(dice=0.5, surface_dice=0.5, hd95_mm=1.0) for n in ("inner", "outer")}
        shown.append((CaseResult(case=case, structures=found, calibration={}), sample, probabilities))
    draw_cases(tmp_path, shown, spec)
    assert (tmp_path / "cases.png").stat().st_size > 5000


def test_matplotlib_is_an_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with RunLog(tmp_path), pytest.raises(MissingExtraError, match=r"matplotlib is not installed"):
        draw_curves(tmp_path)
