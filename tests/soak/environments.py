"""The long tests, with every Python and with the lowest versions that pyproject.toml declares. `make soak` runs them.

    python tests/soak/environments.py [--only 3.12] [ARGUMENTS OF pytest]

Each environment is made once under .venv-soak, and again after pyproject.toml changed. A Python that is not on this
machine is said and left out.
"""

import argparse
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".venv-soak"
PYPROJECT = ROOT / "pyproject.toml"
PYTHONS = ("3.11", "3.12", "3.13")
LOWEST = f"{PYTHONS[0]}-lowest"
TESTS = ("tests/e2e", "tests/packaging", "tests/examples", "tests/soak")


def main() -> int:
    """Run the tests in every environment; return 1 if they fail in one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", action="append", help=f"of {', '.join((*PYTHONS, LOWEST))}; may be given again")
    options, arguments = parser.parse_known_args()
    results = {name: run(name, arguments) for name in options.only or (*PYTHONS, LOWEST)}
    print("\n".join(f"{name}: {result}" for name, result in results.items()))
    return int("failed" in results.values())


def run(name: str, arguments: Sequence[str]) -> str:
    """Run the tests in one environment and say how they ended."""
    interpreter = find_python(name.removesuffix("-lowest"))
    if interpreter is None:
        return "left out, there is no such Python here"
    python = make(name, interpreter)
    print(f"== {name}: {', '.join(versions(python))}", flush=True)
    tests = [str(python), "-m", "pytest", "-n", "2", "-p", "no:cacheprovider", *TESTS, *arguments]
    sameness = [str(python), "scripts/sameness.py", "check"]
    started = time.monotonic()
    ends = [subprocess.run(command, cwd=ROOT, check=False).returncode for command in (tests, sameness)]
    print(f"== {name}: {time.monotonic() - started:.0f} s", flush=True)
    return "failed" if any(ends) else "passed"


def find_python(version: str) -> str | None:
    """Return the interpreter of a version: this one, one on the PATH, or one that pyenv or uv installed."""
    for candidate in candidates(version):
        show = [candidate, "-c", "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"]
        told = subprocess.run(show, capture_output=True, text=True, check=False)
        if told.stdout.strip() == version:
            return candidate
    return None


def candidates(version: str) -> Iterator[str]:
    """List what may be an interpreter of a version. A shim of pyenv may be found that only says it is not active."""
    yield sys.executable
    if found := shutil.which(f"python{version}"):
        yield found
    places = (".pyenv/versions", ".local/share/uv/python")
    for place in places:
        yield from map(str, sorted((Path.home() / place).glob(f"*{version}.*/bin/python{version}"), reverse=True))


def make(name: str, interpreter: str) -> Path:
    """Make an environment with the checkout and the test tools, unless it is there, and return its interpreter."""
    folder, python = FOLDER / name, FOLDER / name / "bin" / "python"
    stamp, needed = folder / "made-from.toml", PYPROJECT.read_text(encoding="utf-8")
    if stamp.exists() and stamp.read_text(encoding="utf-8") == needed:
        return python
    subprocess.run([interpreter, "-m", "venv", "--clear", str(folder)], check=True)
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(lowest()) if name == LOWEST else "", encoding="utf-8")
    pip = ["uv", "pip", "install", "-p", str(python)] if shutil.which("uv") else [str(python), "-m", "pip", "install"]
    subprocess.run([*pip, "-q", "-e", ".[dev]", "-c", str(constraints)], cwd=ROOT, check=True)
    stamp.write_text(needed, encoding="utf-8")
    return python


def lowest() -> list[str]:
    """Pin every dependency that is installed with the tool, or with `hub`, to the lowest version it may have."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["hub"]]
    return [re.sub(r">=([\d.]+).*", r"==\1", requirement) for requirement in declared]


def versions(python: Path) -> list[str]:
    """Name the versions in an environment that shards depend on."""
    names = ("duckdb", "pyarrow", "numpy", "av", "msgspec", "tyro")
    show = f"from importlib.metadata import version\nfor name in {names}: print(name, version(name))"
    return subprocess.run([str(python), "-c", show], capture_output=True, text=True, check=True).stdout.splitlines()


if __name__ == "__main__":
    sys.exit(main())
