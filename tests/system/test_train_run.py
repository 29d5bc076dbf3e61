"""A run from configuration to folder: contents, repeats, resume, default sizes."""

from __future__ import annotations

import pytest
from train_fixtures import make_stores, open_fixture, tiny_config

from geols_precompute.share.pack import pack
from geols_train.log import read_log
from geols_train.run import train_and_test


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return make_stores(tmp_path_factory.mktemp("stores"), vary=True)


def test_a_packed_label_store_trains_to_the_same_numbers(out, tmp_path):
    pack(open_fixture(out).labels, tmp_path / "public.zarr.zip", {}, lambda case, error: None)
    logs = []
    for name, labels in (("folder", "labels"), ("packed", str(tmp_path / "public.zarr.zip"))):
        train_and_test(tiny_config(out, labels=labels, workers=1), tmp_path / name)
        logs.append([{**record, "seconds": 0} for record in read_log(tmp_path / name)])
    assert logs[0] == logs[1]
