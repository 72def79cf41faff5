"""Which engine a run gets, and what it says of it: why that one, what it lacks, what of the settings goes unused."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from annotator.config.settings import ENGINES, SyncSettings, VlmSettings
from annotator.errors import NoEngine, UsageError
from annotator.vlm import registry
from annotator.vlm.diagnose import installed
from annotator.vlm.openai import engine as openai_engine
from annotator.vlm.registry import (
    SHIPPED,
    choose_engine,
    engine_named,
    engine_of_model,
    looks,
    model_of,
    reads_evidence,
    unused,
)
from annotator_store.digests import digest_struct
from annotator_store.keys import Model
from tests.vlm.conftest import SERVER, RunningServer

NOWHERE = "http://127.0.0.1:1/v1"
COMMAND = f"{sys.executable} {SERVER} --port {{port}}"


@pytest.fixture(autouse=True)
def nothing_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server at the usual place, no GPU."""
    monkeypatch.setattr(openai_engine, "DEFAULT_API_BASE", NOWHERE)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def said(vlm: VlmSettings, logs: Path, *, offline: bool = False) -> list[str]:
    """Open an engine and close it; what was said until then."""
    notes: list[str] = []

    async def scenario() -> None:
        await (await choose_engine(vlm, notes.append, offline=offline, logs=logs)).aclose()

    asyncio.run(scenario())
    return notes


def test_auto_says_why_it_asks_a_server(server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = said(VlmSettings(api_base=server.api_base, model_id="test-model"), tmp_path)
    assert named[0] == "auto: openai, since --vlm.api_base names where to ask"
    monkeypatch.setattr(openai_engine, "DEFAULT_API_BASE", server.api_base)
    assert said(VlmSettings(model_id="test-model"), tmp_path) == [
        f"auto: openai, since a server answers at {server.api_base}",
        f"engine: openai at {server.api_base}, model test-model",
    ]
    chosen = VlmSettings(backend="openai", model_id="test-model")
    assert said(chosen, tmp_path) == [f"engine: openai at {server.api_base}, model test-model"]


def test_auto_says_why_it_starts_servers(tmp_path: Path) -> None:
    notes = said(VlmSettings(model_id="test-model", serve_command=COMMAND), tmp_path)
    assert notes[0] == f"auto: serve, since no server answers at {NOWHERE}, and --vlm.serve_command starts one"


@pytest.mark.parametrize(
    ("settings", "gpus", "missing"),
    [
        ({}, "", f"no server answers at {NOWHERE}, no GPU, no command vllm"),
        ({}, "0", f"no server answers at {NOWHERE}, no command vllm"),
        ({"auto_serve": False}, "", f"no server answers at {NOWHERE}, none is to be started, no GPU, no vLLM"),
    ],
)
def test_where_auto_finds_nothing_it_says_what_was_looked_for(
    settings: dict[str, Any], gpus: str, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))  # programs beside it count as found
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(NoEngine) as caught:
        said(VlmSettings(**settings), tmp_path)
    assert caught.value.got == missing
    assert "--vlm.backend signals" in caught.value.hint


CHANGED: dict[str, Any] = {
    "api_base": NOWHERE,
    "api_key_env": "PATH",
    "request_timeout_s": 7.0,
    "request_max_retries": 7,
    "client_concurrency": 7,
    "parallel_servers": 1,
    "num_gpus": 7,
    "serve_command": COMMAND,
    "serve_ready_timeout_s": 60.0,
    "tensor_parallel_size": 7,
    "max_model_len": 7,
    "gpu_memory_utilization": 0.7,
    "engine_kwargs": {"max_num_seqs": 7},
}


@pytest.mark.parametrize("name", CHANGED)
def test_an_option_that_an_engine_does_not_use_is_named_and_a_default_is_not(name: str) -> None:
    vlm = VlmSettings(**{name: CHANGED[name]})
    for spec in SHIPPED:
        expected = [] if name in spec.options else [f"note: --vlm.{name} is not used by {spec.name}"]
        assert list(unused(vlm, spec)) == expected
        assert not list(unused(VlmSettings(), spec))
    assert list(unused(vlm, engine_named("signals")))


def test_every_option_of_an_engine_is_a_setting() -> None:
    assert {name for spec in SHIPPED for name in spec.options} <= set(VlmSettings.__struct_fields__)
    specific = {name for spec in SHIPPED if spec.name not in ("auto", "offline") for name in spec.options}
    assert specific == set(CHANGED)


def test_whatever_the_table_names_can_be_imported_and_the_command_line_lists_all_of_it() -> None:
    for spec in SHIPPED:
        for name in filter(None, (spec.open, spec.check, spec.availability)):
            module, _, function = name.partition(":")
            # Read, not imported: the libraries of some engines are not installed here.
            source = (Path(__file__).parents[2] / module.replace(".", "/")).with_suffix(".py").read_text()
            assert f"\nasync def {function}(context: EngineContext) -> " in source, name
    assert tuple(spec.name for spec in SHIPPED) == ENGINES


def test_an_engine_without_a_model_stands_for_one_of_its_own_and_all_others_for_that_of_the_settings() -> None:
    """Pinned: keys hold these."""
    digests = {spec.name: digest_struct(model_of(VlmSettings(backend=spec.name))) for spec in SHIPPED}
    assert digests.pop("signals") == "5c78feffd644398e9020b5aefb259e12"
    assert digests.pop("scripted") == "f1fe5595d883b394f93b4567e556755a"
    assert set(digests.values()) == {"1792820634bfbde76464c75ef37e5318"}


def test_what_a_run_needs_of_its_footage_follows_from_its_engine() -> None:
    blind = {spec.name for spec in SHIPPED if not looks(SyncSettings(vlm=VlmSettings(backend=spec.name)))}
    assert blind == {"signals", "offline"}
    assert not looks(SyncSettings(offline=True))
    assert [spec.name for spec in SHIPPED if reads_evidence(model_of(VlmSettings(backend=spec.name)))] == ["signals"]


@pytest.mark.parametrize("model_id", ["signals.v0", "signals", "auto.v1", "some.v1", ".v1", "", "Qwen/Qwen3-VL-8B"])
def test_a_model_that_is_no_engines_own_belongs_to_none(model_id: str) -> None:
    assert engine_of_model(model_id) is None


def test_an_unknown_engine_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(UsageError) as caught:
        model_of(VlmSettings(backend="opena"))
    assert (caught.value.what, caught.value.got) == ("there is no such engine", "opena")
    assert caught.value.hint == "one of auto, openai, serve, vllm, transformers, signals, scripted, offline"


# Engines that other packages bring


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str, str, str], None]]:
    """Installs a package with one engine: its name, that of the engine, and the code of its module."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_third_party", cache(registry._third_party.__wrapped__))  # pyright: ignore[reportPrivateUsage]

    def install(package: str, engine: str, code: str) -> None:
        info = tmp_path / f"{package}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[annotator.engines]\n{engine} = {package}:ENGINE\n")
        (tmp_path / f"{package}.py").write_text(code)

    yield install
    for name in [name for name in sys.modules if name.startswith("brought_")]:
        del sys.modules[name]


Install = Callable[[str, str, str], None]
SPEC = """
from annotator.vlm.base import EngineSpec
ENGINE = EngineSpec(name="echo", meaning="the task, back", open="some.where:open", model_id="echo.v1")
"""


def test_an_engine_of_another_package_is_known_by_its_name_and_by_its_model(package: Install) -> None:
    package("brought_echo", "echo", SPEC)
    assert engine_named("echo").meaning == "the task, back"
    assert engine_of_model("echo.v1") is engine_named("echo")
    assert engine_of_model("echo.v2") is None
    assert model_of(VlmSettings(backend="echo", model_id="ignored")) == Model(model_id="echo.v1")


@pytest.mark.parametrize(
    ("code", "what", "got"),
    [
        ("raise OSError('no licence')", "the engine cannot be imported", "brought_echo:ENGINE: OSError: no licence"),
        ("", "the engine cannot be imported", "brought_echo:ENGINE: AttributeError: "),
        ("ENGINE = 3", "the entry point is no EngineSpec", "brought_echo:ENGINE is a int"),
        (f"{SPEC}object.__setattr__(ENGINE, 'name', 'no')", "the engine is not named echo", "name 'no', model_id "),
        (f"{SPEC}object.__setattr__(ENGINE, 'model_id', 'me/m')", "the engine is not named echo", "name 'echo', mod"),
    ],
)
def test_a_broken_package_is_one_clear_message_that_names_it_when_its_engine_is_asked_for(
    package: Install, code: str, what: str, got: str
) -> None:
    package("brought_echo", "echo", code)
    assert engine_named("openai").name == "openai"
    assert engine_of_model("signals.v1") is engine_named("signals")
    with pytest.raises(UsageError) as caught:
        engine_named("echo")
    assert caught.value.what.startswith(what)
    assert caught.value.got.startswith(got)
    assert caught.value.where == "--vlm.backend echo"
    assert caught.value.hint == "it is in the package brought_echo 1.2: repair or uninstall it"


def test_a_name_that_two_packages_claim_is_refused_and_one_of_ours_is_kept_with_a_word(
    package: Install, tmp_path: Path
) -> None:
    package("brought_one", "echo", SPEC)
    package("brought_two", "echo", SPEC)
    package("brought_three", "signals", "raise RuntimeError('never imported')")
    with pytest.raises(UsageError) as caught:
        engine_named("echo")
    assert caught.value.got == "brought_one 1.2, brought_two 1.2"
    notes = said(VlmSettings(backend="signals"), tmp_path)
    assert notes[0] == "note: brought_three 1.2 brings an engine signals, too; the shipped one answers"
    listed = {check.what: check for check in installed() if check.what.startswith("engine ")}
    assert listed["engine echo"].state == "ok"
    assert listed["engine signals"].found == "brought_three 1.2, which is not used: signals is a shipped engine"


def test_the_documentation_lists_every_engine_as_the_table_does() -> None:
    text = (Path(__file__).parents[2] / "docs" / "engines.md").read_text()
    for spec in SHIPPED:
        (row,) = (line for line in text.splitlines() if line.startswith(f"| `{spec.name}` | {spec.meaning} |"))
        assert spec.install in row


def test_what_goes_unused_is_said_at_the_start_and_not_where_the_log_alone_answers(tmp_path: Path) -> None:
    vlm = VlmSettings(backend="signals", num_gpus=4)
    assert said(vlm, tmp_path)[0] == "note: --vlm.num_gpus is not used by signals"
    assert said(vlm, tmp_path, offline=True) == []


@pytest.mark.parametrize(
    ("gpus", "settings", "noted"),
    [
        ("0,1,2,3", {}, ["note: vllm uses 1 of 4 GPUs, the others stay idle; --vlm.backend serve uses them all"]),
        ("0", {}, []),
        ("0,1", {"tensor_parallel_size": 2}, []),
        ("0,1", {"engine_kwargs": {"data_parallel_size": 2}}, []),
    ],
)
def test_vllm_says_which_gpus_it_leaves_idle(
    gpus: str, settings: dict[str, Any], noted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vLLM that is found here breaks when it is imported."""
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("raise ImportError('broken')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    for name in ("VLLM_WORKER_MULTIPROC_METHOD", "VLLM_LOGGING_STREAM", "VLLM_LOGGING_LEVEL"):
        monkeypatch.setenv(name, "")  # what is set before vLLM is imported goes again with the test
    notes: list[str] = []
    with pytest.raises(NoEngine, match="vLLM does not start"):
        asyncio.run(choose_engine(VlmSettings(backend="vllm", **settings), notes.append, offline=False))
    assert [note for note in notes if note.startswith("note:")] == noted
