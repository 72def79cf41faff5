"""What the robot says before it begins, and what a user might say before a subtask: the words given, framed as speech.

Nothing is added to them, so nothing said can disagree with what is done. What cannot be said in one line is not said.
"""

import re
from typing import Literal

import msgspec

from annotator.vlm.signals.task_grammar import is_imperative, plain_task

LONGEST = 200
_OWN_PARTS = re.compile(r"\byour (?=((left|right|other) )?(arms?|hands?|grippers?)\b)")


class Exchange(msgspec.Struct, frozen=True):
    """What the user says, of which kind it is, and what the robot replies."""

    scenario: Literal["specific_constraint", "preference"]
    interjection: str
    reply: str


def announce(task: str) -> str:
    """Say what the robot is about to do, in the task's words; "" where the task has none."""
    doing = _first_person(_one_line(plain_task(task)))
    if not _has_words(doing):
        return ""
    said = f"Okay, I will {doing}." if is_imperative(task) else f"Okay, I will start on this: {doing}."
    return said if len(said) <= LONGEST else "Okay, I will start now."


def interject(upcoming: str, scenario: str) -> Exchange | None:
    """Let the user ask for the subtask that comes next; None where it has no words, or too many for one line.

    Words alone tell only what is wanted now, or what is liked: the other kinds speak of what is to be seen.
    """
    doing = _one_line(plain_task(upcoming))
    if not _has_words(doing):
        return None
    reply = f"Sure, I will {_first_person(doing)}."
    if scenario == "preference":
        exchange = Exchange("preference", f"I would like you to {doing} now.", reply)
    else:
        exchange = Exchange("specific_constraint", f"Please {doing} now.", reply)
    return exchange if len(exchange.interjection) <= LONGEST and len(reply) <= LONGEST else None


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _first_person(doing: str) -> str:
    return _OWN_PARTS.sub("my ", doing)


def _has_words(text: str) -> bool:
    return any(letter.isalnum() for letter in text)
