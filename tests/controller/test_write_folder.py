"""An artifact's folder is there whole, or not at all."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edgefleet_controller import workbench
from edgefleet_controller.blobs import StorageError


def test_a_full_disk_is_no_fault_of_the_user_and_leaves_no_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    document = cast("Any", SimpleNamespace(files=[SimpleNamespace(name="model.onnx")]))
    with pytest.raises(StorageError, match="No space left"):
        workbench.write_folder(document, lambda name: tmp_path / name, tmp_path / "net" / "ort-cpu-fp32")
    assert list(tmp_path.iterdir()) == []
