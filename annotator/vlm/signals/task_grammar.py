"""Tasks read by rules, and the text of each phase in the task's words.

A task is a verb that moves things, an object, and perhaps a place. What the rules cannot read is worded neutrally
("close the gripper"), never guessed.
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
# Relations in which a carried object arrives "to" its place, and those that a lowered object enters with a motion.
_ARRIVES = frozenset({"on", "onto", "on to", "on top of", "in", "into", "inside", "to", "at"})
_ONTO = {"on": "onto", "on to": "onto", "in": "into", "inside": "into", "to": "at"}


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
    """Return what a task asks for, in order; empty if the rules cannot read all of it."""
    transfers: list[Transfer] = []
    for clause in _clauses(_WITH_ARM.sub("", plain_task(task))):
        verb, rest = split_verb(clause)
        thing, relation, place = _split_place(rest, verb)
        # "Pick up the cup and put it in the sink" is one transfer: the second clause says where the cup goes.
        if transfers and thing in ("it", "them", ""):
            if transfers[-1].place or not place:
                continue
            transfers[-1] = msgspec.structs.replace(transfers[-1], verb=verb, relation=relation, place=place)
        elif verb and _names_a_thing(thing):
            transfers.append(Transfer(verb=verb, thing=_with_article(thing), relation=relation, place=place))
        else:
            return ()
    return tuple(transfers)


def is_imperative(task: str) -> bool:
    """Whether a task starts with a verb of `VERBS`."""
    return split_verb(plain_task(task))[0] != ""


def split_verb(clause: str) -> tuple[str, str]:
    """Return the verb of `VERBS` that a plain clause starts with, and the rest; "" and the clause where there is none.

    The verb is in lower case, and the longest that fits: "pick up", not "pick".
    """
    for verb in sorted(VERBS, key=len, reverse=True):
        if f"{clause} ".lower().startswith(f"{verb} "):
            return verb, clause[len(verb) :].strip()
    return "", clause


def phase_texts(phases: tuple[Phase, ...], task: str) -> list[str]:
    """Return the text of every phase of an episode, in the task's words where they can be read."""
    transfers = parse_task(task)
    grasps = len({p.transfer for p in phases if p.kind in ("grasp", "keep")})
    texts: list[str] = []
    for phase in phases:
        # One object serves all grasps; several serve them in order, if there are as many grasps as objects.
        transfer = transfers[0] if len(transfers) == 1 else None
        if len(transfers) > 1 and len(transfers) == grasps and phase.transfer < grasps:
            transfer = transfers[phase.transfer]
        texts.append(_phase_text(phase, transfer))
    return texts


def plain_task(task: str) -> str:
    """Return the bare imperative: no courtesy, no full stop; case kept where it says something."""
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
        if split_verb(plain[joint.end() :])[0]:
            parts.append(plain[cursor : joint.start()])
            cursor = joint.end()
    return [*parts, plain[cursor:]]


def _split_place(rest: str, verb: str) -> tuple[str, str, str]:
    """Cut "the banana on the plate" into the thing, the relation and the place."""
    rest = re.sub(r"\s+(back|up|down|carefully|gently|slowly|away)$", "", rest)
    thing, _, source = rest.partition(" from ")
    if source:
        goal = _first_relation(source)
        return (thing, *goal[1:]) if goal and verb in _TRANSFER_VERBS else (thing, "", "")
    parts = _first_relation(rest)
    if parts is None:
        return rest, "", ""
    if verb in _TAKE_VERBS:
        return parts[0], "", ""  # "the cup on the table": where it is, not where it goes
    return parts


def _first_relation(text: str) -> tuple[str, str, str] | None:
    """Return what stands before the first relation, the relation, and the place after it."""
    words = "|".join(re.escape(word) for word in _PLACE_WORDS)
    match = re.search(rf"(?:^|\s)({words})\s+(?=\S)", text)
    if match is None:
        return None
    place = text[match.end() :]
    return text[: match.start()].strip(), match[1], place if place == "it" else _with_article(place)


def _names_a_thing(thing: str) -> bool:
    """Whether the words can be an object: a few plain words, none of them a pronoun or the robot itself."""
    words = re.sub(r"^(the|a|an)\s+", "", thing).split()
    plain = all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9'/-]*,?", word) for word in words)
    return bool(words) and len(words) <= 8 and plain and words[-1] not in _NOT_OBJECTS and words[0] not in _NOT_OBJECTS


def _with_article(thing: str) -> str:
    bare = re.sub(r"^(a|an)\s+", "", thing)
    return bare if _DETERMINED.match(bare) else f"the {bare}"


def _phase_text(phase: Phase, transfer: Transfer | None) -> str:
    arm = f"the {phase.side} arm" if phase.side in ("left", "right") else "the arm"
    gripper = {"": "the gripper", "both": "both grippers"}.get(phase.side, f"the {phase.side} gripper")
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
    reach = f"reach for {transfer.thing}{' again' if phase.again else ''}"
    if phase.side in ("left", "right"):
        reach += f" with {arm}"
    named = {"reach": reach} | _transfer_texts(transfer, gripper)
    return named.get(phase.kind, neutral[phase.kind])[:200].strip()


def _transfer_texts(transfer: Transfer, gripper: str) -> dict[str, str]:
    """Return the text of each kind of phase that the task's words tell of, but for the reach."""
    thing, relation, place = transfer.thing, transfer.relation, transfer.place
    if not transfer.moves:
        task = " ".join(part for part in (transfer.verb, thing, relation, place) if part)
        return dict.fromkeys(("lift", "carry", "lower", "keep"), task)
    carry, lower = f"carry {thing}", f"lower {thing}"
    if place:
        carry += f" {'to' if relation in _ARRIVES else relation} {place}"
        lower += f" {_ONTO.get(relation, relation)} {place}"
    return {
        "grasp": f"close {gripper} on {thing}", "try": f"try to grasp {thing}",
        "lift": f"lift {thing}", "carry": carry, "lower": lower, "keep": carry if place else f"lift {thing}",
        "release": f"open {gripper} to release {thing}",
    }  # fmt: skip
