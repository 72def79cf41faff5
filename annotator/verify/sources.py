"""Compare what rows were made from, as a lock pins it, with what is there now: prompts, vocabulary, modules."""

from collections.abc import Sequence
from pathlib import Path

from annotator.errors import PromptError, VocabularyError
from annotator.modules.registry import all_modules, prompt_folders
from annotator.modules.vocabulary import discovery as discover
from annotator.modules.vocabulary.file import FILE, read_vocabulary
from annotator.prompting.loader import Prompts, load_prompts
from annotator.provenance.lock import Lock, other_prompts
from annotator.provenance.setups import VOCABULARY
from annotator_store.verify.findings import VerifyReport


def check_sources(root: Path, lock: Lock, folders: Sequence[Path | None], report: VerifyReport) -> None:
    """Report prompts, a vocabulary and modules that differ from the pinned ones.

    `folders`: folders of own prompts to look in, the most likely first. That some runs of a dataset had other prompts
    is no fault as long as one folder has those that the rows come from.
    """
    _check_prompts(lock, folders, report)
    _check_vocabulary(root, lock, report)
    versions = {module.name: module.version for module in all_modules()} | {VOCABULARY: discover.VERSION}
    for name, version in lock.modules.items():
        others = {other.made.version for other in lock.others if other.module == name}
        if version is not None and name in versions and versions[name] not in {version, *others}:
            report.add("module", f"{name}, its version in this release", version, versions[name])


def _check_prompts(lock: Lock, folders: Sequence[Path | None], report: VerifyReport) -> None:
    gone = [folder for folder in folders if folder is not None and not folder.is_dir()]
    loaded = [prompts for folder in folders if folder not in gone and (prompts := _load(folder, report)) is not None]
    if any(not other_prompts(lock, prompts) for prompts in loaded):
        return
    if gone and folders[0] in gone:
        report.note(f"own prompts at {gone[0]} not found: no prompt was compared; --prompts names another folder")
        return
    for step, got in other_prompts(lock, loaded[0]).items() if loaded else ():
        expected = f"{step} with the digest {lock.prompts[step]}"
        report.add("prompt", loaded[0][step].where, expected, got)


def _load(folder: Path | None, report: VerifyReport) -> Prompts | None:
    try:
        return load_prompts(folder, prompt_folders())
    except PromptError as error:
        report.add("prompt", error.where, "a prompt that can be read", f"{error.what}: {error.got}")
        return None


def _check_vocabulary(root: Path, lock: Lock, report: VerifyReport) -> None:
    """The file is one of the vocabularies that rows were held to. Where there are none, any file will do."""
    pinned = {lock.vocabulary, *(other.made.vocabulary for other in lock.others)} - {None}
    if not pinned:
        return
    try:
        vocabulary = read_vocabulary(root / FILE)
    except VocabularyError as error:
        report.add("vocabulary", error.where, "a vocabulary that can be read", f"{error.what}: {error.got}")
        return
    digest = vocabulary.digest if vocabulary else None
    if digest not in pinned:
        report.add("vocabulary", str(FILE), lock.vocabulary, digest)
