"""The GPU's benchmark where there is none."""

from __future__ import annotations

import pytest
import torch

from benchmarks import gpu


def test_without_a_device_nothing_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["gpu"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu.main()
    assert "nothing was measured" in capsys.readouterr().out


@pytest.mark.slow
def test_a_rehearsal_gives_a_row_for_every_system(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["gpu", "--rehearse"])
    gpu.main()
    shown = capsys.readouterr().out
    assert all(shown.count(f" {system} ") == 2 for system in ("off", "draft", "rasd"))
    assert "differs from the plain one by 0.0e+00" in " ".join(shown.split())
