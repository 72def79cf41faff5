"""docs/events.md is generated."""

from pathlib import Path

import msgspec

from store.describe import describe_events
from store.events import KNOWN_TYPES, CallAnswered, EpisodeAnnotated

PAGE = Path(__file__).parents[2] / "docs" / "events.md"


def test_the_page_is_what_the_structs_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == describe_events(), "run: python -m store.describe > docs/events.md"


def test_every_event_and_field_is_on_the_page() -> None:
    page = describe_events()
    for kind in KNOWN_TYPES:
        assert f"`{kind}`" in page
    for struct in (CallAnswered, EpisodeAnnotated):
        for field in msgspec.structs.fields(struct):
            assert f"`{field.name}`" in page
