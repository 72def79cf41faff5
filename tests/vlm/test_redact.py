"""What is shown of a command holds no secret. More cases stand beside the jobs, whose commands anybody may read."""

import pytest

from annotator.vlm.redact import shown_command


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("serve --api-key=-begins-with-a-hyphen --port 1", "serve --api-key … --port 1"),
        ("serve --api-key --port 1", "serve --api-key --port 1"),
        ("serve --api-key one two --port 1", "serve --api-key … --port 1"),
    ],
)
def test_a_key_is_left_out_also_where_it_looks_like_an_option(command: str, shown: str) -> None:
    assert shown_command(command) == shown
