"""What is made from the code is checked in as the code makes it today."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.generated import ROOT, files


@pytest.mark.parametrize("path", list(files()), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_generated_file_is_up_to_date(path: Path) -> None:
    assert path.read_text() == files()[path], "run `make generated`"


def test_compiling_the_protocol_changes_nothing(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-Iauthz/core=proto",
         f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", "authz/core/wire.proto"],
        cwd=ROOT, check=True,
    )  # fmt: skip
    for name in ("wire_pb2.py", "wire_pb2.pyi"):
        made = (tmp_path / "authz/core" / name).read_text()
        assert made == (ROOT / "authz/core" / name).read_text(), "run `make proto`"
