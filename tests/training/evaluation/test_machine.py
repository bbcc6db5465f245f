"""What reports say of the machine that their figures were measured with."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

from training.evaluation.report import CPUINFO, machine_of, processor

INTEL = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel\t\t: 143\nmodel name\t: Intel(R)  Xeon(R) Platinum: 8480C\n"
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nCPU implementer\t: 0x41\n"


def test_the_processor_is_named_by_its_model(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(INTEL)
    assert processor(path) == "Intel(R) Xeon(R) Platinum: 8480C"


def test_a_processor_without_a_model_has_the_name_that_python_knows(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(ARM)
    for place in (path, tmp_path / "nowhere"):
        assert processor(place) == (platform.processor() or None)


@pytest.mark.skipif(not CPUINFO.is_file(), reason="only Linux tells its processors in a file")
def test_figures_made_without_a_gpu_are_the_processors() -> None:
    machine = machine_of(torch.device("cpu"))
    assert machine["device"] == platform.machine() and machine["processor"] == processor()
    if "model name" in CPUINFO.read_text():
        assert machine["processor"] in " ".join(CPUINFO.read_text().split())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_figures_made_on_a_gpu_name_it_and_the_processor() -> None:
    machine = machine_of(torch.device("cuda"))
    assert machine["device"] == torch.cuda.get_device_name() and machine["processor"] == processor()
