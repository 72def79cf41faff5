"""The doctor says what it found by asking, and what would stop a sync."""

import asyncio
import json
from typing import Any

import msgspec
import pytest

from annotator import doctor
from annotator.settings import VlmSettings
from tests.engine.conftest import RunningServer

MODEL = "test-model"


def examine(server: RunningServer | None = None, **settings: Any) -> dict[str, doctor.Check]:
    async def scenario() -> list[doctor.Check]:
        base = server.api_base if server else "http://127.0.0.1:9/v1"
        values = {"api_base": base, "model_id": MODEL, "request_max_retries": 0} | settings
        vlm = msgspec.convert(values, VlmSettings)
        return [check async for check in doctor.engine(vlm)]

    return {check.what: check for check in asyncio.run(scenario())}


def test_a_server_that_can_do_everything_is_told_so(server: RunningServer) -> None:
    server.set_faults()
    checks = examine(server)
    assert list(checks) == ["engine", "answers in the schema", "takes images", "takes video", "keeps to the seed"]
    assert {check.state for check in checks.values()} == {"ok"}
    assert server.api_base in checks["engine"].found
    sent = server.bodies()
    contents = [message["content"] for body in sent for message in body["messages"]]
    kinds = [part["type"] for content in contents if isinstance(content, list) for part in content]
    assert kinds.count("image_url") == 1
    assert kinds.count("video_url") == 1
    assert [body["seed"] for body in sent[-3:]] == [1, 1, 2]
    assert {body["temperature"] for body in sent[-3:]} == {1.0}


def test_a_schema_that_is_taken_and_ignored_is_found_out(server: RunningServer) -> None:
    server.set_faults()
    server.tell({"step": "doctor_held", "answer": {"answer": "a dog"}})
    try:
        found = examine(server)["answers in the schema"]
    finally:
        server.tell()
    assert found.state == "fails"
    assert "'a dog'" in found.found


@pytest.mark.parametrize(
    ("fault", "says"), [("http_400", "400"), ("wrong_schema", "does not fit its schema"), ("garbage", "")]
)
def test_what_an_engine_cannot_do_is_said_of_that_alone(server: RunningServer, fault: str, says: str) -> None:
    server.set_faults({"fault": fault, "step": "doctor_video"})
    checks = examine(server)
    server.set_faults()
    assert checks["takes video"].state == "fails"
    assert says in checks["takes video"].found
    assert checks["takes images"].state == "ok"


def test_without_a_server_the_hint_says_how_to_get_one() -> None:
    checks = examine()
    assert checks["engine"].state == "fails"
    assert "hint:" in checks["engine"].found


def test_an_engine_without_a_model_is_asked_nothing() -> None:
    assert list(examine(backend="signals")) == ["engine"]


def test_what_is_installed_is_named_with_its_version() -> None:
    checks = {check.what: check for check in doctor.installed()}
    assert set(checks) == set(doctor.PACKAGES)
    assert checks["duckdb"].state == "ok"
    assert checks["duckdb"].found[0].isdigit()
    assert json.dumps([check.found for check in checks.values()])


def test_gpus_are_listed_as_the_driver_names_them(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "nvidia-smi"
    fake.write_text("#!/bin/sh\necho 'NVIDIA H200, 143771 MiB, 570.1'\necho 'NVIDIA H200, 143771 MiB, 570.1'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert [check.found for check in doctor.gpus()] == ["NVIDIA H200, 143771 MiB, 570.1"] * 2
    fake.write_text("#!/bin/sh\nexit 9\n")
    assert [check.state for check in doctor.gpus()] == ["none"]
    monkeypatch.setenv("PATH", "")
    assert [check.found for check in doctor.gpus()] == ["no NVIDIA driver"]
