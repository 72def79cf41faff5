"""`annotator` with a scripted engine that is told some of its answers: `python -m tests.pipeline.told sync …`.

All that it is not told is sampled, and so moves when a prompt does. With these words in the vocabulary, what is
sampled for a dataset of several episodes has every style, whatever the prompts are.
"""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from unittest.mock import patch

from annotator.cli.main import main
from annotator.prompting.answers import Discovered
from annotator.vlm.scripted.engine import Script, ScriptedEngine

WORDS: Script = {
    "vocabulary.discover": Discovered(
        ["reach for the cup", "grip the cup", "lift the cup", "turn the cup", "put the cup down", "move the arm back"],
        ["I gripped the cup.", "I turned the cup.", "I put the cup down."],
    )
}


@contextmanager
def telling(script: Script = WORDS) -> Generator[None]:
    """Tell the scripted engine these answers, for as long as this is open."""

    def engine(*, record: bool) -> ScriptedEngine:
        return ScriptedEngine(script, record=record)

    with patch("annotator.vlm.scripted.engine.ScriptedEngine", engine):
        yield


if __name__ == "__main__":
    with telling():
        sys.exit(main(sys.argv[1:]))
