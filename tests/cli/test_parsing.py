"""From a command line and an `annotator.toml` to settings, by the same names."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
import pytest

from annotator.cli.hub.job import parse_submit
from annotator.cli.look.log import LogArguments
from annotator.cli.look.query import QueryArguments
from annotator.cli.main import main
from annotator.cli.parsing import parse, parse_sync
from annotator.cli.run.prompts import PromptsArguments
from annotator.config.load import parse_episodes, replaced, validated
from annotator.config.settings import PlanSettings, Settings, SyncSettings, VlmSettings
from annotator.errors import UsageError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, so that no annotator.toml lies about."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_arguments_every_setting_has_its_default() -> None:
    assert parse_sync([]) == SyncSettings()


def test_a_dataset_may_stand_before_between_or_after_the_options_or_be_named() -> None:
    expected = SyncSettings(root=Path("d"), seed=7, offline=True)
    for line in ("d --seed 7 --offline", "--seed 7 d --offline", "--offline --seed=7 d", "--root d --seed 7 --offline"):
        assert parse_sync(line.split()) == expected, line


@pytest.mark.parametrize(
    ("flag", "value", "read"),
    [
        ("--vlm.model_id", "some/model", lambda s: s.vlm.model_id == "some/model"),
        ("--vlm.model-id", "some/model", lambda s: s.vlm.model_id == "some/model"),
        ("--plan.n_task_rephrasings", "3", lambda s: s.plan.n_task_rephrasings == 3),
        ("--plan.n-task-rephrasings", "3", lambda s: s.plan.n_task_rephrasings == 3),
        ("--plan.min_subtask_seconds", "2", lambda s: s.plan.min_subtask_seconds == 2.0),
        ("--plan.view", "video", lambda s: s.plan.view == "video"),
        ("--executor.episode_parallelism", "2", lambda s: s.executor.episode_parallelism == 2),
        ("--only_episodes", "0,5-9", lambda s: s.only_episodes == "0,5-9"),
        ("--only-episodes", "[0, 5]", lambda s: s.only_episodes == "[0, 5]"),
        ("--output", "some where", lambda s: s.output == Path("some where")),
        ("--seed", "-1", lambda s: s.seed == -1),
        ("--vlm.reasoning_effort", "low", lambda s: s.vlm.reasoning_effort == "low"),
        ("--vlm.chat_template_kwargs", '{"a": {"b": [1]}}', lambda s: s.vlm.chat_template_kwargs == {"a": {"b": [1]}}),
    ],
)  # fmt: skip
def test_names_are_dotted_and_take_underscores_or_hyphens(
    flag: str, value: str, read: Callable[[SyncSettings], bool]
) -> None:
    assert read(parse_sync(["d", flag, value]))
    assert read(parse_sync(["d", f"{flag}={value}"]))
    assert not read(parse_sync(["d"]))


@pytest.mark.parametrize("word", ["true", "True", "TRUE", "1", "yes", "on"])
def test_a_flag_is_switched_on_by_any_word_for_it(word: str) -> None:
    assert parse_sync(["d", "--offline", word]).offline
    assert parse_sync(["d", f"--offline={word}"]).offline


@pytest.mark.parametrize("word", ["false", "False", "0", "no", "off"])
def test_a_flag_is_switched_off_by_any_word_for_it(word: str) -> None:
    assert not parse_sync(["d", f"--plan.emit_plan={word}"]).plan.emit_plan
    assert not parse_sync(["d", "--plan.emit-plan", word]).plan.emit_plan


def test_a_bare_flag_means_true_and_swallows_nothing() -> None:
    assert parse_sync(["--offline", "d"]) == SyncSettings(root=Path("d"), offline=True)
    assert parse_sync(["d", "--plan.subtask-describe-first", "--seed", "3"]).seed == 3


def every_name(kind: type[Settings] = SyncSettings, prefix: str = "") -> list[tuple[str, Any]]:
    names: list[tuple[str, Any]] = []
    for field in msgspec.structs.fields(kind):
        if isinstance(field.type, type) and issubclass(field.type, Settings):
            names += every_name(field.type, f"{prefix}{field.name}.")
        else:
            names.append((f"{prefix}{field.name}", field.type))
    return names


def a_value_of(kind: Any) -> str:
    """Some text that a setting of this type takes."""
    if get_origin(kind) is tuple:
        return a_value_of(get_args(kind)[0])
    for candidate in ("true", "1", "{}", "video", "signals", "always", "bbox", "pixels", "abort"):
        try:
            msgspec.convert(candidate, kind, strict=False)
        except (msgspec.ValidationError, TypeError):
            continue
        return candidate
    return "{}" if "dict" in str(kind) else "x"


@pytest.mark.parametrize(("name", "kind"), every_name(), ids=lambda v: v if isinstance(v, str) else "")
def test_every_setting_is_an_option(name: str, kind: Any) -> None:
    parse_sync([f"--{name}", a_value_of(kind)])


@pytest.mark.parametrize(
    "line",
    [
        "--vlm.api_base http://a/v1 d --vlm.api_base http://b/v1",
        "--vlm.api_base=http://a/v1 --vlm.api-base=http://b/v1 d",
        "d --vlm.api_base http://a/v1 --vlm.api_base=http://b/v1",
        "d --vlm.api_base http://a/v1,http://b/v1",
    ],
)
def test_endpoints_may_be_named_one_by_one(line: str) -> None:
    expected = SyncSettings(root=Path("d"), vlm=VlmSettings(api_base="http://a/v1,http://b/v1"))
    assert parse_sync(line.split()) == expected
    assert parse_submit(line.split())[1] == expected


def test_of_any_other_option_that_is_repeated_the_last_one_counts() -> None:
    assert parse_sync(["d", "--seed", "1", "--seed=2"]).seed == 2


@pytest.mark.parametrize("given", ["bbox,count", "bbox, count", "[bbox,count]", "['bbox', 'count']"])
def test_several_texts_are_one_value_joined_by_commas(given: str) -> None:
    assert parse_sync(["d", "--vqa.question_types", given]).vqa.question_types == ("bbox", "count")
    assert parse_sync(["--vlm.camera_keys", "a,b", "d"]) == SyncSettings(
        root=Path("d"), vlm=VlmSettings(camera_keys=("a", "b"))
    )


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--vqa.vqa_emission_hz", "0"),
        ("--vqa.K", "0"),
        ("--interjections.interjection_window_frames", "0"),
        ("--interjections.interjection_min_t", "-1"),
        ("--vocabulary.sample_episodes", "0"),
        ("--plan.task_aug_axes.omit_arm", "-1"),
        ("--plan.task_aug_axes.omit_arm", "17"),
        ("--plan.n_task_rephrasings", "65"),
        ("--plan.subtask_relabel_frames", "0"),
        ("--vqa.question_types", ""),
    ],
)
def test_a_value_that_no_run_could_mean_is_refused_by_name(flag: str, value: str) -> None:
    with pytest.raises(UsageError, match=re.escape(flag)):
        validated(parse_sync(["d", flag, value]))


def test_one_camera_setting_rules_out_the_other() -> None:
    with pytest.raises(UsageError, match="two settings name cameras"):
        validated(parse_sync(["d", "--vlm.camera_key", "a", "--vlm.camera_keys", "a,b"]))


TOML = """
seed = 3
only_episodes = "0"

[plan]
n-task-rephrasings = 4
emit_plan = false

[vlm]
model_id = "from/toml"
chat_template_kwargs = { enable-thinking = false }
"""


def test_the_settings_file_takes_the_same_names(tmp_path: Path) -> None:
    (tmp_path / "annotator.toml").write_text(TOML)
    settings = parse_sync(["d"])
    assert (settings.root, settings.seed, settings.only_episodes) == (Path("d"), 3, "0")
    assert settings.plan == PlanSettings(n_task_rephrasings=4, emit_plan=False)
    assert settings.vlm.model_id == "from/toml"
    assert settings.vlm.chat_template_kwargs == {"enable-thinking": False}


def test_the_command_line_wins_over_the_settings_file(tmp_path: Path) -> None:
    (tmp_path / "annotator.toml").write_text(TOML)
    settings = parse_sync(["d", "--seed", "8", "--plan.emit-plan", "--vlm.model_id=from/line"])
    assert (settings.seed, settings.plan.emit_plan, settings.vlm.model_id) == (8, True, "from/line")
    assert settings.plan.n_task_rephrasings == 4


def test_a_settings_file_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "annotator.toml").write_text("seed = 1")
    (tmp_path / "other.toml").write_text("seed = 2")
    assert parse_sync(["d", "--config", "other.toml"]).seed == 2
    assert parse_sync(["--config=other.toml", "d"]) == SyncSettings(root=Path("d"), seed=2)
    assert parse_sync(["d"]).seed == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sed = 3", "no such setting – annotator.toml – sed\nhint: names are those of `annotator sync --help`"),
        ("[plan]\nrephrasings = 3", "no such setting – annotator.toml – plan.rephrasings"),
        ('seed = "3"', "setting cannot be read – --seed in annotator.toml – '3'\nhint: expected integer"),
        ("plan = 3", "no such setting – annotator.toml – plan\n"),
        (
            '[plan]\nview = "hologram"',
            "cannot be read – --plan.view in annotator.toml – 'hologram'\nhint: expected `contact_sheets`, `video`",
        ),
        (
            "[plan]\nframes_per_second = 0.0",
            "setting out of range – --plan.frames_per_second in annotator.toml – 0.0\nhint: expected number, above 0",
        ),
        ("seed = ", "settings cannot be read – annotator.toml – Invalid value"),
    ],
)
def test_a_settings_file_with_a_mistake_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "annotator.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        parse_sync(["d"])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "hint"),
    [
        ("--plan.frames_per_second", "0", "expected number, above 0"),
        ("--plan.contact_sheet_quality", "96", "expected integer, 1 to 95"),
        ("--vlm.temperature", "-0.5", "expected number, 0 or more"),
    ],
)
def test_a_range_is_told_alike_wherever_the_value_comes_from(name: str, text: str, hint: str, tmp_path: Path) -> None:
    group, _, field = name.removeprefix("--").partition(".")
    value = msgspec.json.decode(text)
    built = replaced(SyncSettings(), {f"{group}.{field}": value})
    (tmp_path / "annotator.toml").write_text(f"[{group}]\n{field} = {text}\n")
    told: list[str] = []
    for read in (lambda: validated(built), lambda: parse_sync([]), lambda: parse_sync(["--config=none", name, text])):
        (tmp_path / "none").write_text("")
        with pytest.raises(UsageError) as caught:
            read()
        told.append(str(caught.value).replace(" in annotator.toml", "").replace(f"{float(text)}", text))
    assert set(told) == {f"setting out of range – {name} – {text}\nhint: {hint}"}


def test_a_settings_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match=r"settings cannot be read – nowhere.toml"):
        parse_sync(["d", "--config", "nowhere.toml"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["sync", "--no_such_option", "1"],
        ["sync", "d", "--seed", "many"],
        ["sync", "d", "--seed"],
        ["sync", "d", "--offline", "--plan.emit_plan", "maybe"],
        ["sync", "d", "--plan.emit_plan=maybe"],
        ["sync", "d", "--plan.view", "hologram"],
        ["sync", "d", "--vlm.chat_template_kwargs", "{not json"],
        ["sync", "d", "--vlm.chat_template_kwargs", "[1]"],
        ["sync", "d", "--vlm.api_base", "http://a/v1", "--vlm.api_base"],
        ["sync", "d", "--vlm.api_base", "--seed", "1"],
        ["sync", "d", "--config"],
        ["sync", "one", "two"],
        ["sync", "d", "--config", "nowhere.toml"],
        ["sync", "d", "--only_episodes", "x"],
        ["sync", "d", "--plan.frames_per_second", "0"],
        ["query"],
        ["query", "SELECT 1", "--format", "xml"],
        ["log", "--format", "xml"],
        ["prompts", "burn"],
        ["no-such-command"],
        [],
    ],
    ids=" ".join,
)
def test_what_cannot_be_meant_exits_with_status_2_and_says_why_on_stderr(
    arguments: list[str], capsys: pytest.CaptureFixture[str], make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    make_dataset(tmp_path, name="d", cameras=())
    try:
        status = main(arguments)
    except SystemExit as leaving:
        status = leaving.code
    said = capsys.readouterr()
    assert status == 2
    assert "Traceback" not in said.err
    assert said.err or said.out.startswith("usage:")
    assert not (tmp_path / "d" / ".annotator").exists()


@pytest.mark.parametrize("command", ["sync", "query", "log", "prompts"])
def test_every_command_explains_its_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main([command, "--help"])
    assert leaving.value.code == 0
    assert f"annotator {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line",
    ["--executor.episode_parallelism 0", "--executor.write_threads -1", "--vlm.temperature nan", "--vlm.top_p inf"],
)
def test_a_setting_of_another_group_out_of_range_is_named(line: str) -> None:
    with pytest.raises(UsageError, match=f"out of range – {line.split(maxsplit=1)[0]}"):
        validated(parse_sync(line.split()))


def test_the_small_commands_read_their_arguments() -> None:
    query = parse("query", QueryArguments, ["SELECT 1", "--root", "d", "--format", "csv"])
    assert (query.sql, query.root, query.store, query.format) == ("SELECT 1", Path("d"), None, "csv")
    assert parse("log", LogArguments, ["d"]).folder == parse("log", LogArguments, ["--root", "d"]).folder == Path("d")
    assert parse("log", LogArguments, []).folder == Path()
    prompts = parse("prompts", PromptsArguments, ["eject", "folder"])
    assert (prompts.action, prompts.folder) == ("eject", Path("folder"))
    assert parse("prompts", PromptsArguments, []).action == "list"


def test_a_settings_file_may_name_folders_and_list_episodes(tmp_path: Path) -> None:
    file = tmp_path / "annotator.toml"
    file.write_text('root = "there"\nstore = "log"\nonly_episodes = [0, 2]\n', encoding="utf-8")
    settings = parse_sync(["--config", str(file)])
    assert (settings.root, settings.store) == (Path("there"), Path("log"))
    assert parse_episodes(settings.only_episodes, [0, 1, 2]) == [0, 2]
    file.write_text("store = 3\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"annotator\.toml"):
        parse_sync(["--config", str(file)])


@pytest.mark.parametrize("value", ["nan", "[1.0, inf]"])
def test_a_number_that_no_key_can_cover_is_refused(tmp_path: Path, value: str) -> None:
    file = tmp_path / "annotator.toml"
    file.write_text(f"[vlm]\nchat_template_kwargs = {{ a = {value} }}\n", encoding="utf-8")
    with pytest.raises(UsageError, match="not a finite number"):
        validated(parse_sync(["--config", str(file)]))
