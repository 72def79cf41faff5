"""What to remember after a subtask: first person, past tense, only what still matters.

One sentence an object: what was done last with it stands for what led there.
"""

import re

from annotator.prompting.normalize import sameness
from annotator.vlm.signals.task_grammar import Transfer, parse_task

LONGEST = 400
"""Characters of a memory, as `Sentence` in annotator/prompting/answers.py allows."""
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
# What a subtask leaves, in the words that task_grammar.py gives to phases.
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
    """Return the memory after a subtask, from the memory before it: at most `LONGEST` characters, never empty."""
    kept = re.split(r"(?<=[.!?])\s+", memory.strip()) if memory.strip() else []
    fact, thing = _fact(completed.strip().rstrip("."), parse_task(task), kept)
    if fact:
        kept = [s for s in kept if s not in (fact, _NOTHING_YET) and not _PASSING.match(s) and not _about(s, thing)]
        kept.append(fact)
    kept = kept or [_NOTHING_YET]
    while len(kept) > 1 and len(" ".join(kept)) > LONGEST:
        kept.pop(0)  # the oldest is forgotten first
    return " ".join(kept)[:LONGEST].strip()


def recount(task: str, reached: list[str], completed: str, milestones: list[str], most: int) -> list[str]:
    """Return the milestones that hold after a subtask, in the order reached, at most `most`.

    The one of `milestones` that says what the subtask leaves is added, where there is one; what was reached before
    with the same object then no longer holds.
    """
    fact, thing = _fact(completed.strip().rstrip("."), parse_task(task), reached)
    new = [milestone for milestone in milestones if fact and sameness(milestone) == sameness(fact)]
    kept = [milestone for milestone in reached if not (new and _about(milestone, thing))]
    return [*kept, *new[:1]][-most:]


def past_tense(imperative: str) -> str:
    """Return an imperative with its verb in the past: "lift the cup" becomes "lifted the cup"."""
    verb, space, rest = imperative.partition(" ")
    if not verb or verb in _IRREGULAR:
        past = _IRREGULAR.get(verb, verb)
    elif verb.endswith("e"):
        past = verb + "d"
    elif re.search(r"[^aeiou]y$", verb):
        past = verb[:-1] + "ied"
    elif re.fullmatch(r"[^aeiou]*[aeiou][bdgmnprt]", verb):  # one short syllable doubles its last consonant
        past = verb + verb[-1] + "ed"
    else:
        past = verb + "ed"
    return past + space + rest


def _fact(completed: str, transfers: tuple[Transfer, ...], kept: list[str]) -> tuple[str, str]:
    """Return the sentence a completed subtask leaves, and the object that it is about; empty where it leaves none."""
    if not completed or _RESTING.match(completed):
        return "", ""
    for pattern, sentence in _SENTENCES.items():
        match = re.fullmatch(pattern, completed)
        if match:
            parts = {key: value or "" for key, value in match.groupdict().items()}
            verb = past_tense(parts.get("verb", ""))
            return sentence.format(thing=parts["thing"], verb=verb, where=parts.get("where", "")), parts["thing"]
    released = re.fullmatch(r"open .+? to release (?P<thing>.+)", completed)
    if released:
        thing = released["thing"]
        placed = next((t for t in transfers if t.thing == thing and t.place), None)
        # The task says where the object goes; that it went there takes an arm that carried it.
        if placed and any(re.match(r"I (carried|lowered) ", s) and _about(s, thing) for s in kept):
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
