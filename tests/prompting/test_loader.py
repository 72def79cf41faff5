"""Prompt files: what is in the head, what is sent, and what an edit costs."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from annotator.cli.main import main
from annotator.errors import PromptError
from annotator.modules import interjections
from annotator.modules.plan import module as plan
from annotator.modules.vocabulary import discovery as discover
from annotator.modules.vqa import module as vqa
from annotator.prompting import answers
from annotator.prompting.loader import Prompts, eject, load_prompts, parse_prompt, shipped_files
from annotator_store.digests import digest_struct
from annotator_store.keys import Prompt, Slot, Text

BANANA = Path(__file__).parents[1] / "data" / "cr5_banana"
HEAD = '+++\nid = "plan.memory"\ninputs = [{}]\nanswer = "Memory"\n+++\n'
STEPS = (
    *plan.STEPS,
    *interjections.STEPS,
    *vqa.STEPS,
    *discover.STEPS,
)
VIEW = (
    "The image above is a contact sheet of one recording: 16 frames in all, to be read row by row, left to right, "
    "5 to a row. The time since the recording's start is printed in a corner of each tile, in seconds."
)
TASK = "Put the banana into the basket"
POINTING = (
    "Coordinates are whole numbers from 0 to 1000, whatever the size of the image: "
    "x is 0 at the left edge and 1000 at the right edge, y is 0 at the top edge and 1000 at the bottom edge."
)
INPUTS = {
    "plan.task": {"view": VIEW, "given": "test 3"},
    "plan.describe": {"view": VIEW, "start_s": "0.0", "end_s": "7.6"},
    "plan.segment": {
        "view": VIEW,
        "task": TASK,
        "start_s": "0.0",
        "end_s": "7.6",
        "description": "1.4 s: the gripper closes on the banana\n4.9 s: the banana lies in the basket",
        "max_steps": "8",
        "min_seconds": "1.5",
        "labels": "",
        "gripper": "",
        "commanded": "",
        "footage": "the footage",
    },
    "plan.relabel": {
        "view": "The 2 images above are contact sheets of one recording, to be read row by row, left to right, 5 to a "
        "row, of frames spread evenly from a subtask's first to its last. The time since the recording's start is "
        "printed in a corner of each tile, in seconds.\n1. the subtask before\n2. the subtask in question",
        "task": TASK,
        "start_s": "4.9",
        "end_s": "7.6",
        "previous": "place the banana into the basket",
        "current": "move the arm back to the left",
        "next": "",
        "labels": "",
    },
    "plan.memory": {
        "task": TASK,
        "memory": "I am above the banana.",
        "completed": "grip the banana from above",
        "upcoming": "place it into the basket",
    },
    "plan.milestones": {
        "task": TASK,
        "memory": "I opened the basket.\nI hold the banana.",
        "completed": "place the banana into the basket",
        "upcoming": "close the basket",
        "milestones": "I opened the basket.\nI hold the banana.\nI put the banana into it.\nI closed the basket.",
    },
    "plan.task_rephrasings": {"task": TASK, "count": "10"},
    "plan.task_aug_axes": {
        "task": TASK,
        "synonym_paraphrase": "3",
        "omit_arm": "3",
        "omit_orientation": "2",
        "omit_grasp_method": "2",
        "combined_omissions": "1",
    },
    "interjections.initial_speech": {"task": TASK},
    "interjections.interjection": {
        "view": "The 4 images above are single frames of one recording, in order, from 3.9 s to 5.9 s. "
        "The time since the recording's start is printed in a corner of each, in seconds.",
        "task": TASK,
        "time_s": "4.9",
        "completed": "lift the banana from the table",
        "upcoming": "place it into the basket",
        "remaining": "1. place it into the basket\n2. move the arm back",
        "scenario": "specific_constraint",
    },
    "vocabulary.discover": {
        "recordings": "Recording 1 of 2, image 1. Its task: Put the banana into the basket\n"
        f"Recording 2 of 2, image 2. Its task: (not known)\n\nRecordings 1, 2, taken alone: {VIEW}"
    },
    **{step: {"task": TASK, "focus": "the robot's gripper or hand", "coordinates": POINTING} for step in vqa.STEPS},
}


def memory_prompt(body: str, *inputs: str) -> str:
    return HEAD.format(", ".join(f'"{name}"' for name in inputs)) + body


def ask(step: str, prompts: Prompts | None = None, pictures: int = 0) -> Prompt:
    prompts = prompts or load_prompts()
    answer = getattr(answers, prompts[step].head.answer or "")
    return prompts.ask(step, INPUTS[step], answers.schema_of(answer), pictures)


def as_text(prompt: Prompt) -> str:
    """A prompt as a person reads it."""
    parts = [
        (m.role, "\n".join(p.text if isinstance(p, Text) else f"<media {p.index}>" for p in m.parts))
        for m in prompt.messages
    ]
    return "\n\n".join(f"[{role}]\n{text}" for role, text in parts)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one own prompt: the shipped memory prompt."""
    (tmp_path / "own").mkdir()
    (text,) = [text for name, text in shipped_files() if name == "plan_memory.md"]
    (tmp_path / "own" / "plan_memory.md").write_text(text)
    return tmp_path / "own"


@pytest.mark.parametrize("step", STEPS)
def test_a_step_says_what_a_person_has_read(step: str, snapshot: SnapshotAssertion) -> None:
    looks = "view" in INPUTS[step] or step in vqa.STEPS
    shown = as_text(ask(step, pictures=2 if step in discover.STEPS else int(looks)))
    assert len(shown.splitlines()) < 45
    assert "{{" not in shown
    assert "{%" not in shown
    for value in load_prompts()[step].taken(INPUTS[step]).values():
        assert value in shown
    assert shown == snapshot


@pytest.mark.parametrize("step", STEPS)
def test_a_step_shows_the_form_of_its_answer_field_by_field(step: str) -> None:
    """A schema reaches a guided decoder, not the model: without its names in the text a model can only guess them."""
    prompt = load_prompts()[step]
    answer: type[answers.Answer] = getattr(answers, str(prompt.head.answer))
    form = prompt.text(INPUTS[step]).partition("Answer in this form")[2]
    assert [name for name in answer.__struct_fields__ if f'"{name}":' not in form] == []


HELD: dict[str, dict[str, str]] = {
    "plan.segment": {
        "labels": "grip the banana from above\nplace the banana into the basket",
        "gripper": "1.4 s: the gripper closes\n4.9 s: the gripper opens",
    },
    "plan.relabel": {"labels": "place the banana into the basket\nmove the arm back"},
    "plan.milestones": {"memory": "", "milestones": "I hold the banana.\nI put the banana into the basket."},
}
"""What the plan's steps are given beside the rest where there is a vocabulary, and where a gripper is told of."""


@pytest.mark.parametrize("step", HELD)
def test_a_step_that_is_held_to_a_vocabulary_says_what_a_person_has_read(
    step: str, snapshot: SnapshotAssertion
) -> None:
    shown = load_prompts()[step].text(INPUTS[step] | HELD[step])
    for value in HELD[step].values():
        assert value in shown
    assert "12 words" not in shown
    assert shown == snapshot


def test_a_second_ask_repeats_the_first_then_the_reply_then_the_error(snapshot: SnapshotAssertion) -> None:
    first = ask("plan.memory")
    again = load_prompts().ask_again(first, '{"memory": ""}', "Expected `str` of length >= 1 - at `$.memory`")
    assert again.messages[: len(first.messages)] == first.messages
    assert again.schema == first.schema
    assert [m.role for m in again.messages] == ["system", "user", "assistant", "user"]
    assert as_text(again).removeprefix(as_text(first)) == snapshot


@pytest.mark.parametrize("step", STEPS)
def test_every_step_shows_its_media_first_in_order_after_the_same_system_text(step: str) -> None:
    system, user = ask(step, pictures=3).messages
    assert user.parts[:3] == (Slot(0), Slot(1), Slot(2))
    assert [type(part) for part in user.parts[3:]] == [Text]
    assert system == ask("plan.memory").messages[0]


def test_steps_that_look_at_the_same_frames_share_everything_up_to_their_text() -> None:
    describe, segment = ask("plan.describe", pictures=2), ask("plan.segment", pictures=2)
    assert describe.messages[0] == segment.messages[0]
    assert describe.messages[1].parts[:2] == segment.messages[1].parts[:2]
    described, cut = describe.messages[1].parts[2], segment.messages[1].parts[2]
    assert isinstance(described, Text)
    assert isinstance(cut, Text)
    assert described.text.splitlines()[0] == cut.text.splitlines()[0] == VIEW


def test_the_task_is_not_shown_to_the_step_that_only_describes() -> None:
    assert "task" not in load_prompts()["plan.describe"].head.inputs


def test_every_step_of_the_plan_is_shipped_and_nothing_else() -> None:
    shipped = [*plan.STEPS, *interjections.STEPS, *vqa.STEPS, *discover.STEPS, "system", "retry"]
    assert [f.head.id for f in load_prompts()] == sorted(shipped)


@pytest.mark.parametrize(
    ("body", "inputs", "message"),
    [
        ("{{ task }} {{ memory }}", ["task"], "memory: the body uses it, the head does not list it"),
        ("{{ task }}", ["memory", "task"], "memory: listed in the head, unused"),
        ("{% if x %}a{% endif %}", [], "x: the body uses it"),
        ("no input {# {{ task }} #}", ["task"], "task: listed in the head, unused"),
    ],
)
def test_a_head_and_a_body_that_disagree_are_refused(body: str, inputs: Sequence[str], message: str) -> None:
    with pytest.raises(PromptError, match=r"inputs and body disagree – own.md") as caught:
        parse_prompt(memory_prompt(body, *inputs), where="own.md")
    assert message in caught.value.got
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("no head at all", "has no head"),
        ('said before\n+++\nid = "plan.memory"\ninputs = []\n+++\nx', "has no head"),
        ('+++\nid = "plan.memory"\ninputs = []\n', "has no head"),
        ('+++\nid = "plan.memory\n+++\nx', "head cannot be read"),
        ('+++\nid = "plan.memory"\n+++\nx', "head cannot be read – own.md – Object missing required field `inputs`"),
        ('+++\nid = "plan.memory"\ninputs = []\ntemperature = 1\n+++\nx', "unknown field `temperature`"),
        ('+++\nid = "plan.memory"\ninputs = []\nscope = "frame"\n+++\nx', "`$.scope`"),
        ('+++\nid = "plan.memory"\ninputs = []\nanswer = "Poem"\n+++\nx', "unknown answer – own.md – Poem"),
        (memory_prompt("{% if %}"), "no template – own.md, line 1 of the body"),
        (memory_prompt("{{ task|shout }}", "task"), "no template"),
        (memory_prompt("{{ task.name }}", "task"), "cannot be rendered – own.md"),
        (memory_prompt("{% include 'x' %}"), "cannot be rendered"),
        (memory_prompt("{{ 1 // (task|int) }}", "task"), "cannot be rendered"),
    ],
)
def test_a_malformed_prompt_is_refused_before_the_first_call(text: str, what: str) -> None:
    with pytest.raises(PromptError) as caught:
        parse_prompt(text, where="own.md")
    assert what in str(caught.value)
    assert caught.value.hint


def test_one_file_replaces_its_step_and_no_other(folder: Path) -> None:
    path = folder / "plan_memory.md"
    path.write_text(path.read_text().replace("at most two short sentences", "one sentence"))
    own, shipped = load_prompts(folder), load_prompts()
    assert own["plan.memory"].where == str(path)
    assert "one sentence" in as_text(ask("plan.memory", own))
    assert {f.head.id for f in own if f.digest != shipped[f.head.id].digest} == {"plan.memory"}
    assert ask("plan.segment", own) == ask("plan.segment")


def test_an_own_prompt_may_use_fewer_inputs_and_is_keyed_by_those_alone(folder: Path) -> None:
    (folder / "plan_memory.md").write_text(memory_prompt("Remember: {{ completed }}", "completed"))
    own = load_prompts(folder)
    assert own["plan.memory"].taken(INPUTS["plan.memory"]) == {"completed": "grip the banana from above"}
    assert as_text(ask("plan.memory", own)).endswith("Remember: grip the banana from above")


def test_an_own_prompt_may_not_want_what_its_step_is_not_given(folder: Path) -> None:
    (folder / "plan_memory.md").write_text(memory_prompt("{{ weather }}", "weather"))
    with pytest.raises(PromptError, match=r"unknown input – .*plan_memory.md – weather(.|\n)*is given task, memory"):
        load_prompts(folder)


def test_a_prompt_for_no_step_is_refused(folder: Path) -> None:
    (folder / "mine.md").write_text('+++\nid = "plan.poem"\ninputs = []\n+++\nx')
    with pytest.raises(PromptError, match=r"replaces no step – .*mine.md – plan.poem(.|\n)*ids are interjections."):
        load_prompts(folder)


def test_two_own_files_for_one_step_are_refused(folder: Path) -> None:
    shutil.copy(folder / "plan_memory.md", folder / "z.md")
    with pytest.raises(
        PromptError, match=r"two prompts replace one step – .*z.md – plan.memory, as plan_memory.md does"
    ):
        load_prompts(folder)


def test_a_prompt_that_is_not_text_is_refused(folder: Path) -> None:
    (folder / "plan_memory.md").write_bytes(b"+++\n\xff\xfe")
    with pytest.raises(PromptError, match="cannot be read"):
        load_prompts(folder)


def test_a_folder_of_prompts_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="no such folder"):
        load_prompts(tmp_path / "nowhere")


def test_a_folder_without_a_prompt_is_refused_like_one_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"no prompts there – .* – no \.md file"):
        load_prompts(tmp_path)


@pytest.mark.parametrize("told", ["gripper", "commanded", "description"])
def test_an_instruction_stands_apart_from_what_was_noted_before_it(told: str) -> None:
    noted = {"description": "", "gripper": "", "commanded": "", told: "1.4 s: noted"}
    shown = load_prompts()["plan.segment"].text(INPUTS["plan.segment"] | noted)
    before, _, _ = shown.partition("Divide the part")
    assert before.endswith("\n\n")
    assert "\n\n\n" not in shown


def test_a_command_to_the_gripper_is_told_as_one_and_no_reading() -> None:
    segment = load_prompts()["plan.segment"]
    command = {"commanded": "1.4 s: the gripper is told to close"}
    shown = segment.text(INPUTS["plan.segment"] | command)
    assert "commands, not readings" in shown
    assert "sensors" not in shown
    assert "commands" not in segment.text(INPUTS["plan.segment"] | {"gripper": "1.4 s: the gripper closes"})


@pytest.mark.parametrize("labels", ["", "grip the banana from above"])
def test_where_there_is_no_footage_nobody_is_told_to_look_at_it(labels: str) -> None:
    blind = {"view": "There is nothing to see.", "description": "", "footage": "", "labels": labels}
    noted = {"gripper": "1.4 s: the gripper closes", "commanded": "1.4 s: the gripper is told to close"}
    shown = load_prompts()["plan.segment"].text(INPUTS["plan.segment"] | blind | noted)
    told = shown.replace("on the clock of the footage", "")
    assert [word for word in ("footage", "frames", "seen", "you see") if word in told] == []


def test_a_wrong_prompt_stops_a_run_before_anything_is_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shutil.copytree(BANANA, tmp_path / "banana")
    (folder / "plan_memory.md").write_text(memory_prompt("{{ task }}", "task", "memory"))
    assert main(["sync", str(root), "--prompts", str(folder), "--vlm.backend", "signals"]) == 2
    assert "inputs and body disagree" in capsys.readouterr().err
    assert not (root / ".annotator").exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# Rewrites", "# Says anew:"),
        ('scope = "episode"\n', ""),
        ("A robot is at work", "{# why: #}A robot is at work"),
        ("A robot is at work", "{# a line of its own #}\nA robot is at work"),
        ("A robot is at work", "{# over\ntwo lines, {{ not_an_input }} #}\nA robot is at work"),
        ('it remembers>"}\n', 'it remembers>"}\n\n{# the end #}\n'),
    ],
)
def test_a_comment_or_a_head_changes_neither_the_digest_nor_what_is_sent(folder: Path, old: str, new: str) -> None:
    path = folder / "plan_memory.md"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    own = load_prompts(folder)
    assert own["plan.memory"].digest == load_prompts()["plan.memory"].digest
    assert digest_struct(ask("plan.memory", own)) == digest_struct(ask("plan.memory"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("two short sentences", "two sentences"),
        ("{{ completed }}", "{{ completed|upper }}"),
        ("{{ completed }}", "{{ upcoming }} {{ completed }}"),
        ("{% if memory %}", "{% if not memory %}"),
        ("A robot is at work", "A robot  is at work"),
    ],
)
def test_an_edited_body_changes_the_digest_and_what_is_sent(folder: Path, old: str, new: str) -> None:
    path = folder / "plan_memory.md"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    own = load_prompts(folder)
    assert own["plan.memory"].digest != load_prompts()["plan.memory"].digest
    assert digest_struct(ask("plan.memory", own)) != digest_struct(ask("plan.memory"))


def test_a_step_depends_on_its_own_text_and_on_what_every_step_says() -> None:
    prompts = load_prompts()
    assert prompts.digests(["plan.memory"]) == {
        step: prompts[step].digest for step in ("system", "retry", "plan.memory")
    }


def test_an_input_that_was_not_given_is_refused() -> None:
    with pytest.raises(PromptError, match=r"lacks an input – prompts/plan_memory.md – memory, upcoming"):
        load_prompts()["plan.memory"].text({"task": "", "completed": ""})


def test_values_are_inserted_as_they_are() -> None:
    file = parse_prompt(memory_prompt("Task: {{ task }}", "task"), where="own.md")
    odd = 'a <b> & "c" {{ d }} {% e %} {"json": 1}'
    assert file.text({"task": odd}) == f"Task: {odd}"


def test_ejected_prompts_are_the_shipped_ones_and_loading_them_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "new" / "prompts"
    assert main(["prompts", "eject", str(target)]) == 0
    printed = capsys.readouterr().out.split()
    assert printed == [str(target / name) for name, _ in shipped_files()]
    assert {p.name: p.read_text() for p in target.iterdir()} == dict(shipped_files())
    assert [f.digest for f in load_prompts(target)] == [f.digest for f in load_prompts()]


def test_ejecting_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "retry.md").write_text("mine")
    with pytest.raises(PromptError, match=r"would be overwritten – .*retry.md"):
        eject(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["retry.md"]
    assert (tmp_path / "retry.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("old", "new"),
    [('answer = "Memory"', 'answer = "Task"'), ('frames = "none"', 'frames = "window"'), ('"episode"', '"dataset"')],
)
def test_a_head_that_says_otherwise_than_its_step_is_refused(tmp_path: Path, old: str, new: str) -> None:
    text = dict(shipped_files())["plan_memory.md"]
    assert old in text
    (tmp_path / "plan_memory.md").write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(PromptError, match=r"head does not fit its step – .*\n?.*hint"):
        load_prompts(tmp_path)


def test_prompts_that_cannot_be_copied_out_are_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PromptError, match="cannot be copied"):
        eject(tmp_path / "file" / "below")
