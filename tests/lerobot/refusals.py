# pyright: reportMissingImports=false
"""How a check fails: by its own finding, or by what LeRobot raises."""

import textwrap
from importlib.metadata import version

from datasets.exceptions import DatasetsError

VERSION = version("lerobot")

LEROBOT_SAYS_NO = (ValueError, TypeError, LookupError, AttributeError, OSError, RuntimeError, DatasetsError)
"""What LeRobot and `datasets` raise over a dataset they cannot use; all of it is a failed check, none a crash."""


class CheckFailed(Exception):
    """The dataset is not what LeRobot needs; the message says where."""


def short(text: str) -> str:
    """Fold a text into one line that fits a message."""
    return textwrap.shorten(text, 300, placeholder=" ...")
