"""Run tests of real engines in the environment that `make engines-env` makes."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OFFLINE = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}


def real_python() -> Path:
    """The interpreter of `.venv-engines`, or the one that `ENGINES_PYTHON` names. Skips the test where neither is."""
    python = Path(os.environ.get("ENGINES_PYTHON") or ROOT / ".venv-engines" / "bin" / "python")
    if not python.exists():
        pytest.skip("the real engines are not installed here: `make engines-env` installs them (2.8 GB)")
    return python


def run_real(tests: str) -> None:
    """Run one file of tests/vlm/real, and fail with its output if anything in it fails or is skipped."""
    command = [str(real_python()), "-m", "pytest", f"tests/vlm/real/{tests}", "-ra", "--durations=5"]
    plain = ["-p", "no:cacheprovider", "-W", "default"]
    done = subprocess.run(
        [*command, *plain], cwd=ROOT, env=os.environ | OFFLINE, capture_output=True, text=True, check=False
    )
    said = done.stdout.splitlines()[-40:] + done.stderr.splitlines()[-20:]
    assert done.returncode == 0, "\n".join(said)
    assert " passed" in done.stdout
    assert " skipped" not in done.stdout, "\n".join(said)
