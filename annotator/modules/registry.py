"""The modules of this environment, in the order in which they follow each other: the shipped ones, then third-party.

A package adds one by an entry point of the group `annotator.modules`, see `annotator.modules.third_party`.
"""

from functools import cache
from pathlib import Path

from annotator.modules.base import Module
from annotator.modules.interjections import INTERJECTIONS
from annotator.modules.plan.module import PLAN
from annotator.modules.third_party import third_party_modules
from annotator.modules.vqa.module import VQA

SHIPPED: tuple[Module, ...] = (PLAN, INTERJECTIONS, VQA)


@cache
def all_modules() -> tuple[Module, ...]:
    """Return the shipped modules, then the third-party ones; each stands after the one that it follows.

    Raises:
        UsageError: a third-party module cannot be loaded, or clashes with another.
    """
    return (*SHIPPED, *third_party_modules(SHIPPED))


def module_named(name: str) -> Module:
    """Return a module by its name."""
    return next(module for module in all_modules() if module.name == name)


def prompt_folders() -> tuple[Path, ...]:
    """Return the folders of prompt files that third-party modules bring."""
    return tuple(module.prompts for module in all_modules() if module.prompts is not None)
