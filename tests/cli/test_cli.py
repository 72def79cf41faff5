"""The command as a person runs it: quick to help, data on stdout, talk on stderr."""

import csv
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from annotator.cli.main import COMMANDS, main
from tests.datasets import edit_parquet, shard_path, write_dataset

REPO = Path(__file__).parents[2]
HEAVY = (
    "av",
    "PIL",
    "openai",
    "httpx2",
    "vllm",
    "torch",
    "duckdb",
    "pyarrow",
    "numpy",
    "rich",
    "tyro",
    "jinja2",
    "asyncio",
)
SYNC = ("--vlm.backend", "signals", "--plan.n_task_rephrasings", "2")
HOOK = """
import importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {refused!r}:
            raise ImportError(f"{{name}} is not installed here")

sys.meta_path.insert(0, Refuse())
from annotator.cli.main import main
sys.exit(main({arguments!r}))
"""


def run(*arguments: object, **options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "annotator", *map(str, arguments)]
    environment = os.environ | {"NO_COLOR": "1"} | options
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPO, env=environment)


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny annotated dataset with its log; nobody changes it."""
    root = write_dataset(tmp_path_factory.mktemp("cli") / "tiny", cameras=())
    assert main(["sync", str(root), *SYNC]) == 0
    return root


def query(root: Path, sql: str, *more: str, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["query", sql, "--root", str(root), *more]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


def test_help_answers_at_once() -> None:
    """The quickest of a few: what it takes, not what the machine is busy with."""
    times: list[float] = []
    while len(times) < 3 or (min(times) >= 0.3 and len(times) < 12):
        started = time.monotonic()
        assert run("--help").stdout.startswith("usage: annotator")
        times.append(time.monotonic() - started)
    assert min(times) < 0.3


def test_help_imports_no_library() -> None:
    code = "import sys; from annotator.cli.main import main; main(['--help']); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPO)
    loaded = {name.strip("'[], ") for name in done.stdout.splitlines()[-1].split(",")}
    assert "annotator.cli.main" in loaded
    assert not loaded & set(HEAVY)


def test_the_options_of_sync_are_shown_without_what_a_run_needs() -> None:
    """0.17 s of CPU, where 0.7 were spent before: tyro's check of defaults would import typeguard, mock and asyncio."""
    command = "import sys\nfrom annotator.cli.main import main\n"
    code = f"{command}try: main(['sync', '--help'])\nfinally: print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPO)
    loaded = {name.strip("'[], ") for name in done.stdout.splitlines()[-1].split(",")}
    assert "tyro" in loaded
    assert not loaded & {*HEAVY, "typeguard", "unittest.mock"} - {"tyro"}


def test_help_names_every_command_and_goes_to_stdout() -> None:
    done = run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for name in COMMANDS:
        assert f"\n  {name} " in done.stdout


def test_the_version_is_told() -> None:
    done = run("--version")
    assert done.stdout.startswith("annotator 0.")
    assert done.returncode == 0


def test_an_unknown_command_is_a_usage_error() -> None:
    done = run("synk")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "unknown command – synk\nhint: annotator --help\n"


def test_a_run_talks_on_stderr_alone_and_says_what_it_did(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "tiny", cameras=())
    done = run("sync", root, *SYNC)
    assert (done.returncode, done.stdout) == (0, "")
    assert "\x1b" not in done.stderr
    lines = {line.split("  ")[0]: line.split("  ", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert lines["episodes"] == "3 annotated"
    assert lines["shards written"] == "2"
    assert lines["frames decoded"] == "0"


def test_a_problem_is_one_message_on_stderr_without_a_traceback(tmp_path: Path) -> None:
    done = run("sync", tmp_path / "nowhere")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: not a LeRobot dataset – ")
    assert len(done.stderr.splitlines()) == 2


SQL = "SELECT episode_index, style, content FROM rows WHERE style = 'task_aug' ORDER BY episode_index, seq LIMIT 4"


def test_a_query_answers_as_a_table(annotated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head, *lines = query(annotated, SQL, capsys=capsys).splitlines()
    assert head.split() == ["episode_index", "style", "content"]
    assert len(lines) == 4
    assert lines[0].split()[:2] == ["0", "task_aug"]


def test_a_query_answers_as_json_one_object_a_line(annotated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [json.loads(line) for line in query(annotated, SQL, "--format", "json", capsys=capsys).splitlines()]
    assert len(rows) == 4
    assert set(rows[0]) == {"episode_index", "style", "content"}
    assert "put the red cube into the bowl" in {row["content"] for row in rows}


def test_a_query_answers_as_csv_with_nested_values_as_json(annotated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sql = f"SELECT *, [1, 2] AS pair, {{'a': NULL}} AS object, now() AS at FROM ({SQL})"
    rows = list(csv.DictReader(io.StringIO(query(annotated, sql, "--format", "csv", capsys=capsys))))
    assert [row["episode_index"] for row in rows] == ["0", "0", "0", "1"]
    assert (rows[0]["pair"], rows[0]["object"]) == ("[1,2]", '{"a":null}')
    assert rows[0]["at"]


def test_a_query_answers_as_parquet_bytes(annotated: Path) -> None:
    command = [sys.executable, "-m", "annotator", "query", SQL, "--root", str(annotated), "--format", "parquet"]
    done = subprocess.run(command, capture_output=True, check=True, cwd=REPO)
    table = pq.read_table(pa.BufferReader(done.stdout))
    assert table.column_names == ["episode_index", "style", "content"]
    assert table.num_rows == 4


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_a_query_of_nothing_answers_with_nothing(
    annotated: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    out = query(annotated, f"SELECT * FROM ({SQL}) WHERE style = 'x'", "--format", form, capsys=capsys)
    assert len(out.splitlines()) == (0 if form == "json" else 1)


def test_text_that_looks_like_markup_is_shown_as_it_is(annotated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = query(annotated, "SELECT '[red]x[/red] :robot: https://a.b/c' AS v", capsys=capsys)
    assert "[red]x[/red] :robot: https://a.b/c" in out


def test_wrong_sql_is_refused_on_stderr(annotated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["query", "SELECT nothing FROM nowhere", "--root", str(annotated)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: the query was refused – ")
    assert "\nhint: " in said.err


@pytest.mark.parametrize("flag", ["--prompts", "--validation.rules"])
def test_a_folder_of_prompts_or_rules_that_is_empty_or_not_there_is_a_usage_error(
    annotated: Path, tmp_path: Path, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    for folder, said in (("empty", "there – "), ("nowhere", str(tmp_path / "nowhere"))):
        capsys.readouterr()
        assert main(["sync", str(annotated), *SYNC, flag, str(tmp_path / folder)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert said in error


def test_validate_hints_at_no_flag_that_it_does_not_have(
    annotated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", str(annotated), "--rules", str(tmp_path / "nowhere")]) == 2
    said = capsys.readouterr().err
    assert "hint: name a folder with one .sql file a rule" in said
    assert "--validation.rules" not in said


def columns_only(annotated: Path, tmp_path: Path) -> Path:
    """A copy without its log, as one downloads it."""
    copy = tmp_path / "tiny"
    for path in annotated.rglob("*"):
        if path.is_file() and ".annotator" not in path.parts:
            target = copy / path.relative_to(annotated)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return copy


def test_a_dataset_without_a_log_is_asked_through_its_columns(
    annotated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sql = "SELECT episode_index, timestamp, style, role, content FROM rows ORDER BY ALL"
    copy = columns_only(annotated, tmp_path)
    from_columns = query(copy, sql, "--format", "json", capsys=capsys)
    assert from_columns == query(annotated, sql, "--format", "json", capsys=capsys)
    assert len(from_columns.splitlines()) > 10
    assert not (copy / ".annotator").exists()


def test_a_first_sync_that_failed_leaves_the_rows_that_something_else_wrote_to_be_asked(
    annotated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sql = "SELECT episode_index, timestamp, style, role, content FROM rows ORDER BY ALL"
    copy = columns_only(annotated, tmp_path)
    before = query(copy, sql, "--format", "json", capsys=capsys)
    assert main(["sync", str(copy), "--vlm.backend", "offline", "--vocabulary.enabled", "false"]) == 1
    assert query(copy, sql, "--format", "json", capsys=capsys) == before
    assert query(copy, "SELECT outcome FROM runs", "--format", "json", capsys=capsys) == '{"outcome":"incomplete"}\n'


def test_rows_of_a_log_that_wrote_no_shard_yet_are_its_own_where_the_dataset_has_no_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_dataset(tmp_path / "bare", cameras=())
    assert main(["sync", str(root), "--vlm.backend", "offline"]) == 1
    assert query(root, "SELECT count(*) AS n FROM rows", "--format", "json", capsys=capsys) == '{"n":0}\n'


def test_a_dataset_with_neither_log_nor_columns_says_what_would_make_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_dataset(tmp_path / "bare", cameras=())
    assert main(["query", "SELECT * FROM rows", "--root", str(root)]) == 2
    said = capsys.readouterr().err
    assert f"a data shard has no language columns – {root / shard_path(0)} – no language_events" in said
    assert "hint: annotator sync writes them" in said


def test_a_dataset_of_which_one_shard_lacks_the_columns_is_told_apart(
    annotated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = columns_only(annotated, tmp_path)
    edit_parquet(copy / shard_path(1), lambda t: t.drop_columns(["language_persistent", "language_events"]))
    assert main(["query", "SELECT * FROM rows", "--root", str(copy)]) == 2
    assert shard_path(1) in capsys.readouterr().err


def test_a_folder_that_is_nothing_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["query", "SELECT 1", "--root", str(tmp_path)], ["log", str(tmp_path)]):
        assert main(arguments) == 2
        assert "hint: annotator sync makes one" in capsys.readouterr().err


def test_a_path_that_the_locale_cannot_express_is_one_message(annotated: Path, tmp_path: Path) -> None:
    folder = tmp_path / "Würfel"
    folder.symlink_to(annotated)
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for arguments in (("validate", folder), ("query", "SELECT 1", "--root", folder), ("sync", folder, *SYNC)):
        done = run(*arguments, **ascii_only)
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.startswith("error: a path or a text has characters that the locale cannot encode")
        assert "hint: set PYTHONUTF8=1" in done.stderr
        assert "Traceback" not in done.stderr
    assert run("query", "SELECT 'ü'", "--root", folder, PYTHONUTF8="1", LC_ALL="C").returncode == 0
    beyond = run("query", "SELECT chr(252)", "--root", annotated, **ascii_only)
    assert (beyond.returncode, "Traceback" in beyond.stderr) == (1, False)


def test_the_log_lists_the_runs(annotated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["log", str(annotated), "--format", "json"]) == 0
    (run_line,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (run_line["outcome"], run_line["episodes"], run_line["shards"]) == ("done", 3, 2)
    assert run_line["engine"].startswith("signals")


def test_prompts_are_listed_with_their_digests(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prompts"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["plan.memory", "prompts/plan_memory.md"] in [[name, where] for name, _, where in lines]
    assert all(len(digest) == 32 for _, digest, _ in lines)


def test_ejecting_without_a_folder_asks_where_to(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prompts", "eject"]) == 2
    assert "hint: annotator prompts eject DIR" in capsys.readouterr().err


REFUSED = {"av", "PIL", "openai", "httpx2", "vllm", "torch"}


@pytest.mark.parametrize(
    "arguments", [["--help"], ["query", SQL, "--root", "ROOT"], ["log", "ROOT"], ["prompts"], ["sync", "ROOT", *SYNC]]
)
def test_what_needs_no_footage_and_no_server_works_without_their_libraries(
    annotated: Path, arguments: list[str]
) -> None:
    given = [str(annotated) if a == "ROOT" else a for a in arguments]
    code = HOOK.format(refused=REFUSED, arguments=given)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=REPO)
    assert done.returncode == 0, done.stderr
    assert done.stdout or arguments[0] == "sync"


def test_a_reader_that_leaves_early_is_no_error(annotated: Path) -> None:
    command = (
        f"{sys.executable} -m annotator.cli.main query 'SELECT * FROM range(200000)' --format json --root {annotated}"
    )
    done = subprocess.run(f"{command} | head -1", shell=True, capture_output=True, text=True, check=False, cwd=REPO)
    assert done.stdout.startswith("{")
    assert done.stderr == ""


def test_an_interrupted_command_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_args: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("annotator.cli.look.log.run", interrupted)
    assert main(["log"]) == 130
    assert "run the same command to go on" in capsys.readouterr().err
