"""The architecture: who may import what, how long a file may be, and that no error is swallowed whole."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("annotator", "store", "prompts")
FILES = sorted(path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
LINES = 300

HOMES: dict[str, tuple[str, ...]] = {
    # library: the files that may import it, as path prefixes
    "av": ("annotator/frames.py", "annotator/footage.py", "annotator/bitstream.py"),
    "PIL": ("annotator/frames.py", "annotator/sheets.py", "annotator/engine/transformers"),
    "duckdb": ("store/",),
    "xxhash": ("store/digest.py",),
    "filelock": ("store/",),
    "rich": ("annotator/report.py", "annotator/show.py"),
    "tyro": ("annotator/arguments", "annotator/describe.py"),
    "jinja2": ("annotator/prompts.py", "annotator/engine/transformers"),
    "openai": ("annotator/engine/openai",),
    "httpx2": ("annotator/engine/openai",),
    "vllm": ("annotator/engine/vllm", "annotator/engine/serve"),
    "torch": ("annotator/engine/transformers", "annotator/engine/vllm"),
    "transformers": ("annotator/engine/transformers",),
    "llguidance": ("annotator/engine/transformers",),
    "ray": ("annotator/jobs/", "annotator/engine/ray"),
    "huggingface_hub": ("annotator/jobs/", "annotator/hub", "annotator/engine/serve_facts"),
}


DISTRIBUTIONS = {"PIL": "pillow", "typing_extensions": "typing-extensions"}


def tree(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"), file)


def imports(file: str) -> Iterator[str]:
    """Every module a file imports, anywhere in it, as a dotted name; `from a import b` gives `a` and `a.b`."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import"
            module = node.module or ""
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def imports_at_load(file: str) -> Iterator[str]:
    """What is imported when the file is: not inside functions, not for type checkers only."""
    waiting: list[ast.AST] = [tree(file)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
        waiting.extend(ast.iter_child_nodes(node))


def under(name: str, *prefixes: str) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def test_the_files_are_found() -> None:
    assert {"annotator/sync.py", "store/digest.py", "annotator/engine/openai.py", "prompts/__init__.py"} <= set(FILES)
    assert "annotator.prompts.Prompts" in set(imports("annotator/run.py"))


@pytest.mark.parametrize("file", FILES)
def test_a_heavy_library_is_imported_at_its_home_only(file: str) -> None:
    found = {name.partition(".")[0] for name in imports(file)} & set(HOMES)
    strange = [library for library in found if not file.startswith(HOMES[library])]
    assert not strange


def test_what_is_imported_is_declared() -> None:
    """An optional library stands in an extra of its own name or kind; the rest is installed by default."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    declared = {re.split(r"[<>=\[]", line)[0].strip().lower() for line in project["dependencies"] + extras}
    imported = {name.partition(".")[0] for file in FILES for name in imports(file)}
    third_party = {DISTRIBUTIONS.get(n, n).lower() for n in imported - set(PACKAGES) - set(sys.stdlib_module_names)}
    assert third_party <= declared
    assert {"av", "pillow", "duckdb", "rich", "tyro", "jinja2", "openai", "httpx2", "xxhash"} <= third_party


@pytest.mark.parametrize("file", [f for f in FILES if f.startswith("store/")])
def test_the_store_knows_nothing_of_the_annotator(file: str) -> None:
    assert not [name for name in imports(file) if under(name, "annotator", "prompts", "examples", "tests")]


@pytest.mark.parametrize("file", [f for f in FILES if f.startswith("annotator/")])
def test_what_is_shipped_needs_no_tests_and_no_examples(file: str) -> None:
    assert not [name for name in imports(file) if under(name, "tests", "examples", "pytest", "hypothesis", "syrupy")]


@pytest.mark.parametrize("file", [f for f in FILES if f.startswith("annotator/engine/")])
def test_an_engine_answers_requests_and_knows_nothing_of_the_run(file: str) -> None:
    path = (
        "sync",
        "work",
        "ask",
        "desk",
        "project",
        "survey",
        "modules",
        "dataset",
        "scan",
        "recipe",
        "output",
        "show",
    )
    refused = [f"annotator.{name}" for name in (*path, "cli", "arguments")] + [
        "store.log",
        "store.cache",
        "store.shards",
    ]
    assert not [name for name in imports(file) if under(name, *refused)]


@pytest.mark.parametrize("file", [f for f in FILES if f.startswith("annotator/modules/")])
def test_a_module_asks_and_knows_no_engine_no_log_and_no_pixels(file: str) -> None:
    refused = ("annotator.engine", "annotator.sync", "annotator.work", "annotator.frames", "annotator.sheets")
    assert not [name for name in imports(file) if under(name, *refused, "store.log", "store.cache", "pyarrow")]


@pytest.mark.parametrize("file", [f for f in FILES if f != "annotator/cli.py"])
def test_nothing_reaches_back_to_the_path_or_the_command_line(file: str) -> None:
    assert not [name for name in imports(file) if under(name, "annotator.sync", "annotator.cli")]


def test_the_command_line_imports_nothing_heavy_until_a_command_runs() -> None:
    third_party = [n for n in imports_at_load("annotator/cli.py") if n.partition(".")[0] not in {"sys", "collections"}]
    assert set(third_party) <= {"store.errors"}
    assert not [n for n in imports_at_load("store/errors.py") if n]


@pytest.mark.parametrize("file", ["annotator/sync.py", "annotator/work.py", "annotator/survey.py", "annotator/show.py"])
def test_the_path_loads_no_decoder_and_no_client_until_they_are_needed(file: str) -> None:
    loaded: set[str] = set()
    waiting = [file]
    while waiting:
        one = waiting.pop()
        if one in loaded:
            continue
        loaded.add(one)
        for name in imports_at_load(one):
            if under(name, *PACKAGES):
                path = ROOT / name.replace(".", "/")
                waiting += [
                    p.relative_to(ROOT).as_posix()
                    for p in (path.with_suffix(".py"), path / "__init__.py")
                    if p.exists()
                ]
    names = {name.partition(".")[0] for one in loaded for name in imports_at_load(one)}
    assert not names & {"av", "PIL", "openai", "httpx2", "torch", "vllm", "transformers"}


@pytest.mark.parametrize("file", FILES)
def test_a_file_is_short_enough_to_be_read(file: str) -> None:
    assert len((ROOT / file).read_text(encoding="utf-8").splitlines()) <= LINES


@pytest.mark.parametrize("file", FILES)
def test_no_error_is_swallowed_whole(file: str) -> None:
    """A broad `except` is allowed where it does no more than clean up and raise again, or carries the error on."""
    broad = [
        node.lineno
        for node in ast.walk(tree(file))
        if isinstance(node, ast.ExceptHandler) and _is_broad(node.type) and not _hands_on(node)
    ]
    assert not broad


def _is_broad(kind: ast.expr | None) -> bool:
    names = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return any(name is None or ast.unparse(name) in {"Exception", "BaseException"} for name in names)


def _hands_on(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    if isinstance(last, ast.Raise) and last.exc is None:
        return True
    return any(
        isinstance(node, ast.Call) and ast.unparse(node.func).endswith("set_exception") for node in ast.walk(handler)
    )


@pytest.mark.parametrize("file", FILES)
def test_no_file_or_class_is_a_drawer_for_everything(file: str) -> None:
    vague = ("util", "helper", "manager", "mixin", "common", "misc")
    names = [file.lower(), *(node.name.lower() for node in ast.walk(tree(file)) if isinstance(node, ast.ClassDef))]
    assert not [name for name in names if any(word in name for word in vague)]


@pytest.mark.parametrize("file", FILES)
def test_nothing_is_said_by_print_outside_the_commands(file: str) -> None:
    calls = [n for n in ast.walk(tree(file)) if isinstance(n, ast.Call) and ast.unparse(n.func) == "print"]
    assert not calls or file in ("annotator/cli.py", "annotator/show.py")


ENVIRONMENT = {"annotator/engine/choose.py", "annotator/engine/vllm_start.py"}
"""Where the name of the variable with the API key is given in the settings, and where vLLM's own are set before it is
imported. No variable may change an answer."""


@pytest.mark.parametrize("file", FILES)
def test_no_environment_variable_is_read_elsewhere(file: str) -> None:
    read = [
        node.lineno
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"os.environ", "os.getenv", "os.environb"}
    ]
    assert not read or file in ENVIRONMENT


@pytest.mark.parametrize("file", FILES)
def test_every_public_name_says_what_it_does(file: str) -> None:
    silent = [
        f"{node.name} (line {node.lineno})"
        for node in tree(file).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert ast.get_docstring(tree(file)), "no module docstring"
    assert not silent
