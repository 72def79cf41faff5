"""The doctor says what it found by asking, and what would stop a sync."""

import asyncio
import http.server
import json
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from annotator.cli.main import main
from annotator.cli.run.doctor import ViewSettings, parse_doctor
from annotator.config.settings import VlmSettings
from annotator.vlm import diagnose as doctor
from tests.vlm.conftest import SERVER, RunningServer

MODEL = "test-model"


def examine(
    server: RunningServer | None = None, *, video_needed: bool = False, **settings: Any
) -> dict[str, doctor.Check]:
    async def scenario() -> list[doctor.Check]:
        base = server.api_base if server else "http://127.0.0.1:9/v1"
        values = {"api_base": base, "model_id": MODEL, "request_max_retries": 0} | settings
        vlm = msgspec.convert(values, VlmSettings)
        return [check async for check in doctor.engine(vlm, video_needed=video_needed)]

    return {check.what: check for check in asyncio.run(scenario())}


Tokens = Callable[[int, int], int | None]
"""What a server says a prompt of so many images and frames of video took; None where it says nothing."""


@contextmanager
def counting(tokens: Tokens) -> Generator[str]:
    """Run a server that answers what the doctor wants to hear, and counts tokens as told."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._say({"data": [{"id": MODEL}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            parts: list[Any] = [
                part for one in body["messages"] if isinstance(one["content"], list) for part in one["content"]
            ]
            frames = sum(part["video_url"]["url"].count(",") for part in parts if part["type"] == "video_url")
            count = tokens(sum(part["type"] == "image_url" for part in parts), frames)
            reply: dict[str, Any] = {"choices": [{"message": {"content": '{"answer": "zebra-7"}'}}]}
            self._say(reply if count is None else reply | {"usage": {"prompt_tokens": count}})

        def _say(self, value: Any) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(value).encode())

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


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
    assert kinds.count("video_url") == 2
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
    checks = examine(server, video_needed=True)
    server.set_faults()
    assert checks["takes video"].state == "fails"
    assert says in checks["takes video"].found
    assert checks["takes images"].state == "ok"


def test_a_server_without_video_fails_only_a_sync_that_shows_video(server: RunningServer) -> None:
    server.set_faults({"fault": "http_400", "step": "doctor_video"})
    flags = ["--vlm.api_base", server.api_base, "--vlm.model_id", MODEL]
    assert main(["doctor", *flags]) == 0
    assert main(["doctor", *flags, "--plan.view", "video"]) == 1
    found = examine(server)["takes video"]
    server.set_faults()
    assert found.state == "none"
    assert "only --plan.view video needs it" in found.found


def test_a_picture_that_is_taken_and_not_looked_at_is_found_out() -> None:
    with counting(lambda images, frames: 20 + 4 * frames) as base:
        checks = examine(api_base=base)
    assert checks["takes images"].state == "fails"
    assert "dropped" in checks["takes images"].found
    assert checks["takes video"].state == "ok"


def test_frames_that_are_cut_off_are_found_out_and_the_hint_keeps_them() -> None:
    # A times' digits may make the longer video's prompt a little longer all the same.
    with counting(lambda images, frames: 20 + 16 * images + 4 * min(frames, 32) + frames // 10) as base:
        checks = examine(api_base=base, video_needed=True)
    assert checks["takes images"].state == "ok"
    assert checks["takes video"].state == "fails"
    assert "not all frames are looked at" in checks["takes video"].found
    assert "--media-io-kwargs" in checks["takes video"].found


def test_where_nobody_counts_tokens_the_doctor_says_that_it_cannot_tell() -> None:
    with counting(lambda images, frames: None) as base:
        checks = examine(api_base=base)
    for what in ("takes images", "takes video"):
        assert checks[what].state == "none"
        assert "cannot tell" in checks[what].found


def test_servers_that_are_started_to_be_asked_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    checks = examine(backend="serve", serve_command=f"{sys.executable} {SERVER} --port {{port}}")
    assert checks["takes images"].state == "ok"
    assert list(tmp_path.iterdir()) == []


def test_the_doctor_reads_the_settings_file_that_a_sync_would_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "annotator.toml").write_text('seed = 3\n[vlm]\nbackend = "signals"\n[plan]\nview = "video"\n')
    (tmp_path / "other.toml").write_text('[vlm]\nbackend = "scripted"\n')
    assert (parse_doctor([]).vlm.backend, parse_doctor([]).plan) == ("signals", ViewSettings(view="video"))
    assert parse_doctor(["--config", "other.toml"]).vlm.backend == "scripted"
    assert parse_doctor(["--vlm.backend", "offline"]).vlm.backend == "offline"


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
