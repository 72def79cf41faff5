"""Compare what a run asks for with what the rows in the dataset were made with, as its lock pins it."""

import shlex
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from annotator.config.flags import changed, spell_flags
from annotator.errors import NotInLog, OutOfDate
from annotator.modules.base import Module
from annotator.modules.registry import all_modules
from annotator.pipeline.resolve_vocabulary import uses_vocabulary
from annotator.pipeline.run import Run
from annotator.provenance.card import setup_flags
from annotator.provenance.lock import FILE, Lock, other_prompts, read_sound_lock
from annotator.provenance.setups import PinnedSetup
from annotator.vlm.call_stats import CallStats
from annotator_store.digests import digest_struct


class SetupDiff(msgspec.Struct, frozen=True, kw_only=True):
    """How a run differs from the rows in the dataset: one line, and the command line of a run that would not.

    `anew`: the model or the seed differs, so that no answer in the log can be used.
    """

    anew: bool
    line: str
    command: str


def diff_setup(run: Run, flag: str) -> SetupDiff | None:
    """Return how a run differs from the rows in the dataset; None where it does not, or no sound lock tells.

    `flag` (`--offline`, `--locked`) goes into the command.
    """
    lock = read_sound_lock(run.target_root / FILE)
    if lock is None or lock.model is None:
        return None
    pinned = [module for module in run.modules if module.name in lock.modules]
    other_model = _other_model(lock, run, pinned)
    # Every call of another model is a new one: nothing else that differs matters beside it.
    line = other_model or "; ".join(_other_inputs(lock, run, pinned))
    if not line:
        return None
    places = {"output": run.settings.output, "store": run.settings.store}
    flags = {name: str(path) for name, path in places.items() if path is not None} | setup_flags(lock, all_modules())
    command = f"annotator sync {shlex.quote(str(run.settings.root))} {flag} {spell_flags(flags)}".rstrip()
    return SetupDiff(anew=bool(other_model), line=line, command=command)


def _other_setups(lock: Lock, module: Module) -> list[PinnedSetup]:
    """Return the setups of a module's rows that differ from the dominant one."""
    return [other.made for other in lock.others if other.module == module.name]


def _other_model(lock: Lock, run: Run, modules: Collection[Module]) -> str:
    assert lock.model is not None
    asked, dominant = (digest_struct(run.model), run.settings.seed), (lock.model.digest, lock.seed)
    pinned = [
        {dominant, *((m.model.digest, m.seed) for m in _other_setups(lock, module) if m.model)} for module in modules
    ]
    if all(asked in pairs for pairs in pinned):
        return ""
    if (lock.model.model_id, lock.seed) == (run.model.model_id, run.settings.seed):
        return (
            f"this run asks {run.model.model_id} with other settings, or in another revision, than the rows come from"
        )
    asks = f"this run asks {run.model.model_id}, seed {run.settings.seed}"
    return f"the rows come from {lock.model.model_id}, seed {lock.seed}; {asks}"


def _other_inputs(lock: Lock, run: Run, modules: Collection[Module]) -> Iterator[str]:
    steps = {step for module in modules for step in module.steps} | {"system", "retry"}
    prompts = sorted(step for step in other_prompts(lock, run.prompts) if step in steps)
    if prompts:
        yield f"another prompt than the rows come from: {', '.join(prompts)}"
    plans = [module for module in modules if module.uses_vocabulary]
    words = {lock.vocabulary, *(made.vocabulary for plan in plans for made in _other_setups(lock, plan))}
    if plans and uses_vocabulary(run) != bool(words - {None}) and len(words) == 1:
        yield "the rows are worded freely, this run's are not" if uses_vocabulary(run) else "this run words them freely"
    names = sorted({name for module in modules for name in _unequal(lock, run, module)})
    if names:
        yield f"other settings than the rows come from: {', '.join(names)}"


def _unequal(lock: Lock, run: Run, module: Module) -> set[str]:
    """Return the settings that differ from the dominant setup; none where any setup of the module's rows is alike."""
    mine = changed(run.settings, module.depends_on(run.settings))
    pinned: list[dict[str, Any]] = [
        lock.settings.get(module.name, {}),
        *(made.settings for made in _other_setups(lock, module)),
    ]
    if mine in pinned:
        return set()
    return {name for name in mine.keys() | pinned[0].keys() if mine.get(name) != pinned[0].get(name)}


@contextmanager
def explained(run: Run) -> Generator[None]:
    """Add to errors of `--locked` and `--offline` how this run differs from the rows in the dataset."""
    try:
        yield
    except OutOfDate as error:
        diff = diff_setup(run, "--locked")
        if diff is not None:
            error.got = "; ".join(filter(None, [error.got, diff.line]))
            hint = "annotator sync without --locked asks every call anew" if diff.anew else error.hint
            error.hint = f"{hint}\n      {diff.command} checks what stands here"
        raise
    except NotInLog as error:
        error.hint = _offline_hint(run, diff_setup(run, "--offline"))
        raise


def note_missing(run: Run, stats: CallStats, note: Callable[[str], None]) -> None:
    """Say once, with counts by step, which calls `--offline` did not find in the log."""
    if not stats.missing_by_step:
        return
    diff = diff_setup(run, "--offline")
    steps = ", ".join(f"{step} {count}" for step, count in sorted(stats.missing_by_step.items()))
    count = stats.missing_by_step.total()
    line = f"failed: {count} call{'s are' if count > 1 else ' is'} not in the log, and nobody was asked – {steps}"
    message = f"{line}; {diff.line}" if diff else line
    note(f"{message}\nhint: {_offline_hint(run, diff)}")


def _offline_hint(run: Run, diff: SetupDiff | None) -> str:
    anew = "run once without --offline, with the same settings"
    if run.settings.vlm.backend == "offline":
        anew = "run once with another --vlm.backend than offline"
    if diff is None:
        return anew
    calls = "every call" if diff.anew else "what is missing"
    return f"{diff.command} finds what stands here\n      without --offline this run asks {calls} anew"
