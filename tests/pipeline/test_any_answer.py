"""Whatever a model says becomes rows or a recorded rejection: no text ends the run, and no text breaks a rule."""

import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from annotator.cli.main import main
from annotator.vlm.base import Request
from annotator.vlm.reply_text import well_formed
from annotator.vlm.scripted.schema_sampler import sample
from annotator_store.log.events import AnswerRejected, CallAnswered, EpisodeAnnotated, RunFinished
from tests.datasets import TOP, WRIST, Recording, write_dataset
from tests.pipeline.story import events
from tests.pipeline.told import telling

LONG = "x" * 70_000
DEEP = "[" * 3_000 + "]" * 3_000
ODD_TEXTS = [
    "",
    " ",
    "\u200b",
    ".",
    "\x00",
    "\ud800",
    "\U0001f916",
    "NaN",
    LONG,
    "{{ task }}",
    "'; DROP TABLE rows; --",
]
ODD_NUMBERS = [-1, 0, -0.0, 1e308, -1e308, 5e-324, 2**70, 0.1, 7.999999999]
RAW = [
    *(
        "",
        "null",
        "[]",
        "{}",
        "NaN",
        "Infinity",
        '{"subtasks": NaN}',
        '"just a text"',
        "I cannot see anything.",
        "```json",
    ),
    *(
        DEEP,
        '{"subtasks":' + DEEP + "}",
        LONG,
        "\ufeff{}",
        '{"a":1}{"b":2}',
        '{"task": "\\ud800"}',
        "\x00\x01",
        "<think>",
    ),
]
"""Replies that are no answer at all."""

odd_texts = st.one_of(st.sampled_from(ODD_TEXTS), st.text(max_size=30))
odd_numbers = st.one_of(st.sampled_from(ODD_NUMBERS), st.floats(), st.integers(-5, 200))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), odd_numbers, odd_texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(odd_texts, inner, max_size=3)),
    max_leaves=6,
)


class Mood(msgspec.Struct, frozen=True, kw_only=True):
    """How a model answers. `kind`: right, odd in some leaves, cut off, wrapped in prose, something else, no JSON."""

    kind: str
    texts: list[str]
    numbers: list[float]
    other: Any
    raw: str
    cut: float

    def answer(self, request: Request) -> str:
        """Reply to a request; the same mood gives the same reply to it."""
        if self.kind == "raw":
            return self.raw
        if self.kind == "other":
            return encoded(self.other)
        answer = sample(request.schema, seed=request.key)
        text = encoded(self._altered(answer, random.Random(request.key)) if self.kind == "odd" else answer)
        if self.kind == "cut":
            return text[: int(self.cut * len(text))]
        return f"Here it is:\n```json\n{text}\n```\nAnything else?" if self.kind == "prose" else text

    def _altered(self, value: Any, rng: random.Random) -> Any:
        """The same shape with some leaves odd, some parts for something else, and lists empty or far too long."""
        if rng.random() < 0.03:
            return self.other
        if isinstance(value, dict):
            fields = cast("dict[str, Any]", value)
            return {name: self._altered(one, rng) for name, one in fields.items()}
        if isinstance(value, list):
            return [self._altered(one, rng) for one in cast("list[Any]", value)] * rng.choice([1, 1, 1, 1, 0, 2, 80])
        if rng.random() < 0.5:
            return value
        return rng.choice(self.texts if isinstance(value, str) else self.numbers)


moods = st.builds(
    Mood,
    kind=st.sampled_from(["right", "odd", "odd", "odd", "cut", "prose", "other", "raw"]),
    texts=st.lists(odd_texts, min_size=1, max_size=4),
    numbers=st.lists(odd_numbers, min_size=1, max_size=4),
    other=values,
    raw=st.sampled_from(RAW),
    cut=st.floats(0, 1),
)
"""Each reply is given in one of a few moods, chosen by its key: calls come in any order, and what is drawn must not."""


def always(raw: str = "", *, kind: str = "raw") -> Mood:
    """A mood that was trouble before."""
    return Mood(kind=kind, texts=["\ud83d"], numbers=[1e308], other=None, raw=raw, cut=0)


def encoded(value: Any) -> str:
    """JSON as models write it, which may hold what JSON cannot: NaN, and halves of letters, escaped or not."""
    return json.dumps(value, ensure_ascii=len(str(value)) % 2 == 0)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes through two cameras, long enough for an interjection."""
    recordings, folder = [Recording(seed, frames=40) for seed in (1, 2)], tmp_path_factory.mktemp("any")
    return write_dataset(folder / "tiny", recordings, cameras=(TOP, WRIST), shards=[[0, 1]])


@pytest.fixture
def copies(template: Path) -> Iterator[Callable[[], Path]]:
    """Give copies of the dataset, one for each example."""
    with tempfile.TemporaryDirectory() as folder:
        numbers = iter(range(10_000))
        yield lambda: Path(shutil.copytree(template, Path(folder) / f"tiny-{next(numbers)}"))


@settings(
    max_examples=10,
    deadline=None,
    # A whole run an example: too long to try smaller ones.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@example(moods=[always("")], finds_words=True)
@example(moods=[always(kind="odd"), always(kind="right")], finds_words=True)
@given(moods=st.lists(moods, min_size=1, max_size=8), finds_words=st.booleans())
def test_any_answer_becomes_rows_or_a_rejection(
    moods: list[Mood], finds_words: bool, copies: Callable[[], Path]
) -> None:
    root, said = copies(), dict[str, str]()

    def script(request: Request) -> str | None:
        if finds_words and request.step == "vocabulary.discover":
            return None  # else most runs would end there
        reply = moods[int(request.key, 16) % len(moods)].answer(request)
        said[request.key] = well_formed(reply)
        return reply

    with telling(script):
        words = ("--vocabulary.enabled", str(finds_words).lower())
        status = main(["sync", str(root), "--vlm.backend", "scripted", "--vqa.vqa_emission_hz", "0.5", *words])
    check(root, said, status)


def check(root: Path, said: Mapping[str, str], status: int) -> None:
    """The run ended in order, every reply is kept and either used or rejected, and no row breaks a rule."""
    found = events(root)
    (run,) = [event for event in found if isinstance(event, RunFinished)]
    assert (run.outcome, status) in {("done", 0), ("incomplete", 1)}
    answers = {event.key: event for event in found if isinstance(event, CallAnswered)}
    assert said.items() <= {key: answer.reply for key, answer in answers.items()}.items()
    rejected = {event.key for event in found if isinstance(event, AnswerRejected)}
    annotated = {(event.episode, event.module): event for event in found if isinstance(event, EpisodeAnnotated)}
    unused = {key: answer for key, answer in answers.items() if key in said and key not in rejected}
    for one in annotated.values():
        assert {gap.call for gap in one.gaps} <= set(answers)
        for key in one.calls:
            unused.pop(key, None)
    # What is left belongs to a plan that could not be finished, since what it stands on was rejected.
    lost = {(answers[key].episode, answers[key].step) for key in rejected}
    assert all(answer.step.startswith("plan.") for answer in unused.values())
    assert all((answer.episode, "plan.segment") in lost for answer in unused.values())
    assert main(["verify", str(root)]) == 0
    assert main(["validate", str(root)]) == 0
