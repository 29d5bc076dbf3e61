"""Evaluation: windows over whole volumes, whole volumes or crops, regions, the table and the summary."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from train_fixtures import make_fixture_reader, make_stores, tiny_config

from geols_precompute.recipe.parameters import TrainingHints
from geols_train.device import ONE_PROCESS
from geols_train.evaluate import (
    PLACES,
    CaseResult,
    Evaluator,
    gaussian_weights,
    mean_and_std,
    predict_probabilities,
    read_ahead,
    structure_indices,
    summarise,
    write_cases,
)
from geols_train.loss import Objective, soft_cross_entropy
from geols_train.metrics import Agreement, Calibration
from geols_train.run import make_spec


class Pointwise(nn.Module):
    """Logits that depend on a voxel alone."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))
        self.sizes = []

    def forward(self, image):
        self.sizes.append(tuple(image.shape[2:]))
        return torch.cat([-self.scale * image, self.scale * image], dim=1)


@pytest.mark.parametrize("shape", [(7, 9, 8), (4, 5, 6), (13, 3, 21)])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.8])
def test_windows_agree_with_the_whole(shape, overlap):
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32))
    network = Pointwise()
    found = predict_probabilities(network, image, window=(5, 5, 6), overlap=overlap, precision="float32")
    expected = torch.cat([-3 * image, 3 * image]).softmax(dim=0)
    torch.testing.assert_close(found, expected)
    assert set(network.sizes) == {(5, 5, 6)}


def test_the_middle_of_a_window_counts_more_than_its_border():
    class Border(Pointwise):
        def forward(self, image):
            logits = torch.zeros(1, 2, *image.shape[2:])
            logits[:, 1, :, :, :2] = 20  # wrong near one border
            return logits * self.scale

    found = predict_probabilities(
        Border(), torch.zeros(1, 4, 4, 12), window=(4, 4, 8), overlap=0.5, precision="float32"
    )
    # the left border of the second window is the middle of the first
    assert (found[1, :, :, 4:6] < 0.6).all()
    assert (found[1, :, :, :2] > 0.99).all()


def test_weights_are_symmetric_and_never_vanish():
    weights = gaussian_weights((4, 5, 6))
    assert weights.shape == (4, 5, 6)
    torch.testing.assert_close(weights, weights.flip(0, 1, 2))
    assert weights.min() > 1e-12
    assert weights[1, 2, 2] == weights.max()


class Oracle(nn.Module):
    """Knows the label of one window at a time, by its image."""

    def __init__(self, reader, window):
        super().__init__()
        self.parameter = nn.Parameter(torch.zeros(1))
        self.known = [reader.stores.volumes.label(case) for case in reader.stores.cases]
        self.images = [reader.zscores[c].apply(reader.stores.volumes.image(c)) for c in reader.stores.cases]

    def forward(self, image):
        for label, known in zip(self.known, self.images, strict=True):
            if known.shape == tuple(image.shape[1:]) and torch.equal(image[0], torch.from_numpy(known)):
                return nn.functional.one_hot(torch.from_numpy(label).long(), 3).movedim(-1, 0)[None] * 40.0
        raise AssertionError("not a window of a known case")


def evaluator(out, *, crop, **hints):
    reader = make_fixture_reader(make_stores(out, cases=2, hints=TrainingHints(**hints), absent=(1,)))
    spec = make_spec(tiny_config(out, crop=crop), reader.stores)
    return reader, Evaluator(reader=reader, spec=spec, extent="whole", precision="float32", tolerance_mm=2.0)


def test_an_oracle_is_perfect_on_every_class_and_region(tmp_path):
    reader, judge = evaluator(tmp_path, crop=(10, 12, 11), regions={"both": (2, 5), "outside": (5,)})
    assert structure_indices(judge.spec) == {"inner": [1], "outer": [2], "both": [1, 2], "outside": [2]}
    network = Oracle(reader, (10, 12, 11))
    for case in reader.stores.cases:
        result = judge.measure(network, case)
        assert list(result.structures) == ["inner", "outer", "both", "outside"]
        assert {a.dice for a in result.structures.values()} == {1.0}
        assert {a.hd95_mm for a in result.structures.values()} == {0.0}
        assert all(c.ece == pytest.approx(0, abs=1e-6) for c in result.calibration.values())
    assert list(judge.validate(network, reader.stores.cases, None)) == [[1.0] * 4] * 2


def test_the_crop_is_evaluated_alone_if_asked(tmp_path):
    reader, judge = evaluator(tmp_path, crop=(8, 6, 14))
    judge = Evaluator(reader=reader, spec=judge.spec, extent="crop", precision="float32", tolerance_mm=2.0)
    sample, probabilities = judge.predict(judge.spec.network(), "case_00")
    assert sample.image.shape == (1, 8, 6, 14)
    assert probabilities.shape == (3, 8, 6, 14)
    assert sample.counted.sum() == 8 * 6 * 11  # the padding along x does not count


@pytest.mark.parametrize("windows", [2, 3, 100])
def test_windows_go_through_the_network_together(windows):
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 13, 9, 8)).astype(np.float32))
    alone, together = Pointwise(), Pointwise()
    settings = {"window": (5, 5, 6), "overlap": 0.5, "precision": "float32"}
    expected = predict_probabilities(alone, image, **settings)
    torch.testing.assert_close(predict_probabilities(together, image, windows=windows, **settings), expected)
    assert len(together.sizes) == math.ceil(len(alone.sizes) / windows)


def test_one_case_is_read_ahead():
    begun, used = [], []
    for case in read_ahead(lambda name: begun.append(name) or name, ["a", "b", "c", "d"]):
        used.append(case)
        assert len(begun) <= len(used) + 1
    assert used == begun == ["a", "b", "c", "d"]
    assert list(read_ahead(str, [])) == []

    def fails(name):
        raise ValueError(name)

    with pytest.raises(ValueError, match="a"):
        list(read_ahead(fails, ["a", "b"]))


def test_the_loss_of_validation_is_that_of_training(tmp_path):
    reader, judge = evaluator(tmp_path, crop=(10, 12, 11))
    network = judge.spec.network().eval()
    labels = reader.stores.labels
    config = tiny_config(tmp_path, method="geols", alpha=0.3)
    objective = Objective.of(config, labels.channels, ONE_PROCESS)
    for case, found in zip(reader.stores.cases, judge.validate(network, reader.stores.cases, objective), strict=True):
        image = torch.from_numpy(reader.zscores[case].apply(reader.stores.volumes.image(case)))[None]
        label = torch.from_numpy(reader.stores.volumes.label(case))[None]
        soft = torch.from_numpy(labels.soft_label(case, label[0].numpy(), alpha=0.3))[None]
        with torch.no_grad():
            expected = soft_cross_entropy(network(image), soft, label)
        assert found[-1] == pytest.approx(expected.item(), rel=1e-4)


def test_calibration_is_measured_in_three_places(tmp_path):
    reader, judge = evaluator(tmp_path, crop=(10, 12, 11))
    network = judge.spec.network().eval()
    found = judge.measure(network, "case_00").calibration
    _, probabilities = judge.predict(network, "case_00")
    p, label = probabilities.numpy().astype(float), reader.stores.volumes.label("case_00")
    right = np.take_along_axis(p, label[None].astype(int), axis=0)[0]
    assert found["all"].nll == pytest.approx(-np.log(right).mean(), rel=1e-5)
    assert found["foreground"].nll == pytest.approx(-np.log(right[label > 0]).mean(), rel=1e-5)
    # spacing 1, 1.5, 2 and 2 mm: the neighbours of faces, and those of an edge in z and y
    near = np.zeros(label.shape, bool)
    for shift in [(1, 0, 0), (2, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, -1, 0)]:
        for sign in (1, -1):
            moved = np.pad(label, 2, mode="edge")
            z, y, x = (slice(2 + sign * s, 2 + sign * s + n) for s, n in zip(shift, label.shape, strict=True))
            near |= moved[z, y, x] != label
    assert found["border"].nll == pytest.approx(-np.log(right[near]).mean(), rel=1e-5)


def result(case, *dices, hd=1.0):
    found = {n: Agreement(dice=d, surface_dice=d, hd95_mm=hd) for n, d in zip(("inner", "outer"), dices, strict=True)}
    places = {name: Calibration(ece=0.1, brier=0.2, nll=0.3) for name in PLACES}
    return CaseResult(case=case, structures=found, calibration=places)


def test_the_summary_counts_undefined_distances_apart(tmp_path):
    _, judge = evaluator(tmp_path, crop=(8, 8, 8))
    summary = summarise([result("a", 0.5, 1.0, hd=3.0), result("b", 0.0, 0.8, hd=math.nan)], judge.spec)
    assert summary["mean_foreground_dice"] == pytest.approx(0.575)
    inner = summary["structures"]["inner"]
    assert (inner["dice"], inner["hd95_mm"], inner["hd95_undefined"]) == (0.25, 3.0, 1)
    assert summarise([result("a", 0, 0, hd=math.nan)], judge.spec)["structures"]["inner"]["hd95_mm"] is None


def test_the_table(tmp_path):
    write_cases(tmp_path / "t.csv", [result("a", 0.5, 1.0), result("b", 0.0, 0.0, hd=math.nan)])
    lines = (tmp_path / "t.csv").read_text().splitlines()
    of_case = "ece,brier,nll,ece_foreground,brier_foreground,nll_foreground,ece_border,brier_border,nll_border"
    assert lines[0] == f"case,structure,dice,surface_dice,hd95_mm,{of_case}"
    numbers = ",0.100000,0.200000,0.300000" * 3
    assert lines[1] == f"a,inner,0.500000,0.500000,1.000000{numbers}"
    assert lines[4] == f"b,outer,0.000000,0.000000,{numbers}"


def test_mean_and_deviation_over_repeats():
    merged = mean_and_std([{"s": {"dice": 0.8, "hd": None}}, {"s": {"dice": 0.9, "hd": 1.0}}])
    assert merged["s"]["hd"] is None
    assert merged["s"]["dice"]["mean"] == pytest.approx(0.85)
    assert merged["s"]["dice"]["std"] == pytest.approx(0.0707, abs=1e-4)
