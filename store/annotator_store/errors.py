"""The one base of every error a person may see: what, where, got, and a hint.

Problem
├── StoreError               the journal, its cache, or the shards (this package)
│   ├── NewerEvent           written by a newer annotator
│   ├── JournalDamaged       a line or a segment does not match its digest
│   ├── QueryRefused         SQL that DuckDB refuses, or that is not allowed
│   ├── RuleError            a validation rule's file is wrong, or the rule fails when it runs
│   └── ShardError           a data shard cannot be read, written, or read back
└── AnnotatorError           everything in `annotator.errors`
"""


class Problem(Exception):
    """An error whose message says what went wrong, where, what was there, and what helps.

    Drivers' errors are translated into it once, at the edge, with `raise ... from cause`.
    """

    def __init__(self, what: str, *, where: str = "", got: str = "", hint: str = "") -> None:
        self.what = what
        self.where = where
        self.got = got
        self.hint = hint
        super().__init__(str(self))

    @property
    def line(self) -> str:
        """What – where – got, in one line."""
        return " – ".join(part for part in (self.what, self.where, self.got) if part)

    def __str__(self) -> str:
        return f"{self.line}\nhint: {self.hint}" if self.hint else self.line


class StoreError(Problem):
    """The journal, its cache or a shard could not be used."""


class NewerEvent(StoreError):
    """An event's type or version is not known to this release."""


class JournalDamaged(StoreError):
    """A journal line or segment does not match the digest it carries."""


class QueryRefused(StoreError):
    """SQL from the user that DuckDB refuses, or that asks for more than reading."""


class RuleError(StoreError):
    """A validation rule cannot be read, or fails when it runs; the message names its file."""


class ShardError(StoreError):
    """A data shard cannot be read, written, or does not read back as written."""
