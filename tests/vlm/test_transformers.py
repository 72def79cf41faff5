"""The transformers engine. Its contract, with a real model, runs where torch is installed."""

import asyncio
from dataclasses import replace

import pytest

from annotator.config.settings import VlmSettings
from annotator.errors import NoEngine
from annotator.vlm import registry
from annotator.vlm.registry import check_engine, choose_engine
from tests.vlm.real_engines import run_real


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_contract_holds_with_a_real_model() -> None:
    run_real("test_transformers.py")


@pytest.mark.parametrize("backend", ["transformers", "vllm"])
def test_an_engine_that_is_not_installed_is_named_with_the_command_that_installs_it(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    needy = (replace(spec, requires=("msgspec", "no_such_library")) for spec in registry.SHIPPED)
    monkeypatch.setattr(registry, "SHIPPED", tuple(needy))
    vlm = VlmSettings(backend=backend)
    for attempt in (choose_engine(vlm, lambda _: None, offline=False), check_engine(vlm, offline=False)):
        with pytest.raises(NoEngine) as caught:
            asyncio.run(attempt)
        assert caught.value.where == f"--vlm.backend {backend}"
        assert caught.value.got == "no no_such_library"
        assert caught.value.hint == f"pip install 'episode-annotator[{backend}]'"
