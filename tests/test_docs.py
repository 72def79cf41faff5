"""Pages that are generated from the code say what the code says."""

import re
from pathlib import Path

import pytest

from annotator.cli.main import COMMANDS, main
from annotator.config.options import texts_of
from scripts.generate_cli_docs import COMMANDS as DESCRIBED
from scripts.generate_cli_docs import describe_commands, own_options

CLI = Path(__file__).parents[1] / "docs" / "cli.md"


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
