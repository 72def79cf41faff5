"""What the robot says before it begins, and what a user might say before a subtask: the words given, framed as speech.

Nothing is added to them, so no speech can disagree with what is done. What does not fit on one line is not spoken.
"""

import re
from typing import Literal

import msgspec

from annotator.vlm.signals.task_grammar import is_imperative, plain_task

LONGEST = 200
"""Characters of one line, as `Line` in annotator/prompting/answers.py allows."""
_OWN_PARTS = re.compile(r"\byour (?=((left|right|other) )?(arms?|hands?|grippers?)\b)")


class Exchange(msgspec.Struct, frozen=True):
    """What the user says, of which kind it is, and what the robot replies."""

    scenario: Literal["specific_constraint", "preference"]
    interjection: str
    reply: str


def announce(task: str) -> str:
    """Return what the robot says before it begins, in the task's words; "" where the task has none."""
    doing = _OWN_PARTS.sub("my ", _one_line(task))
    if not doing:
        return ""
    speech = f"Okay, I will {doing}." if is_imperative(task) else f"Okay, I will start on this: {doing}."
    return speech if len(speech) <= LONGEST else "Okay, I will start now."


def interject(upcoming: str, scenario: str) -> Exchange | None:
    """Return how the user asks for the subtask that comes next; None where it has no words, or too many for one line.

    Words alone tell only what is wanted now, or what is liked: the other kinds speak of what is to be seen.
    """
    doing = _one_line(upcoming)
    if not doing:
        return None
    reply = f"Sure, I will {_OWN_PARTS.sub('my ', doing)}."
    if scenario == "preference":
        exchange = Exchange("preference", f"I would like you to {doing} now.", reply)
    else:
        exchange = Exchange("specific_constraint", f"Please {doing} now.", reply)
    return exchange if len(exchange.interjection) <= LONGEST and len(reply) <= LONGEST else None


def _one_line(text: str) -> str:
    """Return the bare imperative on one line; "" where it holds no letter and no digit."""
    line = " ".join(plain_task(text).split())
    return line if any(letter.isalnum() for letter in line) else ""
