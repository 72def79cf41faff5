"""What is recorded of servers that a run starts itself."""

import os
from pathlib import Path

import pytest
from huggingface_hub import constants

from annotator.config.settings import VlmSettings
from annotator.vlm.vllm_server.info import ServerInfo, commit_of, read_server_info

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub's cache, in which one model lies, of one commit."""
    folder = tmp_path / "models--org--model"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    (folder / "snapshots" / COMMIT / "config.json").write_text("{}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))


def with_gpus(tmp_path: Path, names: str) -> dict[str, str]:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\nprintf '{names}'\n")
    tool.chmod(0o755)
    return {"PATH": f"{tmp_path}:{os.environ['PATH']}"}


@pytest.mark.usefixtures("cached")
def test_the_commit_the_hardware_and_batch_invariance_are_known(tmp_path: Path) -> None:
    environment = with_gpus(tmp_path, r"NVIDIA H200\nNVIDIA H200\nNVIDIA L4\n")
    versions = {"hardware": "2 × NVIDIA H200, 1 × NVIDIA L4", "batch_invariant": "false"}
    vlm = VlmSettings(model_id="org/model")
    assert read_server_info(vlm, environment) == ServerInfo(model_revision=COMMIT, versions=versions)
    same_text = read_server_info(vlm, {**environment, "VLLM_BATCH_INVARIANT": "1"})
    assert same_text.versions["batch_invariant"] == "true"


def test_of_what_another_command_starts_only_the_hardware_is_known(tmp_path: Path) -> None:
    vlm = VlmSettings(model_id="org/model", serve_command="anything {port}")
    info = read_server_info(vlm, {"PATH": str(tmp_path)})
    assert info.model_revision is None
    assert list(info.versions) == ["hardware"]
    assert info.versions["hardware"].startswith("cpu ")


@pytest.mark.usefixtures("cached")
def test_a_model_without_a_commit_has_none(tmp_path: Path) -> None:
    assert commit_of("org/model", None) == commit_of("org/model", COMMIT) == COMMIT
    assert commit_of("org/model", "another-branch") is None
    assert commit_of("org/another", None) is None
    assert commit_of(str(tmp_path), None) is None
    assert commit_of("no/name/of/the/hub", None) is None
