"""Small data sets on disk, and the folder of real volumes."""

from __future__ import annotations

import json
import locale
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from datasets import ball_case, write

REAL_DATA = Path(os.environ.get("GEOLS_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(autouse=True, scope="session")
def interrupts_arrive() -> None:
    """Let processes that tests start get Ctrl-C: a shell starts what runs in its background with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    def folder(name: str) -> Path:
        if not (path := REAL_DATA / name).exists():
            pytest.skip(f"no real volumes at {path}; set GEOLS_TEST_DATA")
        return path

    return folder


@pytest.fixture(autouse=True)
def same_locale() -> Iterator[None]:
    """Undo what SimpleITK does when a test writes a VTK file: it sets the locale to C, in which text is ASCII."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, before)


@pytest.fixture
def nnunet(tmp_path) -> Callable[..., Path]:
    """Make an nnU-Net data set: nnunet(cases=3, modalities=1, classes=2, ...) -> its folder."""

    def make(
        name="data", *, cases=3, modalities=1, classes=2, shape=(12, 14, 16), spacing=(1.0, 1.5, 2.0), ending=".nii.gz"
    ) -> Path:
        root = tmp_path / name
        for number in range(cases):
            image, label = ball_case(number, shape, modalities, classes)
            for channel in range(modalities):
                path = root / "imagesTr" / f"case_{number:02d}_{channel:04d}{ending}"
                write(image[channel].astype(np.int16), path, spacing=spacing)
            write(label, root / "labelsTr" / f"case_{number:02d}{ending}", spacing=spacing)
        description = {
            "channel_names": {str(c): f"m{c}" for c in range(modalities)},
            "labels": {"background": 0} | {f"organ{v}": v for v in range(1, classes + 1)},
            "numTraining": cases,
            "file_ending": ending,
            "licence": "CC-BY 4.0",
        }
        (root / "dataset.json").write_text(json.dumps(description))
        return root

    return make
