"""`annotator doctor`: what is installed, which engine would answer, and what that engine can do."""

import asyncio
import sys
from collections.abc import Sequence
from typing import Literal

from annotator.cli.parsing import build, split_words, take_config
from annotator.cli.tables import print_table
from annotator.config.settings import Settings, VlmSettings
from annotator.modules.third_party import sync_settings
from annotator.vlm.diagnose import Check, engine, gpus, installed

MARKS = {"ok": "ok", "none": "-", "fails": "FAILS"}


class ViewSettings(Settings, frozen=True, kw_only=True):
    """The one setting of the `plan` module that says what an engine has to be able to do."""

    view: Literal["contact_sheets", "video"] = "contact_sheets"
    """How a sync is to show episodes: with video, a server that takes none, or not all of its frames, fails here."""


class DoctorSettings(Settings, frozen=True, kw_only=True):
    """Say what is installed, which GPUs there are, which engine a sync would take, and what that engine really can do.

    Takes the same model options as `annotator sync`, also from annotator.toml or --config FILE. An engine with a model
    is asked a few small questions, which are not kept. Exit status 1 where a sync would stumble over something.
    """

    vlm: VlmSettings = VlmSettings()
    plan: ViewSettings = ViewSettings()


def parse_doctor(args: Sequence[str]) -> DoctorSettings:
    """Read `annotator doctor`'s arguments over those of `annotator.toml`.

    Raises:
        UsageError: the settings file cannot be read, or a value cannot be meant.
    """
    words = split_words(args, sync_settings())
    file = take_config(words)
    return build("doctor", DoctorSettings, words, DoctorSettings(vlm=file.vlm, plan=ViewSettings(view=file.plan.view)))


def run(args: Sequence[str]) -> int:
    """Look at everything and print it as it is found; 1 where something fails."""
    return asyncio.run(_look(parse_doctor(args)))


async def _look(settings: DoctorSettings) -> int:
    def show(check: Check) -> None:
        # A table for each row: nothing waits for the engine, which may take minutes to answer.
        print_table([(check.what, MARKS[check.state], check.found)], widths=(22, 6))
        sys.stdout.flush()

    status = 0
    for check in [*installed(), *gpus()]:
        show(check)
    async for check in engine(settings.vlm, video_needed=settings.plan.view == "video"):
        show(check)
        status = 1 if check.state == "fails" else status
    return status
