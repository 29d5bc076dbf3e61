"""`precompute`, the one call that the command makes."""

from __future__ import annotations

from runs import Heard

from geols_precompute import precompute


def test_worker_processes_end_with_the_same_digest(nnunet, tmp_path):
    root = nnunet()
    heard = Heard()
    summary = precompute(root, out=tmp_path / "two", workers=2, progress=heard)
    assert summary.digest == precompute(root, out=tmp_path / "none", workers=0).digest
    assert sorted(heard.ended) == [("case_00", ""), ("case_01", ""), ("case_02", "")]
    assert any(line.startswith("the largest case needs about") for line in heard.lines)
    assert any(line.startswith("2 workers of ") for line in heard.lines)
