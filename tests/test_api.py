"""`import annotator`: what the command line does, for programs; and nothing heavy until it is used."""

import subprocess
import sys
from pathlib import Path

import pytest

import annotator
from annotator.errors import UsageError
from annotator.pipeline.progress import SilentProgress
from tests.datasets import write_dataset

ROOT = Path(__file__).parents[1]
SIGNALS = annotator.VlmSettings(backend="signals")


def test_importing_the_package_imports_no_library() -> None:
    code = "import annotator, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"duckdb", "pyarrow", "numpy", "av", "PIL", "torch", "openai", "rich", "tyro", "msgspec"}


def test_settings_are_built_without_the_heavy_libraries() -> None:
    code = "import annotator, sys; annotator.SyncSettings(); annotator.sync; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"duckdb", "pyarrow", "numpy", "av", "PIL", "torch", "openai", "rich", "tyro"}


def test_every_public_name_is_there_and_no_other() -> None:
    for name in annotator.__all__:
        assert getattr(annotator, name) is not None
    assert set(annotator.__all__) <= set(dir(annotator))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = annotator.nothing  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]


def test_the_types_are_shipped() -> None:
    assert (ROOT / "annotator" / "py.typed").is_file()


def test_a_dataset_is_planned_annotated_and_asked(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "tiny", cameras=())
    settings = annotator.SyncSettings(root=root, vlm=SIGNALS)
    plan = annotator.plan_run(settings)
    assert (plan.episodes, plan.episodes_up_to_date) == (3, 0)
    assert annotator.sync(settings) == "done"
    assert annotator.plan_run(settings).work == ()
    table = annotator.query(root, "SELECT DISTINCT style FROM rows WHERE style = 'subtask'")
    assert table.to_pylist() == [{"style": "subtask"}]
    with annotator.open_log(root) as log:
        assert {module for _, module in log.current()} == {"plan", "interjections"}


def test_progress_hears_of_the_run(tmp_path: Path) -> None:
    notes: list[str] = []

    class Heard(SilentProgress):
        def note(self, message: str) -> None:
            notes.append(message)

    settings = annotator.SyncSettings(root=write_dataset(tmp_path / "tiny", cameras=()), vlm=SIGNALS)
    assert annotator.sync(settings, Heard()) == "done"
    assert notes


def test_what_cannot_be_meant_is_refused_as_on_the_command_line(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "tiny", cameras=())
    wrong = annotator.SyncSettings(root=root, plan=annotator.PlanSettings(frames_per_second=0.0))
    for refused in (lambda: annotator.sync(wrong), lambda: annotator.plan_run(wrong)):
        with pytest.raises(UsageError, match=r"out of range – --plan\.frames_per_second – 0\.0"):
            refused()
    with pytest.raises(UsageError, match="no log"):
        annotator.open_log(tmp_path)
    with pytest.raises(UsageError, match="no log and no dataset"):
        annotator.query(tmp_path, "SELECT 1")


def test_the_example_runs_on_the_sample(tmp_path: Path) -> None:
    dataset = tmp_path / "sample"
    made = [sys.executable, str(ROOT / "examples/make_sample.py"), str(dataset), "--episodes", "2", "--fps", "4"]
    subprocess.run(made, capture_output=True, check=True)
    shown = [sys.executable, str(ROOT / "examples/python_api.py"), str(dataset)]
    done = subprocess.run(shown, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("to do: ")
    assert "outcome: done" in lines
    assert "left to do: 0 episodes" in lines
    assert any(" s  " in line for line in lines)
    assert lines[-1].startswith("the log knows ")
