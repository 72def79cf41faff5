"""Pages say what the code says: those that are generated, the picture, and every path and link that a page names."""

import re
from pathlib import Path

import pytest

from annotator.cli.main import COMMANDS, main
from annotator.config.options import texts_of
from scripts.draw_architecture import draw_architecture
from scripts.generate_cli_docs import COMMANDS as DESCRIBED
from scripts.generate_cli_docs import describe_commands, own_options
from tests.test_architecture import ANNOTATOR_LAYERS, HOMES, STORE_LAYERS

REPO = Path(__file__).parents[1]
CLI = REPO / "docs" / "cli.md"
PAGES = [REPO / "README.md", *sorted((REPO / "docs").rglob("*.md"))]
TOP = ("annotator/", "store/", "prompts/", "tests/", "scripts/", "examples/", "docs/")


def titled(page: Path) -> str:
    return page.relative_to(REPO).as_posix()


def anchors(page: Path) -> set[str]:
    """The names by which a page's headings are linked, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=titled)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), target


@pytest.mark.parametrize("page", PAGES, ids=titled)
def test_every_path_of_the_repository_that_a_page_names_is_there(page: Path) -> None:
    """A page of decisions or of changes may name what is gone."""
    if page.parent.name == "decisions" or page.name == "changelog.md":
        return
    for code in re.findall(r"`([\w./*-]+)`", page.read_text(encoding="utf-8")):
        if code.startswith(TOP) and "ORG/NAME" not in code:
            assert list(REPO.glob(code.rstrip("/"))), code


def test_the_picture_of_the_architecture_is_as_the_imports_are() -> None:
    picture = (REPO / "docs" / "architecture.svg").read_text(encoding="utf-8")
    assert picture == draw_architecture(), "python scripts/draw_architecture.py > docs/architecture.svg"


def test_the_page_of_the_architecture_has_the_layers_of_the_test() -> None:
    page = (REPO / "docs" / "architecture.md").read_text(encoding="utf-8")
    for package, layers in (("annotator_store", STORE_LAYERS), ("annotator", ANNOTATOR_LAYERS)):
        assert f"\n{package}: {' < '.join(' '.join(line) for line in layers)}\n" in page
    libraries = page.split("## Where each library lives")[1].split("\n## ")[0].splitlines()
    for library, homes in HOMES.items():
        name = {"PIL": "Pillow"}.get(library, f"`{library}`")
        (line, *_) = [line for line in libraries if name in line]
        assert not [home for home in homes if f"`{home}`" not in line.replace("`store/annotator_store/`", "`store/`")]


def test_the_page_of_the_architecture_describes_every_folder_and_names_types_where_they_are() -> None:
    page = (REPO / "docs" / "architecture.md").read_text(encoding="utf-8")
    folders = [
        path for top in ("annotator", "store/annotator_store") for path in (REPO / top).iterdir() if path.is_dir()
    ]
    names = [path.name for path in folders if (path / "__init__.py").exists()]
    assert not [name for name in names if f"\n| `{name}/` | " not in page]
    table = page.split("## Types that cross the arrows")[1]
    for types, files in re.findall(r"^\| (`.+?) \| (`.+?) \|", table, re.M):
        texts = [(REPO / file).read_text(encoding="utf-8") for file in re.findall(r"`(.+?)`", files)]
        for name in re.findall(r"`(.+?)`", types):
            assert any(re.search(rf"^class {name}\b", text, re.M) for text in texts), name


def test_the_page_of_the_command_line_is_as_the_code_has_it() -> None:
    assert CLI.read_text(encoding="utf-8") == describe_commands(), "python scripts/generate_cli_docs.py > docs/cli.md"


def test_every_command_is_described() -> None:
    assert list(DESCRIBED) == list(COMMANDS)
    assert re.findall(r"^## `annotator (\w+)", describe_commands(), re.M) == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_names_the_options_that_help_names(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The second truth: what the parser itself takes."""
    with pytest.raises(SystemExit):
        main([command, "--help"])
    helped = set(re.findall(r"--[a-z_]+(?:\.[a-zA-Z_]+)*(?= )", capsys.readouterr().out)) - {"--help", "--config"}
    section = describe_commands().split(f"## `annotator {command}")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(--[a-z_.A-Z]+)`", section, re.M)) == helped


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_says_what_it_does(command: str) -> None:
    texts = texts_of(DESCRIBED[command])
    for option in own_options(DESCRIBED[command]):
        assert texts[option.name].endswith("."), option.name


def test_the_page_is_a_table_that_holds_together() -> None:
    rows = [line for line in describe_commands().splitlines() if line.startswith("|")]
    assert len(rows) > 40
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {5}
