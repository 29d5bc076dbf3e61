"""Stores in a bucket of an S3 service on this machine."""

from __future__ import annotations

import os

import pytest
from sharing import CASES, SHARD, make_store, packed, run, verified_store
from stores import label_store

from geols_precompute.share import remote


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """A bucket of an S3 service on this machine, and a way to copy a folder into it."""
    server_module = pytest.importorskip("moto.server", reason="moto, which stands for S3, is not installed")
    pytest.importorskip("s3fs")
    import boto3

    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }
    before = dict(os.environ)
    os.environ.update(settings)
    client = boto3.client("s3")
    client.create_bucket(Bucket="labels")
    yield client
    server.stop()
    os.environ.clear()
    os.environ.update(before)


def upload(client, folder, prefix):
    for path in folder.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), "labels", f"{prefix}/{path.relative_to(folder).as_posix()}")


def test_pull_from_s3(bucket, tmp_path, monkeypatch):
    root = tmp_path / "site"
    store = make_store(root / "labels.zarr", CASES)
    packed(store, root / "labels.zarr.zip")
    upload(bucket, root, "public")
    size = (root / SHARD[1:]).stat().st_size
    # the file may end with a piece, in the middle of one, or with the first
    for number, piece in enumerate((size, size // 2, 10_000, 2**23)):
        monkeypatch.setattr(remote, "BUCKET_PIECE_BYTES", piece)
        for name in ("labels.zarr", "labels.zarr.zip"):
            out = tmp_path / f"{number}-{name}"
            result = run("pull", f"s3://labels/public/{name}", "-o", out)
            assert result.exit_code == 0, result.output
            verified_store(out, store.digest)
    bucket.delete_object(Bucket="labels", Key=f"public{SHARD}")
    result = run("pull", "s3://labels/public/labels.zarr", "-o", tmp_path / "out.zarr")
    assert result.exit_code == 1
    assert f"failed: b: s3://labels/public{SHARD}: there is no such file" in result.output
    assert not (tmp_path / "out.zarr/b").exists()


def test_wrong_addresses_on_s3(bucket, tmp_path):
    for url in ("s3://labels/nothing.zarr", "s3://labels/nothing.zarr.zip", "s3://nobucket/labels.zarr"):
        result = run("pull", url, "-o", tmp_path / "out.zarr")
        assert result.exit_code == 2
        assert "is the address right?" in result.output, result.output
        assert not (tmp_path / "out.zarr").exists()


def test_a_large_case_streams_through_s3(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "BUCKET_PIECE_BYTES", 100_000)
    store = label_store(tmp_path / "big/labels.zarr", ("one",), shape=(40, 140, 130))
    assert (store.path / "one/maps/c/0/0/0/0").stat().st_size > 500_000
    upload(bucket, tmp_path / "big", "big")
    assert run("pull", "s3://labels/big/labels.zarr", "-o", tmp_path / "out.zarr").exit_code == 0
    verified_store(tmp_path / "out.zarr", store.digest)
