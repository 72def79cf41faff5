"""A plan that is annotated anew while interjections are off: they stay, and the plan at each is the new one's."""

import shutil
from pathlib import Path

import pytest

from annotator.cli.main import main
from annotator_store.log.query import run_query
from tests.pipeline.conftest import BANANA
from tests.pipeline.story import Command, of, stored

SCRIPTED = ("--vlm.backend", "scripted", "--vqa.enabled=false")
SHOWN = """
SELECT episode_index, "timestamp", content FROM rows WHERE style = 'plan' ORDER BY episode_index, "timestamp"
"""


@pytest.mark.parametrize("more", [(), ("--plan.emit_plan=false",)], ids=["planned", "refreshes alone"])
def test_every_plan_names_the_subtask_in_force_after_the_plan_alone_was_annotated_anew(
    command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path, more: tuple[str, ...]
) -> None:
    root = Path(shutil.copytree(BANANA.parent / "so101_static", tmp_path / "cups"))
    command("sync", root, *SCRIPTED)
    before = stored(root)
    command("sync", root, *SCRIPTED, "--vocabulary.enabled=false", "--interjections.enabled=false", *more)
    after = stored(root)

    assert {e: of(rows, "interjection") for e, rows in after.items()} == {
        e: of(rows, "interjection") for e, rows in before.items()
    }
    for episode, rows in after.items():
        assert of(rows, "subtask") != of(before[episode], "subtask")
        times = [row["timestamp"] for row in of(rows, "plan")]
        assert {row["timestamp"] for row in of(rows, "interjection")} <= set(times)
        assert len(times) == len(set(times))
        for plan in of(rows, "plan"):
            left = [one["content"] for one in of(rows, "subtask") if one["timestamp"] > plan["timestamp"]]
            now = [one["content"] for one in of(rows, "subtask") if one["timestamp"] <= plan["timestamp"]][-1]
            assert plan["content"] == "\n".join(f"{n}. {text}" for n, text in enumerate([now, *left], start=1))

    shown = run_query(root / ".annotator", SHOWN).to_pylist()
    assert [(row["episode_index"], row["timestamp"], row["content"]) for row in shown] == [
        (episode, row["timestamp"], row["content"]) for episode, rows in after.items() for row in of(rows, "plan")
    ]
    capsys.readouterr()
    assert main(["validate", str(root)]) == 0
    assert "plan_on_subtask" not in capsys.readouterr().out
    assert "nothing is wrong" in command("verify", root)
    command("sync", root, *SCRIPTED, "--vocabulary.enabled=false", "--interjections.enabled=false", *more, "--locked")
