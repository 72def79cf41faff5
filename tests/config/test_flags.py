"""Settings are spelled as flags, and the flags give the settings again."""

import shlex

from annotator.cli.parsing import parse_sync
from annotator.config.flags import changed, spell_flags
from annotator.config.settings import PlanSettings, SyncSettings, TaskAugAxesSettings, VlmSettings, VqaSettings

CHANGED = SyncSettings(
    seed=-7,
    push_private=False,
    only_episodes="0,5-9",
    plan=PlanSettings(emit_plan=False, frames_per_second=0.5, task_aug_axes=TaskAugAxesSettings(enabled=True)),
    vqa=VqaSettings(question_types=("bbox", "count")),
    vlm=VlmSettings(model_id="a model's name", chat_template_kwargs={"b": [1, 2.5, None], "a": "ü"}),
)


def test_only_what_is_not_the_default_is_spelled() -> None:
    assert changed(SyncSettings(), lambda _: True) == {}
    plan = changed(CHANGED, lambda name: name.startswith("plan."))
    assert plan == {"plan.frames_per_second": 0.5, "plan.emit_plan": False, "plan.task_aug_axes.enabled": True}


def test_the_command_line_reads_back_what_was_spelled() -> None:
    spelled = spell_flags(changed(CHANGED, lambda _: True))
    assert "--vqa.question_types bbox,count" in spelled
    assert parse_sync(["--config=/dev/null", *shlex.split(spelled)]) == CHANGED
