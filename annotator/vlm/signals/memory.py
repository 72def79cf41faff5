"""What to remember after a subtask: first person, past tense, only what still matters.

One sentence an object: what was done last with it stands for what led there.
"""

import re

from annotator.prompting.normalize import sameness
from annotator.vlm.signals.task_grammar import Transfer, parse_task

LONGEST = 400
_NOTHING_YET = "I have not started yet."
_RESTING = re.compile(r"^(stay still|wait|hold still|keep )")
_PASSING = re.compile(r"^I (reached|moved|opened|closed|brought) ")
_IRREGULAR = {
    "put": "put", "set": "set", "bring": "brought", "hang": "hung", "throw": "threw", "take": "took", "get": "got",
    "hold": "held", "cut": "cut", "draw": "drew", "write": "wrote", "sweep": "swept", "shut": "shut", "lay": "laid",
    "go": "went", "keep": "kept", "stand": "stood", "make": "made", "let": "let", "stick": "stuck", "give": "gave",
    "find": "found", "leave": "left", "come": "came", "swing": "swung", "spin": "spun", "slide": "slid",
    "open": "opened",
}  # fmt: skip

_SENTENCES = {
    r"reach for (?P<thing>.+?)( again)?( with the (left|right) arm)?": "I reached {thing}.",
    r"close (the (left |right )?gripper|both grippers) on (?P<thing>.+)": "I grasped {thing}.",
    r"try to grasp (?P<thing>.+)": "I tried to grasp {thing} without success.",
    r"(?P<verb>lift|lower|carry) (?P<thing>.+?)"
    r"(?P<where> (onto|on|into|in|to|at|next to|beside|near|under|behind|over|between) .+)?": (
        "I {verb} {thing}{where}."
    ),
}


def remember(task: str, memory: str, completed: str) -> str:
    """Compress the memory so far and the subtask just completed into at most `LONGEST` characters."""
    kept = re.split(r"(?<=[.!?])\s+", memory.strip()) if memory.strip() else []
    fact, thing = _fact(completed.strip().rstrip("."), parse_task(task), kept)
    if fact:
        kept = [s for s in kept if s not in (fact, _NOTHING_YET) and not _PASSING.match(s) and not _about(s, thing)]
        kept.append(fact)
    return _bounded(kept or [_NOTHING_YET])


def recount(task: str, reached: list[str], completed: str, milestones: list[str], most: int) -> list[str]:
    """Add the milestone that says what the subtask just completed leaves, where one does; at most `most` are kept.

    What was done before with the same object is left out from then on.
    """
    fact, thing = _fact(completed.strip().rstrip("."), parse_task(task), reached)
    said = [one for one in milestones if fact and sameness(one) == sameness(fact)]
    kept = [one for one in reached if not (said and _about(one, thing))]
    return [*kept, *said[:1]][-most:]


def past_tense(imperative: str) -> str:
    """Put the verb of an imperative into the past: "lift the cup" becomes "lifted the cup"."""
    verb, space, rest = imperative.partition(" ")
    return _past(verb) + space + rest


def _fact(completed: str, transfers: tuple[Transfer, ...], kept: list[str]) -> tuple[str, str]:
    """The sentence a completed subtask leaves, and the object that it is about; empty where it leaves none."""
    if not completed or _RESTING.match(completed):
        return "", ""
    for pattern, sentence in _SENTENCES.items():
        found = re.fullmatch(pattern, completed)
        if found:
            parts = {key: value or "" for key, value in found.groupdict().items()}
            verb = _past(parts.get("verb", ""))
            return sentence.format(thing=parts["thing"], verb=verb, where=parts.get("where", "")), parts["thing"]
    return _release_or_other(completed, transfers, kept)


def _release_or_other(completed: str, transfers: tuple[Transfer, ...], kept: list[str]) -> tuple[str, str]:
    released = re.fullmatch(r"open .+? to release (?P<thing>.+)", completed)
    if released:
        thing = released["thing"]
        placed = next((t for t in transfers if t.thing == thing and t.place), None)
        brought = any(re.match(r"I (carried|lowered) ", s) and _about(s, thing) for s in kept)
        if placed and brought:
            return f"I put {thing} {placed.relation} {placed.place}.", thing
        return f"I released {thing}.", thing
    leaves_none = completed in ("open the gripper again", "move the arm back") or completed.startswith("move the arm")
    if leaves_none and kept:
        return "", ""
    return f"I {past_tense(completed[:1].lower() + completed[1:])}.", ""


def _about(sentence: str, thing: str) -> bool:
    """Whether a sentence is about what was done with this object, not about it as a place."""
    return bool(thing) and bool(
        re.match(rf"I (reached|grasped|lifted|carried|lowered|released|tried to grasp) {re.escape(thing)}\b", sentence)
    )


def _past(verb: str) -> str:
    if not verb or verb in _IRREGULAR:
        return _IRREGULAR.get(verb, verb)
    if verb.endswith("e"):
        return verb + "d"
    if re.search(r"[^aeiou]y$", verb):
        return verb[:-1] + "ied"
    if re.fullmatch(r"[^aeiou]*[aeiou][bdgmnprt]", verb):
        return verb + verb[-1] + "ed"
    return verb + "ed"


def _bounded(sentences: list[str]) -> str:
    """Forget the oldest sentences until the rest fit."""
    kept = list(sentences)
    while len(kept) > 1 and len(" ".join(kept)) > LONGEST:
        kept.pop(0)
    return " ".join(kept)[:LONGEST].strip()
