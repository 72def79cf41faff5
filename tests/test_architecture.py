"""The architecture: which folder may import which, where heavy libraries live, and what no file may do.

Each rule is one test over all files; a new file is covered at once. A failure lists every file that breaks the rule.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = {"annotator": ROOT / "annotator", "annotator_store": ROOT / "store" / "annotator_store"}
FILES = sorted(path for folder in PACKAGES.values() for path in folder.rglob("*.py"))
MOST_FILES = 15
"""Python files in one folder at most."""

# One line a layer, lowest first. A folder imports from its own and from lower lines; folders on one line are siblings
# that do not know each other. `errors` and a package's own `__version__` belong to everybody.
STORE_LAYERS = (
    ("digests", "keys", "rows", "errors", "atomic_files", "memory_budget", "sql"),
    ("parquet", "log"),
    ("validation",),
    ("verify",),
)
ANNOTATOR_LAYERS = (
    ("config", "media"),
    ("dataset",),
    ("prompting",),
    ("vlm",),
    ("modules",),
    ("provenance",),
    ("pipeline", "verify"),
    ("hub",),
    ("jobs",),
    ("api",),
    ("cli",),
)
BASE = {"digests", "keys", "rows", "errors", "atomic_files", "memory_budget", "sql"}
"""Files of the store, not folders: they import each other."""

HOMES: dict[str, tuple[str, ...]] = {
    # library: the folders or files that may import it
    "av": ("annotator/media/",),
    "PIL": ("annotator/media/", "annotator/vlm/transformers/"),
    "duckdb": ("store/",),
    "xxhash": ("store/annotator_store/digests.py",),
    "rich": ("annotator/cli/",),
    "tyro": ("annotator/cli/",),
    "jinja2": ("annotator/prompting/", "annotator/vlm/transformers/"),
    "openai": ("annotator/vlm/openai/",),
    "httpx2": ("annotator/vlm/openai/",),
    "vllm": ("annotator/vlm/vllm_local/", "annotator/vlm/vllm_server/"),
    "torch": ("annotator/vlm/transformers/", "annotator/vlm/vllm_local/"),
    "transformers": ("annotator/vlm/transformers/",),
    "llguidance": ("annotator/vlm/transformers/",),
    "psutil": ("annotator/vlm/watchdog.py",),
    "huggingface_hub": ("annotator/hub/", "annotator/jobs/", "annotator/vlm/vllm_server/info.py"),
}
DISTRIBUTIONS = {"PIL": "pillow"}
"""Import names that are not the names of what is installed."""

ENVIRONMENT = ("annotator/vlm/registry.py", "annotator/vlm/vllm_local/startup.py")
"""Where the name of the variable with the API key is given in the settings, and where vLLM's own are set before it is
imported. No environment variable may change an answer."""
PRINTS = ("annotator/cli/",)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path) -> Iterator[str]:
    """Every module a file imports, anywhere in it, as a dotted name; `from a import b` gives `a` and `a.b`."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: a relative import"
            module = node.module or ""
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def imports_at_load(path: Path) -> Iterator[str]:
    """What is imported when the file is: not inside functions, not for type checkers only."""
    waiting: list[ast.AST] = [tree(path)]
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


def loaded_with(path: Path) -> set[str]:
    """The libraries that are imported as soon as this file is, through every file it imports."""
    seen: set[Path] = set()
    waiting = [path]
    libraries: set[str] = set()
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        for name in imports_at_load(one):
            package, _, rest = name.partition(".")
            if package not in PACKAGES:
                libraries.add(package)
                continue
            target = PACKAGES[package] / rest.replace(".", "/")
            waiting += [p for p in (target.with_suffix(".py"), target / "__init__.py") if rest and p.exists()]
    return libraries


def layer_breaks(package: str, layers: tuple[tuple[str, ...], ...]) -> list[str]:
    rank = {folder: place for place, line in enumerate(layers) for folder in line}
    breaks: list[str] = []
    for path in PACKAGES[package].rglob("*.py"):
        here = path.relative_to(PACKAGES[package]).with_suffix("").parts[0]
        if here.startswith("__") or here == "errors":
            continue
        assert here in rank, f"{name_of(path)}: its folder stands in no layer"
        for name in imports(path):
            owner, _, rest = name.partition(".")
            there = rest.partition(".")[0]
            if owner != package or there not in rank or there in (here, "errors") or {here, there} <= BASE:
                continue
            if rank[there] >= rank[here]:
                breaks.append(f"{name_of(path)} imports {name}")
    return breaks


def test_a_folder_imports_only_from_lower_layers() -> None:
    assert not layer_breaks("annotator", ANNOTATOR_LAYERS)
    assert not layer_breaks("annotator_store", STORE_LAYERS)


def test_the_store_imports_nothing_of_the_annotator() -> None:
    refused = {"annotator", "examples", "tests", "scripts", "av", "PIL", "vllm", "torch"}
    store = [path for path in FILES if name_of(path).startswith("store/")]
    assert len(store) > 30
    assert not [f"{name_of(p)}: {n}" for p in store for n in imports(p) if n.partition(".")[0] in refused]


def test_what_is_shipped_needs_no_tests_no_examples_and_no_scripts() -> None:
    refused = {"tests", "examples", "scripts", "pytest", "hypothesis", "syrupy"}
    assert not [f"{name_of(p)}: {n}" for p in FILES for n in imports(p) if n.partition(".")[0] in refused]


def test_a_heavy_library_is_imported_at_its_home_only() -> None:
    strange = [
        f"{name_of(path)}: {library}"
        for path in FILES
        for library in {name.partition(".")[0] for name in imports(path)} & set(HOMES)
        if not name_of(path).startswith(HOMES[library])
    ]
    assert not strange


def test_every_home_of_a_library_is_there() -> None:
    """A home that was renamed would let the library in nowhere, or hide that it is gone."""
    for library, homes in HOMES.items():
        files = [path for path in FILES if name_of(path).startswith(homes)]
        assert files, library
    assert all((ROOT / path).exists() for path in ENVIRONMENT)


def test_what_is_imported_is_declared() -> None:
    """An optional library stands in an extra of its own name or kind; the rest is installed by default."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    declared = {re.split(r"[<>=\[]", line)[0].strip().lower() for line in project["dependencies"] + extras}
    imported = {name.partition(".")[0] for path in FILES for name in imports(path)}
    third_party = imported - set(PACKAGES) - set(sys.stdlib_module_names)
    assert {DISTRIBUTIONS.get(name, name).lower().replace("_", "-") for name in third_party} <= {
        name.replace("_", "-") for name in declared
    }
    assert {"av", "PIL", "duckdb", "rich", "tyro", "jinja2", "openai", "httpx2", "xxhash"} <= third_party


def test_a_folder_holds_no_more_files_than_can_be_surveyed() -> None:
    folders = {path.parent for path in FILES}
    crowded = {name_of(f): n for f in folders if (n := len(list(f.glob("*.py")))) > MOST_FILES}
    assert not crowded
    sizes = sorted(len(list(folder.glob("*.py"))) for folder in folders)
    assert sizes[len(sizes) // 2] <= 9, "the median folder"


def test_nothing_lies_at_the_top_but_what_every_folder_shares() -> None:
    top = {path.name for path in (ROOT / "annotator").glob("*.py")}
    assert top <= {"__init__.py", "__main__.py", "errors.py", "api.py"}


def test_the_command_line_imports_nothing_heavy_until_a_command_runs() -> None:
    libraries = loaded_with(ROOT / "annotator/cli/main.py") - set(sys.stdlib_module_names)
    assert not libraries & {"duckdb", "pyarrow", "av", "PIL", "numpy", "openai", "torch", "rich", "tyro"}


def test_the_path_loads_no_decoder_and_no_client_until_they_are_needed() -> None:
    heavy = {"av", "PIL", "openai", "httpx2", "torch", "vllm", "transformers"}
    for file in ("pipeline/sync.py", "pipeline/executor.py", "dataset/episodes.py"):
        assert not loaded_with(ROOT / "annotator" / file) & heavy, file


def test_no_error_is_swallowed_whole() -> None:
    """A broad `except` is allowed where it does no more than clean up and raise again, or carries the error on."""
    broad = [
        f"{name_of(path)}:{node.lineno}"
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler) and _is_broad(node.type) and not _passes_on(node)
    ]
    assert not broad


def _is_broad(kind: ast.expr | None) -> bool:
    names = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return any(name is None or ast.unparse(name) in {"Exception", "BaseException"} for name in names)


def _passes_on(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    if isinstance(last, ast.Raise) and (last.exc is None or last.cause is not None):
        return True
    return any(
        isinstance(node, ast.Call) and ast.unparse(node.func).endswith("set_exception") for node in ast.walk(handler)
    )


def test_no_file_or_class_is_a_drawer_for_everything() -> None:
    vague = ("util", "helper", "manager", "mixin", "common", "misc")
    classes = [(p, node.name) for p in FILES for node in ast.walk(tree(p)) if isinstance(node, ast.ClassDef)]
    names = [(path, path.stem) for path in FILES] + classes
    assert not [f"{name_of(p)}: {name}" for p, name in names if any(word in name.lower() for word in vague)]


def test_nothing_is_said_by_print_outside_the_commands() -> None:
    calls = [
        f"{name_of(path)}:{node.lineno}"
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print" and not name_of(path).startswith(PRINTS)
    ]
    assert not calls


def test_no_environment_variable_is_read_elsewhere() -> None:
    read = [
        f"{name_of(path)}:{node.lineno}"
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"os.environ", "os.getenv", "os.environb"}
        if name_of(path) not in ENVIRONMENT
    ]
    assert not read


def test_every_public_name_says_what_it_does() -> None:
    silent = [f"{name_of(path)}: no module docstring" for path in FILES if not ast.get_docstring(tree(path))]
    silent += [
        f"{name_of(path)}: {node.name} (line {node.lineno})"
        for path in FILES
        for node in tree(path).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert not silent
