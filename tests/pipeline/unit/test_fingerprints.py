"""Fingerprints: everything a module's rows depend on takes part, nothing else does, and none of it moves."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from annotator.config.load import replaced
from annotator.config.options import options_of
from annotator.config.settings import InterjectionsSettings, PlanSettings, SyncSettings, VlmSettings, VqaSettings
from annotator.dataset.cameras import CameraSelection
from annotator.dataset.episode_record import EpisodeRecord
from annotator.dataset.metadata import Camera
from annotator.modules.base import Module
from annotator.modules.registry import SHIPPED
from annotator.pipeline.fingerprints import ModuleFingerprints, fingerprints
from annotator.prompting.loader import Head, PromptFile, Prompts
from annotator_store.digests import Digest
from annotator_store.keys import Model
from tests.pipeline.unit.values import CAMERAS, MODEL, TOP, WRIST, makers, record
from tests.store.facts import digest

STEPS = ("system", "retry", *dict.fromkeys(step for module in SHIPPED for step in module.steps))


def prompts(**bodies: str) -> Prompts:
    """A prompt for every step; those that are named by `step__name` have another body."""
    texts = {step: bodies.get(step.replace(".", "__"), step) for step in STEPS}
    return Prompts(
        PromptFile(head=Head(id=step, inputs=()), body=text, digest=digest("prompt", text), where=step)
        for step, text in texts.items()
    )


def setups(
    settings: SyncSettings | None = None,
    *,
    bodies: Prompts | None = None,
    model: Model = MODEL,
    vocabulary: Digest | None = None,
) -> dict[str, ModuleFingerprints]:
    return fingerprints(SHIPPED, settings or SyncSettings(), CAMERAS, bodies or prompts(), model, vocabulary)


def differ(some: dict[str, ModuleFingerprints], others: dict[str, ModuleFingerprints]) -> set[str]:
    """The modules whose setups are not the same."""
    return {name for name, maker in some.items() if maker.setup != others[name].setup}


def test_a_fingerprint_is_pinned() -> None:
    """Each of these moving would have every annotation of every log asked for anew."""
    episode = record(3)
    assert makers("plan")["plan"].fingerprint(episode) == "6cafe631b1a8596daea7d47edb0ca21a"
    assert makers("vqa")["vqa"].fingerprint(episode) == "51726b87124bda74ca621491ee2fdeaf"
    spoken = makers("interjections")["interjections"].fingerprint(episode, digest("rows"))
    assert spoken == "999ba50d3fa137fecad028dd8db9d4c0"
    assert makers("plan", reads_evidence=True)["plan"].fingerprint(episode) == "4bbd1a33abf45891cf103cb1a6ef3dd1"


def resized(camera: Camera, **sizes: int) -> CameraSelection:
    changed = msgspec.structs.replace(camera, **sizes)
    swap = {camera.key: changed}
    return CameraSelection(
        episode_cameras=tuple(swap.get(c.key, c) for c in CAMERAS.episode_cameras),
        frame_cameras=tuple(swap.get(c.key, c) for c in CAMERAS.frame_cameras),
    )


@pytest.mark.parametrize("size", ["width_px", "height_px"])
@pytest.mark.parametrize(("camera", "concerned"), [(TOP, {"plan", "vqa"}), (WRIST, {"vqa"})])
def test_the_stored_frame_size_of_each_camera_that_is_looked_through_takes_part(
    camera: Camera, concerned: set[str], size: str
) -> None:
    modules, cameras = makers("plan", "vqa"), resized(camera, **{size: 100})
    moved = {
        name
        for name, maker in modules.items()
        if maker.fingerprint(record(0)) != msgspec.structs.replace(maker, cameras=cameras).fingerprint(record(0))
    }
    assert moved == concerned


@pytest.mark.parametrize(
    "change",
    [
        lambda episode: msgspec.structs.replace(episode, digest=digest("another recording")),
        lambda episode: msgspec.structs.replace(episode, task="open the lid"),
        lambda episode: msgspec.structs.replace(episode, footage=episode.footage | {TOP.key: digest("new film")}),
        lambda episode: msgspec.structs.replace(episode, footage={WRIST.key: episode.footage[WRIST.key]}),
    ],
    ids=["recording", "task", "footage", "unreadable footage"],
)
def test_what_the_episode_shows_takes_part(change: Callable[[EpisodeRecord], EpisodeRecord]) -> None:
    maker = makers("plan")["plan"]
    assert maker.fingerprint(change(record(0))) != maker.fingerprint(record(0))


@pytest.mark.parametrize(
    "changes",
    [
        {"index": 7, "shard": "data/chunk-000/file-009.parquet", "start": 70, "stop": 80},
        {"task_indices": (4,), "duration_s": 1.0},
        {"footage": {TOP.key: digest("footage", 0, TOP.key), WRIST.key: digest("another film")}},
        {"signals_digest": digest("other signals")},
    ],
    ids=["place", "numbering", "a camera it does not look through", "signals nobody reads"],
)
def test_where_an_episode_lies_and_what_the_module_does_not_see_takes_no_part(changes: dict[str, Any]) -> None:
    maker = makers("plan")["plan"]
    assert maker.fingerprint(msgspec.structs.replace(record(0), **changes)) == maker.fingerprint(record(0))


def test_signals_take_part_where_they_are_read() -> None:
    maker = makers("plan", reads_evidence=True)["plan"]
    other = msgspec.structs.replace(record(0), signals_digest=digest("other signals"))
    assert maker.fingerprint(other) != maker.fingerprint(record(0))


def test_the_rows_of_the_followed_module_take_part() -> None:
    maker = makers("interjections")["interjections"]
    known = {maker.fingerprint(record(0), upstream) for upstream in (None, digest("rows"), digest("other rows"))}
    assert len(known) == 3


def test_a_setup_is_pinned() -> None:
    module = Module(
        name="plan",
        version=7,
        steps=("vqa.count",),
        styles=frozenset({"subtask"}),
        settings=PlanSettings,
        annotate=SHIPPED[0].annotate,
        estimate_calls=lambda seconds, cameras, settings: 0,
        borrowed={"coordinates": "vlm.coordinates"},
        uses_vocabulary=True,
    )
    made = fingerprints([module], SyncSettings(), CAMERAS, prompts(), MODEL, digest("vocabulary"))
    assert made["plan"].setup == "1d6b79832aee12aa94301ef63f01eefd"


def another(value: Any, option_type: Any) -> Any:
    """Another value that the same setting can have."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case tuple():
            return value[:1] or ("x",)
        case dict():
            return {"x": 1}
        case str() if option_type.choices:
            return next(choice for choice in option_type.choices if choice != value)
        case _:
            return "x"


def test_every_setting_that_rows_depend_on_reaches_the_setup_of_just_those_modules() -> None:
    """A setting that moves no setup cannot change a row; one that moves too many has rows asked for anew in vain."""
    moved: dict[str, set[str]] = {}
    plain = SyncSettings()
    for option in options_of(SyncSettings):
        value: Any = plain
        for part in option.name.split("."):
            value = getattr(value, part)
        settings = replaced(plain, {option.name: another(value, option)})
        if modules := differ(setups(plain), setups(settings)):
            moved[option.name] = modules
    own = {
        f"{module.name}.{name}": {module.name}
        for module in SHIPPED
        for name, _ in _values(module.settings())
        if name != "enabled"
    }
    assert moved == own | {
        "seed": {"plan", "interjections", "vqa"},
        "plan.contact_sheet_quality": {"plan", "interjections"},
        "vlm.coordinates": {"vqa"},
    }


def _values(settings: Any) -> list[tuple[str, Any]]:
    return [(option.name, option.default) for option in options_of(type(settings))]


def test_a_module_is_given_the_settings_it_borrows() -> None:
    settings = SyncSettings(vlm=VlmSettings(coordinates="pixels"), plan=PlanSettings(contact_sheet_quality=50))
    borrowed = {module.name: module.borrowed_values(settings) for module in SHIPPED}
    assert borrowed == {"plan": {}, "interjections": {"quality": 50}, "vqa": {"coordinates": "pixels"}}


def test_another_model_or_seed_concerns_every_module() -> None:
    everyone = {module.name for module in SHIPPED}
    assert differ(setups(), setups(model=Model(model_id="some/model", temperature=0.5))) == everyone
    assert differ(setups(), setups(SyncSettings(seed=2))) == everyone


def test_an_edited_prompt_concerns_the_module_whose_step_it_is() -> None:
    assert differ(setups(), setups(bodies=prompts(vqa__count="how many?"))) == {"vqa"}
    assert differ(setups(), setups(bodies=prompts(plan__segment="cut it"))) == {"plan"}


def test_the_system_and_the_retry_prompt_concern_every_module() -> None:
    everyone = {module.name for module in SHIPPED}
    assert differ(setups(), setups(bodies=prompts(system="be brief"))) == everyone
    assert differ(setups(), setups(bodies=prompts(retry="again"))) == everyone


def test_the_vocabulary_concerns_only_the_module_that_uses_one() -> None:
    assert differ(setups(), setups(vocabulary=digest("vocabulary"))) == {"plan"}


def test_annotations_say_the_settings_that_are_not_the_defaults() -> None:
    settings = SyncSettings(
        seed=5,
        plan=PlanSettings(contact_sheet_quality=50, enabled=True),
        interjections=InterjectionsSettings(frame_width=100),
        vqa=VqaSettings(K=2),
        vlm=VlmSettings(coordinates="pixels", camera_key=TOP.key, temperature=0.9),
    )
    used = {name: maker.used for name, maker in setups(settings, vocabulary=digest("vocabulary")).items()}
    assert {name: setup.settings for name, setup in used.items()} == {
        "plan": {"plan.contact_sheet_quality": 50, "vlm.camera_key": TOP.key},
        "interjections": {
            "plan.contact_sheet_quality": 50,
            "interjections.frame_width": 100,
            "vlm.camera_key": TOP.key,
        },
        "vqa": {"vqa.K": 2, "vlm.coordinates": "pixels"},
    }
    assert {setup.seed for setup in used.values()} == {5}
    assert {name: setup.vocabulary is not None for name, setup in used.items()} == {
        "plan": True,
        "interjections": False,
        "vqa": False,
    }


@pytest.mark.parametrize(
    ("model", "hints", "reading"),
    [
        (MODEL, False, set[str]()),
        (MODEL, True, {"plan"}),
        (Model(model_id="signals.v1"), False, {"plan", "interjections", "vqa"}),
    ],
)
def test_signals_are_read_by_the_engine_or_by_a_module_that_is_told_to(
    model: Model, hints: bool, reading: set[str]
) -> None:
    made = setups(SyncSettings(plan=PlanSettings(gripper_hints=hints)), model=model)
    assert {name for name, maker in made.items() if maker.reads_evidence} == reading
