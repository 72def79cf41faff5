"""The task's words, and what each phase is called in them.

A task is read by rules: a verb that moves things, an object, and perhaps a place. What the rules cannot read is
worded neutrally ("close the gripper"), never guessed.
"""

import re

import msgspec

from annotator.vlm.signals.phases import Phase

_TRANSFER_VERBS = (
    "put", "place", "set", "move", "bring", "transfer", "stack", "insert", "drop", "lay", "hang", "throw", "carry",
    "store", "load", "return", "deliver", "hand", "relocate", "position",
)  # fmt: skip
_TAKE_VERBS = ("pick up", "pick", "grab", "grasp", "take", "lift", "get", "fetch", "collect", "unload", "remove")
_OTHER_VERBS = (
    "open", "close", "shut", "push", "pull", "slide", "press", "turn", "rotate", "twist", "wipe", "clean", "fold",
    "unfold", "pour", "stir", "sweep", "flip", "unscrew", "screw", "plug", "unplug", "cut", "draw", "write", "sort",
    "touch", "point", "hold", "shake", "roll", "fill", "empty", "cover", "assemble", "connect", "straighten", "align",
)  # fmt: skip
VERBS = _TRANSFER_VERBS + _TAKE_VERBS + _OTHER_VERBS
_PLACE_WORDS = (
    "on top of", "next to", "in front of", "to the left of", "to the right of", "on to", "onto", "into", "inside",
    "beside", "behind", "under", "underneath", "below", "above", "over", "near", "between", "against", "around",
    "through", "at", "on", "in", "to",
)  # fmt: skip
_POLITE = re.compile(r"^(please|kindly|now|first|then|next|can you|could you|would you|you should)[\s,]+")
_WITH_ARM = re.compile(
    r"\s(with|using)\s+(the|your|its|a|one|both)?\s*(left|right|other)?\s*(arms?|hands?|grippers?)\b"
)
_JOINT = re.compile(r"\s*(?:,|;|\.\s)\s*(?:and\s+)?(?:then\s+)?|\s+and\s+then\s+|\s+then\s+|\s+and\s+")
_DETERMINED = re.compile(
    r"^(the|this|that|these|those|its|his|her|their|your|my|all|both|each|every|some|any|no|one|two|three|four|five|"
    r"six|several|\d+)\b"
)
_NOT_OBJECTS = frozenset({"it", "them", "this", "that", "up", "down", "place", "arm", "gripper", "robot", "something"})


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to be done with one object: `verb` "put", `thing` "the banana", `relation` "on", `place` "the plate".

    `thing` and `place` carry their article; `relation` and `place` are empty where the task names no place.
    """

    verb: str
    thing: str
    relation: str = ""
    place: str = ""

    @property
    def moves(self) -> bool:
        """Whether doing it means to take hold of the object and move it."""
        return self.verb in _TRANSFER_VERBS or self.verb in _TAKE_VERBS


def parse_task(task: str) -> tuple[Transfer, ...]:
    """Read a task; empty if the rules cannot."""
    plain = _WITH_ARM.sub("", plain_task(task))
    found: list[Transfer] = []
    for clause in _clauses(plain):
        verb, rest = _verb_of(clause)
        thing, relation, place = _split_place(rest, verb)
        if found and thing in ("it", "them", ""):
            if found[-1].place or not place:
                continue
            found[-1] = msgspec.structs.replace(found[-1], verb=verb, relation=relation, place=place)
        elif verb and _names_a_thing(thing):
            found.append(Transfer(verb=verb, thing=_determined(thing), relation=relation, place=place))
        else:
            return ()
    return tuple(found)


def is_imperative(task: str) -> bool:
    """Whether a task starts with a verb that is known here."""
    return leading_verb(plain_task(task)) != ""


def leading_verb(plain: str) -> str:
    """The known verb that a plain task starts with, or empty."""
    return _verb_of(plain)[0]


def phase_texts(phases: tuple[Phase, ...], task: str) -> list[str]:
    """Word every phase of an episode, in the task's words where they can be read."""
    transfers = parse_task(task)
    grasped = len({p.transfer for p in phases if p.kind in ("grasp", "keep")})
    return [_text(p, _which(transfers, p, grasped)) for p in phases]


def plain_task(task: str) -> str:
    """The bare imperative: no courtesy, no full stop; case kept where it says something."""
    text = re.sub(r"[_\s]+", " ", task).strip().strip("\"'").rstrip(".!?; ")
    text = text.lower() if text.istitle() or text.isupper() else text[:1].lower() + text[1:]
    while (shorter := _POLITE.sub("", text)) != text:
        text = shorter
    return text


def _clauses(plain: str) -> list[str]:
    """Cut a task where a new verb begins; an "and" inside an object's name stays."""
    parts: list[str] = []
    cursor = 0
    for joint in _JOINT.finditer(plain):
        if _verb_of(plain[joint.end() :])[0]:
            parts.append(plain[cursor : joint.start()])
            cursor = joint.end()
    return [*parts, plain[cursor:]]


def _verb_of(clause: str) -> tuple[str, str]:
    for verb in sorted(VERBS, key=len, reverse=True):
        if f"{clause} ".lower().startswith(f"{verb} "):
            return verb, clause[len(verb) :].strip()
    return "", clause


def _split_place(rest: str, verb: str) -> tuple[str, str, str]:
    """Cut "the banana on the plate" into the thing, the relation and the place."""
    rest = re.sub(r"\s+(back|up|down|carefully|gently|slowly|away)$", "", rest)
    thing, _, source = rest.partition(" from ")
    if source:
        landing = _first_relation(source)
        return (thing, *landing[1:]) if landing and verb in _TRANSFER_VERBS else (thing, "", "")
    cut = _first_relation(rest)
    if cut is None:
        return rest, "", ""
    if verb in _TAKE_VERBS:
        return cut[0], "", ""  # "the cup on the table": where it is, not where it goes
    return cut


def _first_relation(text: str) -> tuple[str, str, str] | None:
    words = "|".join(re.escape(word) for word in _PLACE_WORDS)
    found = re.search(rf"(?:^|\s)({words})\s+(?=\S)", text)
    if found is None:
        return None
    place = text[found.end() :]
    return text[: found.start()].strip(), found[1], place if place == "it" else _determined(place)


def _names_a_thing(thing: str) -> bool:
    """Whether the words can be an object: a few plain words, none of them a pronoun or the robot itself."""
    words = re.sub(r"^(the|a|an)\s+", "", thing).split()
    plain = all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9'/-]*,?", word) for word in words)
    return bool(words) and len(words) <= 8 and plain and words[-1] not in _NOT_OBJECTS and words[0] not in _NOT_OBJECTS


def _determined(thing: str) -> str:
    bare = re.sub(r"^(a|an)\s+", "", thing)
    return bare if _DETERMINED.match(bare) else f"the {bare}"


def _which(transfers: tuple[Transfer, ...], phase: Phase, grasped: int) -> Transfer | None:
    """One object serves all grasps; several serve them in order, if there are as many grasps as objects."""
    if len(transfers) == 1:
        return transfers[0]
    if len(transfers) == grasped and phase.transfer < grasped:
        return transfers[phase.transfer]
    return None


def _text(phase: Phase, transfer: Transfer | None) -> str:
    arm = f"the {phase.side} arm" if phase.side in ("left", "right") else "the arm"
    gripper = {"": "the gripper", "both": "both grippers"}.get(phase.side, f"the {phase.side} gripper")
    again = " again" if phase.again else ""
    neutral = {
        "wait": "stay still", "move": f"move {arm}", "reach": f"move {arm} into place", "grasp": f"close {gripper}",
        "try": f"close {gripper}", "shut": f"close {gripper}", "ready": f"open {gripper}", "release": f"open {gripper}",
        "reopen": f"open {gripper} again", "lift": f"move {arm} off with {gripper} closed",
        "carry": f"move {arm} with {gripper} closed", "lower": f"bring {arm} to where {gripper} opens",
        "keep": f"move {arm} with {gripper} closed", "back": f"move {arm} back", "retract": f"move {arm} away",
        "kept_open": f"keep {gripper} open", "kept_closed": f"keep {gripper} closed",
    }  # fmt: skip
    if transfer is None:
        return neutral[phase.kind]
    thing = transfer.thing
    named = {"reach": f"reach for {thing}{again}"}
    if transfer.moves:
        named |= _moving_texts(transfer, gripper)
    else:
        named |= {kind: _bare(transfer) for kind in ("lift", "carry", "lower", "keep")}
    if phase.kind == "reach" and phase.side in ("left", "right"):
        named["reach"] += f" with {arm}"
    return named.get(phase.kind, neutral[phase.kind])[:200].strip()


def _moving_texts(transfer: Transfer, gripper: str) -> dict[str, str]:
    thing = transfer.thing
    carry, lower = f"carry {thing}", f"lower {thing}"
    if transfer.place:
        carry += f" {_towards(transfer.relation)} {transfer.place}"
        lower += f" {_down(transfer.relation)} {transfer.place}"
    return {
        "grasp": f"close {gripper} on {thing}", "try": f"try to grasp {thing}",
        "lift": f"lift {thing}", "carry": carry, "lower": lower, "keep": carry if transfer.place else f"lift {thing}",
        "release": f"open {gripper} to release {thing}",
    }  # fmt: skip


def _towards(relation: str) -> str:
    return "to" if relation in ("on", "onto", "on to", "on top of", "in", "into", "inside", "to", "at") else relation


def _down(relation: str) -> str:
    return {"on": "onto", "on to": "onto", "in": "into", "inside": "into", "to": "at"}.get(relation, relation)


def _bare(transfer: Transfer) -> str:
    return " ".join(part for part in (transfer.verb, transfer.thing, transfer.relation, transfer.place) if part)
