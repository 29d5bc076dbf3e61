"""--part i/n: jobs that know nothing of each other fill one store, and finalize writes its manifest."""

from __future__ import annotations

import re
import subprocess
import sys

from commands import digest, precompute, store

from geols_precompute.store.reader import VolumeStore


def test_parts_side_by_side_end_with_the_digests_of_one_run(nnunet, tmp_path):
    root = nnunet(cases=7)
    expected = digest(precompute("--out", tmp_path / "one", root))
    out = tmp_path / "o"
    command = [sys.executable, "-m", "geols_precompute", "--workers", "0", "--out", str(out), str(root), "--part"]
    jobs = [subprocess.Popen([*command, f"{i}/3"], stdout=subprocess.PIPE, text=True) for i in (1, 2, 3)]
    outputs = [job.communicate(timeout=200)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0, 0]
    assert sorted(re.search(r"(\d) cases computed", output)[1] for output in outputs) == ["2", "2", "3"]
    assert all(f"after the last one: geols-store finalize {out}" in output for output in outputs)
    assert not any("digest" in output for output in outputs)
    assert not list(out.glob("*.zarr/manifest.json"))
    for _ in range(2):
        result = store("finalize", out)
        assert result.exit_code == 0, result.output
        assert f"store   {out / 'labels.zarr'}, 7 cases\ndigest  {expected}" in result.output
        assert VolumeStore.open(out / "volumes.zarr").digest == VolumeStore.open(tmp_path / "one/volumes.zarr").digest
    again = precompute("--out", out, root)
    assert "0 cases computed, 7 unchanged" in again.output
    assert digest(again) == expected
