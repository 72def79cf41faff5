"""Other ways to ask for the same task, by rules that keep the meaning: synonyms, word order, courtesy.

There are as many as the rules give, and no more: a sentence the rules cannot read is only framed.
"""

import re
from collections.abc import Iterable
from itertools import zip_longest

from annotator.vlm.signals.task_grammar import Transfer, is_imperative, leading_verb, parse_task, plain_task

LONGEST = 200
_SAME_VERBS: tuple[tuple[str, ...], ...] = (
    ("put", "place", "set"),
    ("move", "bring", "transfer"),
    ("pick up", "grab", "grasp", "take hold of"),
    ("close", "shut"),
    ("wipe", "wipe down"),
)
_SAME_RELATIONS: tuple[tuple[str, ...], ...] = (
    ("on", "onto", "on top of"),
    ("in", "into", "inside"),
    ("next to", "beside"),
    ("under", "underneath"),
)
_FRAMES = (
    "{0}", "please {0}", "could you {0}?", "I would like you to {0}", "your task is to {0}", "can you {0}?",
    "go ahead and {0}", "{0}, please", "I need you to {0}", "would you {0}?", "the goal is to {0}", "I want you to {0}",
)  # fmt: skip
_PLAIN_FRAMES = ("your task: {0}", "the task is: {0}", "please do this: {0}")


def rephrase(task: str, count: int) -> list[str]:
    """Give up to `count` distinct rephrasings, the most different first; none repeats the task."""
    plain = plain_task(task)
    if not plain:
        return []
    clauses = _clauses(task) if is_imperative(task) else [plain]
    frames = _FRAMES if is_imperative(task) else _PLAIN_FRAMES
    order = sorted((f + c, f, c) for f in range(len(frames)) for c in range(len(clauses)))
    framed = (_spelled(frames[f].format(clauses[c]), task) for _, f, c in order)
    return _distinct(framed, {_folded(task), _folded(plain)})[:count]


def _clauses(task: str) -> list[str]:
    """Every imperative that means the same; the task's own words come first."""
    plain = plain_task(task)
    verb = leading_verb(plain)
    rest = plain[len(verb) :]
    transfers = parse_task(task)
    whole = transfers[0] if len(transfers) == 1 and _says_all(plain, transfers[0]) else None
    relation = whole.relation if whole else ""
    tails = [_with_relation(rest, relation, word) for word in _family(_SAME_RELATIONS, relation)]
    verbs = _family(_SAME_VERBS, verb.lower()) if transfers else (verb,)
    pairs = sorted((v + t, v, t) for v in range(len(verbs)) for t in range(len(tails)))
    return _in_turns([verbs[v] + tails[t] for _, v, t in pairs], _in_two_steps(whole) if whole else [])


def _in_turns(one: list[str], other: list[str]) -> list[str]:
    """Take from both lists in turn, so that the first few differ most."""
    return [said for pair in zip_longest(one, other) for said in pair if said]


def _with_relation(rest: str, relation: str, word: str) -> str:
    return rest.replace(f" {relation} ", f" {word} ", 1) if relation else rest


def _says_all(plain: str, transfer: Transfer) -> bool:
    """Whether the transfer says all that the task says, so that nothing is lost by saying it anew."""
    words = " ".join((transfer.verb, transfer.thing, transfer.relation, transfer.place))
    articles = re.compile(r"\b(the|a|an)\b", re.IGNORECASE)
    return _folded(articles.sub("", plain)) == _folded(articles.sub("", words))


def _in_two_steps(transfer: Transfer) -> list[str]:
    if transfer.verb not in ("put", "place", "set", "move") or not transfer.place:
        return []
    verbs = {"move": ("move",)}.get(transfer.verb, ("put", "place"))
    takes = ("pick up", "take", "grab")
    return [
        f"{take} {transfer.thing} and {verb} {_pronoun(transfer.thing)} {transfer.relation} {transfer.place}"
        for verb in verbs
        for take in takes
    ]


def _pronoun(thing: str) -> str:
    many = re.match(r"(all|both|these|those|two|three|four|five|six|several|some|\d+)\b", thing) or " and " in thing
    return "them" if many or re.search(r"[^s]s$", thing) else "it"


def _family(families: tuple[tuple[str, ...], ...], word: str) -> tuple[str, ...]:
    """The word itself, then its synonyms. A word leads only its own family."""
    for family in families:
        if word in family:
            return (word, *(w for w in family if w != word))
    return (word,)


def _spelled(sentence: str, task: str) -> str:
    """Start with a capital letter if the task does."""
    return sentence[:1].upper() + sentence[1:] if task.strip()[:1].isupper() else sentence


def _folded(sentence: str) -> str:
    return re.sub(r"[\W_]+", " ", sentence).strip().lower()


def _distinct(sentences: Iterable[str], known: set[str]) -> list[str]:
    found: list[str] = []
    for sentence in sentences:
        if _folded(sentence) not in known and len(sentence) <= LONGEST:
            known.add(_folded(sentence))
            found.append(sentence)
    return found
