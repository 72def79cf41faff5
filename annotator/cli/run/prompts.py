"""`annotator prompts`: list the prompts, or copy the shipped ones to a folder for editing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from annotator.cli.parsing import parse
from annotator.cli.tables import print_table
from annotator.config.options import POSITIONAL
from annotator.config.settings import Settings
from annotator.errors import UsageError


class PromptsArguments(Settings, frozen=True, kw_only=True):
    """List the prompts, check a folder of replacements, or copy the shipped prompts to a folder for editing."""

    action: Annotated[Literal["list", "eject"], POSITIONAL] = "list"
    """list or eject."""
    folder: Annotated[Path | None, POSITIONAL] = None
    """list: a folder of prompts that replace shipped ones. eject: the folder to copy to."""


def run(args: Sequence[str]) -> int:
    """List the prompts with their digests, or copy the shipped prompts to a folder."""
    arguments = parse("prompts", PromptsArguments, args)
    from annotator.modules.registry import prompt_folders
    from annotator.prompting.loader import eject, load_prompts

    if arguments.action == "eject":
        if arguments.folder is None:
            raise UsageError(
                "no folder to copy to", where="annotator prompts eject", hint="annotator prompts eject DIR"
            )
        for path in eject(arguments.folder, prompt_folders()):
            print(path)
    else:
        print_table(
            [(file.head.id, file.digest, file.where) for file in load_prompts(arguments.folder, prompt_folders())]
        )
    return 0
