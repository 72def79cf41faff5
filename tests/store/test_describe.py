"""docs/events.md is generated."""

from pathlib import Path

import msgspec

from annotator_store.log.events import KNOWN_TYPES, CallAnswered, EpisodeAnnotated
from scripts.generate_event_docs import describe_events

PAGE = Path(__file__).parents[2] / "docs" / "events.md"


def test_the_page_is_what_the_structs_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == describe_events(), (
        "run: python scripts/generate_event_docs.py > docs/events.md"
    )


def test_every_event_and_field_is_on_the_page() -> None:
    page = describe_events()
    for kind in KNOWN_TYPES:
        assert f"`{kind}`" in page
    for struct in (CallAnswered, EpisodeAnnotated):
        for field in msgspec.structs.fields(struct):
            assert f"`{field.name}`" in page
