"""Modules that other packages bring: which are taken, in which order, and what is said of one that cannot be used."""

import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from annotator.config.settings import SyncSettings
from annotator.errors import UsageError
from annotator.modules import third_party
from annotator.modules.base import Module
from annotator.modules.registry import SHIPPED
from annotator.modules.third_party import sync_settings, third_party_modules
from annotator_store import rows
from annotator_store.rows import column_for_style

CODE = """
from pathlib import Path
from annotator.config.settings import Settings
from annotator.modules.base import Module, ModuleOutput, Refresh
from annotator_store.rows import EVENTS, PERSISTENT, Style

class Own(Settings, frozen=True, kw_only=True):
    enabled: bool = True
    depth: int = 3

async def annotate(episode, ask, settings):
    return ModuleOutput(rows=(), gaps=())

def module(name, **changes):
    plain = dict(name=name, version=1, steps=(f"{name}.ask",), styles=frozenset({name}), settings=Own,
                 annotate=annotate, estimate_calls=lambda seconds, cameras, settings: 1,
                 prompts=Path(__file__).with_name(f"{name}_prompts"),
                 new_styles=(Style(name=name, column=PERSISTENT),))
    return Module(**plain | changes)

"""
PROMPT = '+++\nid = "{id}"\ninputs = []\n+++\nWhat is there?\n'
UNUSABLE = "the module cannot be used"
Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Install]:
    """Installs a package `brought_NAME` with a module NAME, written as `module(NAME, …)` or any other code."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(third_party, "_loaded", cache(third_party._loaded.__wrapped__))  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(rows, "_styles", dict(rows._styles))  # pyright: ignore[reportPrivateUsage]
    sync_settings.cache_clear()

    def install(name: str, expression: str = "", *, package: str = "", ids: tuple[str, ...] | None = None) -> None:
        package = package or f"brought_{name}"
        info = tmp_path / f"{package}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[annotator.modules]\n{name} = {package}:MODULE\n")
        (tmp_path / f"{package}.py").write_text(f"{CODE}MODULE = {expression or f'module({name!r})'}\n")
        prompts = tmp_path / f"{name}_prompts"
        prompts.mkdir(exist_ok=True)
        for place, identity in enumerate((f"{name}.ask",) if ids is None else ids):
            (prompts / f"{place}.md").write_text(PROMPT.replace("{id}", identity))

    yield install
    sync_settings.cache_clear()
    for name in [name for name in sys.modules if name.startswith("brought_")]:
        del sys.modules[name]


def names(modules: tuple[Module, ...]) -> list[str]:
    return [module.name for module in modules]


def refusal() -> UsageError:
    with pytest.raises(UsageError) as caught:
        third_party_modules(SHIPPED)
    return caught.value


@pytest.mark.usefixtures("install")
def test_without_other_packages_there_are_the_shipped_modules_and_settings_alone() -> None:
    assert third_party_modules(SHIPPED) == ()
    assert sync_settings() is SyncSettings


def test_each_module_stands_after_the_one_that_it_follows(install: Install) -> None:
    install("alpha", "module('alpha', follows='beta')")
    install("beta", "module('beta', follows='interjections')")
    install("gamma")
    assert names(third_party_modules(SHIPPED)) == ["beta", "alpha", "gamma"]


def test_its_settings_are_a_group_beside_the_shipped_ones(install: Install) -> None:
    install("gamma")
    settings = sync_settings()(plan=SyncSettings().plan)
    (module,) = third_party_modules(SHIPPED)
    assert isinstance(settings, SyncSettings)
    assert module.own_settings(settings).depth == 3
    assert module.own_settings(SyncSettings()).depth == 3, "made without the module, settings leave it at its defaults"
    assert module.setup_settings(settings) == {"depth": 3}
    depends = module.depends_on(settings)
    assert depends("gamma.depth") and not depends("gamma.enabled") and not depends("plan.view")


def test_its_style_is_known_with_its_column(install: Install) -> None:
    install("gamma")
    with pytest.raises(ValueError, match="unknown style 'gamma'"):
        column_for_style("gamma")
    third_party_modules(SHIPPED)
    assert column_for_style("gamma") == "language_persistent"


@pytest.mark.parametrize(
    ("expression", "what", "got"),
    [
        ("1 / 0", "the module cannot be imported", "brought_gamma:MODULE: ZeroDivisionError: division by zero"),
        ("3", "the entry point is no Module", "brought_gamma:MODULE is a int"),
        ("module('other')", UNUSABLE, "its name is 'other'"),
        ("module('gamma', settings=Settings)", UNUSABLE, "with a field `enabled`"),
        ("module('gamma', steps=('plan.ask',))", UNUSABLE, "step plan.ask does not begin with gamma."),
        ("module('gamma', prompts=None)", UNUSABLE, "None has no prompt for gamma.ask"),
        ("module('gamma', styles=frozenset({'vqa'}), new_styles=())", UNUSABLE, "vqa belongs to vqa"),
        ("module('gamma', styles=frozenset())", UNUSABLE, "not among its styles"),
        ("module('gamma', follows='nobody')", "the module that it follows is not there", "nobody"),
        ("module('gamma', follows='gamma')", "the module that it follows is not there", "gamma"),
        (
            "module('gamma', follows='plan', refresh=Refresh(style='vqa', beside='gamma', content=max))",
            UNUSABLE, "the style vqa that it refreshes is not of the module that it follows",
        ),
        (
            "module('gamma', follows='plan', refresh=Refresh(style='plan', beside='gamma', content=max))",
            UNUSABLE, "interjections refreshes the style plan, too",
        ),
        (
            "module('gamma', styles=frozenset({'trace'}), new_styles=(Style(name='trace', column=PERSISTENT),))",
            "the module's new style cannot be used", "trace",
        ),
    ],
)  # fmt: skip
def test_a_module_that_cannot_be_used_is_one_message_that_names_its_package(
    install: Install, expression: str, what: str, got: str
) -> None:
    install("gamma", expression)
    error = refusal()
    assert (error.what, error.where) == (what, "module gamma")
    assert got in error.got
    assert error.hint == "it is in the package brought_gamma 1.2: repair or uninstall it"


@pytest.mark.parametrize("name", ["plan", "vlm", "seed", "vocabulary"])
def test_names_of_this_package_cannot_be_taken_over(install: Install, name: str) -> None:
    install(name)
    assert refusal().what == "the name is taken by settings of this package"


def test_two_packages_cannot_bring_one_module(install: Install) -> None:
    install("gamma")
    install("gamma", package="brought_too")
    error = refusal()
    assert error.what == "two packages bring a module of this name"
    assert "brought_gamma 1.2" in error.hint and "brought_too 1.2" in error.hint


def test_a_module_cannot_take_over_a_shipped_prompt(install: Install) -> None:
    install("gamma", ids=("gamma.ask", "plan.segment"))
    with pytest.raises(UsageError, match="two prompts have one id"):
        third_party_modules(SHIPPED)
