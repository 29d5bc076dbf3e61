"""Predictions: what a trained network of a study says of its test cases."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from geols_train.checkpoint import load_network
from geols_train.config import TrainConfig, read_toml
from geols_train.data import Sample
from geols_train.device import choose_device
from geols_train.evaluate import Evaluator
from geols_train.folder import BEST, CONFIG, SPLIT
from geols_train.metrics import calibration_bins
from geols_train.run import make_reader, with_tolerance
from geols_train.splits import make_split
from geols_train.stores import open_stores
from geols_train.unet import UNet3D


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """The best network of a run, and its test cases.

    Attributes:
        evaluator: of its cases.
        network: ready to predict.
        cases: that were tested.
    """

    evaluator: Evaluator
    network: UNet3D
    cases: tuple[str, ...]

    def predict(self, case: str) -> tuple[Sample, torch.Tensor]:
        """Return what is evaluated of a case, and its class probabilities [c,z,y,x]."""
        sample, probabilities_CZYX = self.evaluator.predict(self.network, case)
        return sample, probabilities_CZYX.cpu()


def open_run(folder: Path, stores_folder: Path, device: str = "auto") -> TrainedRun:
    """Return a run of a study.

    Raises:
        GeolsError: the run or the stores are missing or damaged.
    """
    config = TrainConfig.from_mapping(read_toml(folder / CONFIG))
    config = replace(config, data=stores_folder, method="ce")  # prediction needs no maps
    stores = open_stores(config.data, config.labels, maps_needed=False)
    split = make_split(str(folder / SPLIT), stores.cases, seed=0)
    tested = split.test or split.validation
    reader = make_reader(config, stores, replace(split, train=(), validation=(), test=tested))
    spec, network = load_network(folder / BEST, choose_device(device))
    tolerance = with_tolerance(config, stores, tested).surface_tolerance
    assert tolerance is not None
    evaluator = Evaluator(
        reader=reader, spec=spec, extent=config.eval, precision=config.precision, tolerance_mm=tolerance
    )
    return TrainedRun(evaluator=evaluator, network=network, cases=tested)


def reliability(run: TrainedRun) -> torch.Tensor:
    """Return the calibration bins [3,bin] over all test cases of a run; see `metrics.calibration_bins`."""
    found = [run.predict(case) for case in run.cases]
    return sum(
        calibration_bins(probabilities, torch.from_numpy(sample.label), torch.from_numpy(sample.counted))
        for sample, probabilities in found
    )  # type: ignore[return-value]  # no run is without cases
