"""Errors of the making side.

Problem (annotator_store.errors)
└── AnnotatorError
    ├── UsageError           a flag, a setting, a path: exit status 2
    │   ├── PromptError      a prompt file is wrong: refused before the first call
    │   └── NoEngine         no engine was named and none was found
    ├── DatasetError         the dataset is not what LeRobot v3 says it is
    ├── FootageError         a video or image cannot be read: this episode fails, others go on
    ├── VocabularyError      the vocabulary's file is wrong, or there is nothing to find one from
    ├── RulesBroken          rows that were about to be written break a rule: no shard is touched
    ├── OutOfDate            with --locked: something would have to change
    └── StepError            one step of one episode has no usable answer
        ├── CallError        the engine gave no reply; `retryable` says whether asking again can help
        │   └── NotInLog     with --offline: the call would have to be made, and nobody was asked
        ├── Declined         the engine says it cannot answer this step, ever
        └── Rejected         the engine replied, twice, and neither reply fits the step's answer
"""

from annotator_store.errors import Problem


class AnnotatorError(Problem):
    """The base of every error that `annotator/` raises on purpose."""


class UsageError(AnnotatorError):
    """What the user asked for cannot be meant: exit status 2."""


class DatasetError(AnnotatorError):
    """The dataset cannot be annotated as it is; nothing was written."""


class FootageError(AnnotatorError):
    """Frames of one episode cannot be read; the episode fails and the others go on."""


class PromptError(UsageError):
    """A prompt file is unusable; refused before the first call."""


class VocabularyError(AnnotatorError):
    """The vocabulary's file is unusable, or there is nothing to find one from."""


class RulesBroken(AnnotatorError):
    """Rows that were about to be written break a rule; no shard was touched."""


class OutOfDate(AnnotatorError):
    """Nothing may be changed, and something would have to be."""


class NoEngine(UsageError):
    """No engine was named and none was found."""


class StepError(AnnotatorError):
    """One step of one episode ended without a usable answer. `call` is the key of the call, once it is known."""

    call: str = ""


class CallError(StepError):
    """The engine gave no reply.

    `kind` is a short, countable reason such as `timeout`, `http_500`, `connection`;
    `retryable` says whether asking the very same again can help; `attempts` how often it was already asked.
    `endpoint` is who was asked last; `retry_after_s` how long it wants to be left alone, where it says so.
    """

    endpoint: str | None = None
    retry_after_s: float | None = None

    def __init__(
        self,
        what: str,
        *,
        kind: str,
        retryable: bool,
        where: str = "",
        got: str = "",
        hint: str = "",
        attempts: int = 1,
    ) -> None:
        super().__init__(what, where=where, got=got, hint=hint)
        self.kind = kind
        self.retryable = retryable
        self.attempts = attempts


class NotInLog(CallError):
    """Only the log may answer, and it does not know this call. Nothing was asked, so there is no call to record."""


class Declined(StepError):
    """The engine cannot answer this step and says why."""


class Rejected(StepError):
    """The reply does not fit the step's answer type."""
