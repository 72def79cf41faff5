"""`meta/info.json`: what is declared, and that nothing else moves."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from annotator_store.atomic_files import LEFTOVER_SUFFIX
from annotator_store.errors import StoreError
from annotator_store.parquet.info_json import declare_language, update_info

CR5 = Path(__file__).parents[1] / "data" / "cr5_banana" / "meta" / "info.json"
LANGUAGE = {"dtype": "language", "shape": [1], "names": None}
INFO: dict[str, Any] = {"codebase_version": "v3.0", "fps": 10, "features": {"action": {"dtype": "float32"}}}


@pytest.fixture
def info_path(tmp_path: Path) -> Path:
    return Path(shutil.copy(CR5, tmp_path))


def test_both_columns_are_declared_after_the_others() -> None:
    declared = declare_language(INFO)
    assert list(declared["features"]) == ["action", "language_persistent", "language_events"]
    assert declared["features"]["language_persistent"] == declared["features"]["language_events"] == LANGUAGE
    assert declared["codebase_version"] == "v3.0"


def test_say_is_declared_as_a_function_that_takes_a_text() -> None:
    (tool,) = declare_language(INFO)["tools"]
    assert (tool["type"], tool["function"]["name"]) == ("function", "say")
    assert tool["function"]["parameters"]["required"] == ["text"]
    assert tool["function"]["parameters"]["properties"]["text"]["type"] == "string"


def test_the_info_given_is_not_changed_and_declaring_twice_changes_nothing() -> None:
    given = copy.deepcopy(INFO)
    once = declare_language(given)
    assert given == INFO
    assert declare_language(once) == once


def test_tools_of_the_user_stay_also_an_own_say() -> None:
    beep = {"type": "function", "function": {"name": "beep"}}
    say = {"type": "function", "function": {"name": "say", "description": "mine"}}
    assert declare_language(INFO | {"tools": [beep]})["tools"][0] == beep
    assert len(declare_language(INFO | {"tools": [beep]})["tools"]) == 2
    assert declare_language(INFO | {"tools": [say, beep, "odd"]})["tools"] == [say, beep, "odd"]
    assert len(declare_language(INFO | {"tools": None})["tools"]) == 1


def test_what_a_user_added_to_a_language_feature_stays() -> None:
    features = {"language_events": {"dtype": "string", "fps": 10}, "action": {}}
    declared = declare_language({"features": features})["features"]
    assert declared["language_events"] == LANGUAGE | {"fps": 10}
    assert list(declared) == ["language_events", "action", "language_persistent"]


@pytest.mark.parametrize("info", [{}, {"features": []}, {"features": {}, "tools": {"say": 1}}])
def test_an_info_that_is_not_lerobots_is_refused(info: dict[str, Any]) -> None:
    with pytest.raises(StoreError, match="hint:"):
        declare_language(info)


def test_a_real_file_keeps_every_line_it_had(info_path: Path) -> None:
    before = info_path.read_text()
    assert update_info(info_path)
    after = info_path.read_text()
    assert json.loads(after)["features"]["language_events"] == LANGUAGE
    lines = iter(after.splitlines())
    missing = [line for line in before.splitlines() if line.rstrip(",") not in (found.rstrip(",") for found in lines)]
    assert missing == []
    assert list(json.loads(after)) == [*json.loads(before), "tools"]


@pytest.mark.parametrize(
    "style",
    [{"indent": 4}, {"indent": 2}, {"indent": "\t"}, {}, {"indent": 4, "ensure_ascii": False}],
    ids=str,
)
@pytest.mark.parametrize("end", ["", "\n"])
def test_the_style_of_a_file_stays(tmp_path: Path, style: dict[str, Any], end: str) -> None:
    path = tmp_path / "info.json"
    info = INFO | {"robot_type": "Gerät 机"}
    path.write_bytes((json.dumps(info, **style) + end).encode())
    assert update_info(path)
    assert path.read_bytes().decode() == json.dumps(declare_language(info), **style) + end


def test_a_file_that_is_right_is_not_written(info_path: Path) -> None:
    assert update_info(info_path)
    info_path.write_text(json.dumps(json.loads(info_path.read_text()), indent=3))
    before = info_path.stat()
    assert not update_info(info_path)
    assert info_path.stat() == before


def test_permissions_stay_and_nothing_is_left_behind(info_path: Path) -> None:
    info_path.chmod(0o640)
    assert update_info(info_path)
    assert info_path.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in info_path.parent.iterdir()] == ["info.json"]


def test_a_write_that_fails_leaves_the_file_as_it_was(info_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = info_path.read_bytes()
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreError, match="free space"):
        update_info(info_path)
    assert info_path.read_bytes() == before
    assert not [path for path in info_path.parent.iterdir() if path.name.endswith(LEFTOVER_SUFFIX)]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]"])
def test_a_file_that_is_no_info_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "info.json"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"info\.json"):
        update_info(path)
    assert path.read_bytes() == content
