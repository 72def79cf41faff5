"""Other ways to ask for the same task, by rules that keep the meaning: synonyms, word order, courtesy.

There are as many as the rules give, and no more: a sentence the rules cannot read is only framed.
"""

import re
from itertools import zip_longest

from annotator.vlm.signals.task_grammar import Transfer, is_imperative, parse_task, plain_task, split_verb

LONGEST = 200
"""Characters of one rephrasing, as `Line` in annotator/prompting/answers.py allows."""
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
    """Return up to `count` distinct rephrasings, the most different first; none repeats the task."""
    plain = plain_task(task)
    if not plain:
        return []
    clauses = _clauses(task) if is_imperative(task) else [plain]
    frames = _FRAMES if is_imperative(task) else _PLAIN_FRAMES
    capital = task.strip()[:1].isupper()
    known = {_folded(task), _folded(plain)}
    rephrasings: list[str] = []
    # Along the diagonals: neither all frames of one clause nor all clauses of one frame come first.
    for _, f, c in sorted((f + c, f, c) for f in range(len(frames)) for c in range(len(clauses))):
        sentence = frames[f].format(clauses[c])
        sentence = sentence[:1].upper() + sentence[1:] if capital else sentence
        if _folded(sentence) not in known and len(sentence) <= LONGEST:
            known.add(_folded(sentence))
            rephrasings.append(sentence)
    return rephrasings[:count]


def _clauses(task: str) -> list[str]:
    """Return every imperative that means the same; the task's own words come first."""
    plain = plain_task(task)
    verb, _ = split_verb(plain)
    rest = plain[len(verb) :]
    transfers = parse_task(task)
    whole = transfers[0] if len(transfers) == 1 and _says_all(plain, transfers[0]) else None
    tails = [rest]
    if whole and whole.relation:
        relations = _with_synonyms(_SAME_RELATIONS, whole.relation)
        tails = [rest.replace(f" {whole.relation} ", f" {relation} ", 1) for relation in relations]
    verbs = _with_synonyms(_SAME_VERBS, verb.lower()) if transfers else (verb,)
    pairs = sorted((v + t, v, t) for v in range(len(verbs)) for t in range(len(tails)))
    in_one_step = [verbs[v] + tails[t] for _, v, t in pairs]
    in_two_steps = _in_two_steps(whole) if whole else []
    # In turns, so that the first few differ most.
    return [clause for pair in zip_longest(in_one_step, in_two_steps) for clause in pair if clause]


def _says_all(plain: str, transfer: Transfer) -> bool:
    """Whether the transfer says all that the task says, so that nothing is lost by wording it anew."""
    words = " ".join((transfer.verb, transfer.thing, transfer.relation, transfer.place))
    articles = re.compile(r"\b(the|a|an)\b", re.IGNORECASE)
    return _folded(articles.sub("", plain)) == _folded(articles.sub("", words))


def _in_two_steps(transfer: Transfer) -> list[str]:
    if transfer.verb not in ("put", "place", "set", "move") or not transfer.place:
        return []
    thing = transfer.thing
    many = re.match(r"(all|both|these|those|two|three|four|five|six|several|some|\d+)\b", thing) or " and " in thing
    pronoun = "them" if many or re.search(r"[^s]s$", thing) else "it"
    return [
        f"{take} {thing} and {verb} {pronoun} {transfer.relation} {transfer.place}"
        for verb in (("move",) if transfer.verb == "move" else ("put", "place"))
        for take in ("pick up", "take", "grab")
    ]


def _with_synonyms(families: tuple[tuple[str, ...], ...], word: str) -> tuple[str, ...]:
    """Return the word itself, then its synonyms."""
    family = next((family for family in families if word in family), ())
    return (word, *(synonym for synonym in family if synonym != word))


def _folded(sentence: str) -> str:
    return re.sub(r"[\W_]+", " ", sentence).strip().lower()
