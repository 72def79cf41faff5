"""vLLM in this process, and as a server. The contracts, with a real model, run where vLLM is installed."""

import asyncio
import base64
import sys
from pathlib import Path

import pytest

from annotator.config.settings import VlmSettings
from annotator.errors import NoEngine
from annotator.vlm.openai import engine as openai_engine
from annotator.vlm.registry import choose_engine
from annotator.vlm.vllm_local.messages import conversation
from tests.contracts.engine_contract import make_picture, make_request
from tests.vlm.real_engines import run_real


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_contract_holds_in_this_process_with_a_real_model() -> None:
    run_real("test_vllm.py")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_contract_holds_for_a_real_server_that_is_started_and_for_one_that_is_found() -> None:
    run_real("test_vllm_server.py")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_dataset_is_annotated_through_a_real_server_and_vllm_in_this_process_reuses_the_answers() -> None:
    run_real("test_sync.py")


def test_messages_carry_text_as_text_and_pictures_under_their_digests() -> None:
    sheet, video = make_picture(), make_picture("video", frames=3)
    system, user = conversation(make_request(text="What is it?", pictures=(sheet, video)))
    assert system == {"role": "system", "content": "You annotate robot episodes."}
    image, film, text = user["content"]
    assert (image["type"], image["uuid"]) == ("image_url", sheet.media_digest)
    assert (film["type"], film["uuid"]) == ("video_url", video.media_digest)
    assert text == {"type": "text", "text": "What is it?"}
    kind, coded = film["video_url"]["url"].split(";base64,")
    assert kind == "data:video/jpeg"
    assert [base64.b64decode(frame) for frame in coded.split(",")] == list(video.jpegs)


def test_auto_loads_vllm_itself_where_there_is_a_gpu_no_server_and_none_is_to_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vLLM that is found here breaks when it is imported, which is late and one clear problem."""
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("raise ImportError('libcudart.so is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    for name in ("VLLM_WORKER_MULTIPROC_METHOD", "VLLM_LOGGING_STREAM", "VLLM_LOGGING_LEVEL"):
        monkeypatch.setenv(name, "")  # what is set before vLLM is imported goes again with the test
    monkeypatch.setattr(openai_engine, "DEFAULT_API_BASE", "http://127.0.0.1:9/v1")
    said: list[str] = []
    with pytest.raises(NoEngine) as caught:
        asyncio.run(choose_engine(VlmSettings(auto_serve=False), said.append, offline=False))
    assert said[-1] == "engine: vllm – loading Qwen/Qwen3-VL-8B-Instruct for this run"
    assert caught.value.what == "vLLM does not start"
    assert "libcudart.so is missing" in caught.value.got
    assert "vllm" not in sys.modules


def test_without_a_gpu_auto_loads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("raise ImportError('never imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(openai_engine, "DEFAULT_API_BASE", "http://127.0.0.1:9/v1")
    with pytest.raises(NoEngine) as caught:
        asyncio.run(choose_engine(VlmSettings(auto_serve=False), lambda _: None, offline=False))
    assert caught.value.what == "no engine"
    assert "--vlm.backend transformers" in caught.value.hint
