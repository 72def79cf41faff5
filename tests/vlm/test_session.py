"""One episode's `ask`: what is known is not asked, what does not fit is asked for once more, every outcome is kept."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from annotator.dataset.signals import Signals
from annotator.errors import CallError, Declined, NotInLog, Rejected
from annotator.prompting.answers import CountAnswer, Task
from annotator.prompting.loader import load_prompts
from annotator.vlm.base import Request
from annotator.vlm.call_stats import CallOutcome
from annotator.vlm.client import VlmClient
from annotator.vlm.scripted.engine import Scripted, ScriptedEngine
from annotator.vlm.session import EpisodeSession, SessionEpisode, StepAnswer
from annotator_store.keys import Model, Text
from annotator_store.log.log import Log
from tests.pipeline.unit.values import client
from tests.store.facts import digest

PROMPTS = load_prompts(None)
INPUTS = {"view": "one picture", "given": ""}
GOOD = '{"task": "stack the cups"}'


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with Log.open(tmp_path / "log") as opened:
        yield opened


def no_signals() -> Signals:
    raise AssertionError("nobody reads them")


def session(asking: VlmClient, *, signals_digest: str = "signals") -> EpisodeSession:
    episode = digest("episode", 0)
    return EpisodeSession(
        asking,
        SessionEpisode(
            digest=episode,
            where="episode 0",
            signals_digest=digest(signals_digest),
            signals=no_signals,
            pictures=None,
            outcomes=asking.outcomes(episode),
        ),
    )


def replies(*texts: Scripted) -> ScriptedEngine:
    """An engine that gives these replies, one after the other."""
    waiting = iter(texts)
    return ScriptedEngine(lambda request: next(waiting))


def ask(asking: VlmClient, misfit: Callable[[Task], str] | None = None) -> StepAnswer[Task]:
    return asyncio.run(session(asking)("plan.task", Task, INPUTS, misfit=misfit))


def last_text(request: Request) -> str:
    return "".join(part.text for part in request.messages[-1].parts if isinstance(part, Text))


def outcomes(asking: VlmClient) -> dict[CallOutcome, int]:
    return dict(asking.stats.outcomes)


def test_an_answer_is_asked_for_once_and_then_known(log: Log) -> None:
    engine = replies(GOOD)
    first = ask(client(log, PROMPTS, engine=engine))
    later = client(log, PROMPTS, engine=engine)
    again = ask(later)
    assert first == again == StepAnswer(Task("stack the cups"), first.key)
    assert (len(engine.requests), outcomes(later)) == (1, {"hit": 1})


def test_the_keys_of_the_answers_used_are_listed_and_no_rejected_one(log: Log) -> None:
    asking = client(log, PROMPTS, engine=replies("nonsense", GOOD))
    episode = session(asking)
    answer = asyncio.run(episode("plan.task", Task, INPUTS))
    assert episode.calls == [answer.key]


def test_a_reply_that_does_not_fit_is_asked_for_once_more_with_the_error(log: Log) -> None:
    engine = replies("nonsense", GOOD)
    asking = client(log, PROMPTS, engine=engine)
    assert ask(asking).answer == Task("stack the cups")
    assert outcomes(asking) == {"answered": 2, "asked again": 1}
    assert "the reply is no JSON object" in last_text(engine.requests[1])
    assert log.rejected_keys(digest("episode", 0)) == {engine.requests[0].key}


def test_a_second_reply_that_does_not_fit_is_rejected_and_asked_for_no_more(log: Log) -> None:
    engine = replies("nonsense", "more of it")
    asking = client(log, PROMPTS, engine=engine)
    with pytest.raises(Rejected) as refused:
        ask(asking)
    assert refused.value.call == engine.requests[1].key
    assert outcomes(asking) == {"answered": 2, "asked again": 1, "rejected": 1}
    later = client(log, PROMPTS, engine=engine)
    with pytest.raises(Rejected):
        ask(later)
    assert (len(engine.requests), outcomes(later)) == (2, {"hit": 2, "asked again": 1, "rejected": 1})


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        ("", "the reply is no JSON object"),
        ("[1]", "the reply is no JSON object"),
        ('{"task": 1}', "Expected `str`, got `int` - at `$.task`"),
        ('{"task": ' + "[" * 5000 + "]" * 5000 + "}", None),
    ],
)
def test_what_is_wrong_with_a_reply_goes_into_the_second_prompt(log: Log, reply: str, problem: str | None) -> None:
    engine = replies(reply, GOOD)
    ask(client(log, PROMPTS, engine=engine))
    assert (problem or "") in last_text(engine.requests[1])


def test_what_the_step_itself_calls_a_misfit_is_asked_for_again_too(log: Log) -> None:
    engine = replies(GOOD, '{"task": "open the lid"}')

    def misfit(answer: Task) -> str:
        return "not that one" if "cups" in answer.task else ""

    assert ask(client(log, PROMPTS, engine=engine), misfit).answer == Task("open the lid")
    assert "not that one" in last_text(engine.requests[1])


def test_a_refusal_is_kept_and_not_asked_for_again(log: Log) -> None:
    engine = replies(Declined("cannot", got="too dark"))
    for asking in (client(log, PROMPTS, engine=engine), client(log, PROMPTS, engine=engine)):
        with pytest.raises(Declined) as refused:
            ask(asking)
        assert (refused.value.got, refused.value.call) == ("too dark", engine.requests[0].key)
        assert outcomes(asking) == {"declined": 1}
    assert len(engine.requests) == 1


def test_a_failure_is_kept_and_asked_for_again_by_the_next_run(log: Log) -> None:
    engine = replies(CallError("no reply", kind="timeout", retryable=True), GOOD)
    asking = client(log, PROMPTS, engine=engine)
    with pytest.raises(CallError):
        ask(asking)
    assert outcomes(asking) == {"failed": 1}
    assert ask(client(log, PROMPTS, engine=engine)).answer == Task("stack the cups")


def test_a_run_that_stopped_asks_nothing_and_keeps_nothing_more(log: Log) -> None:
    engine = replies(CallError("refused", kind="http_401", retryable=False))
    asking = client(log, PROMPTS, engine=engine)
    for _ in range(2):
        with pytest.raises(CallError, match="refused"):
            ask(asking)
    assert (len(engine.requests), outcomes(asking)) == (1, {"failed": 1})


def test_a_call_that_was_still_waiting_when_the_run_stopped_is_no_failure(log: Log) -> None:
    why = CallError("refused", kind="http_401", retryable=False)

    def stopped_meanwhile(request: Request) -> CallError:
        asking.stopped = why
        return CallError("never sent", kind="stopped", retryable=True, attempts=0)

    asking = client(log, PROMPTS, engine=ScriptedEngine(stopped_meanwhile))
    with pytest.raises(CallError, match="refused"):
        ask(asking)
    assert outcomes(asking) == {}


def test_a_call_that_only_the_log_may_answer_is_missing_and_no_failure(log: Log) -> None:
    asking = client(log, PROMPTS, engine=replies(NotInLog("not in the log", kind="offline", retryable=False)))
    with pytest.raises(NotInLog):
        ask(asking)
    assert (outcomes(asking), asking.stats.missing_by_step) == ({"missing": 1}, {"plan.task": 1})


def test_seed_model_step_and_inputs_take_part_in_the_key_and_nothing_else_of_a_run(log: Log) -> None:
    def key(asking: VlmClient, step: str = "plan.task", view: str = "one picture") -> str:
        answer = Task if step == "plan.task" else CountAnswer
        inputs = {"view": view, "given": "", "task": "", "focus": "cups", "coordinates": ""}
        return asyncio.run(session(asking)(step, answer, inputs)).key

    plain = key(client(log, PROMPTS))
    others = [
        key(client(log, PROMPTS, seed=2)),
        key(client(log, PROMPTS, model=Model(model_id="other/model"))),
        key(client(log, PROMPTS), step="vqa.count"),
        key(client(log, PROMPTS), view="two pictures"),
    ]
    assert len({plain, *others}) == 5
    assert key(client(log, PROMPTS, run_id="another run", looks=True)) == plain
