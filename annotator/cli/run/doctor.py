"""`annotator doctor`: installed libraries, the engine that a sync would use, and what it supports."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from annotator.cli.parsing import build, split_words, take_config
from annotator.cli.tables import print_table
from annotator.config.settings import Settings, VlmSettings
from annotator.modules.third_party import sync_settings

if TYPE_CHECKING:
    from annotator.vlm.diagnose import Check

MARKS = {"ok": "ok", "none": "-", "fails": "FAILS"}


class ViewSettings(Settings, frozen=True, kw_only=True):
    """The setting of the `plan` module that decides what an engine must support."""

    view: Literal["contact_sheets", "video"] = "contact_sheets"
    """How a sync would show episodes; with video, a server that does not accept a video and all its frames fails."""


class DoctorSettings(Settings, frozen=True, kw_only=True):
    """Report installed libraries, GPUs, the engine that a sync would use, and what that engine supports.

    Takes the model options of `annotator sync`, also from annotator.toml or --config FILE. An engine with a model gets
    a few small requests, which are not recorded. Exit status 1 if a check fails.
    """

    vlm: VlmSettings = VlmSettings()
    plan: ViewSettings = ViewSettings()


def parse_doctor(args: Sequence[str]) -> DoctorSettings:
    """Read `annotator doctor`'s arguments over those of `annotator.toml`.

    Raises:
        UsageError: the settings file cannot be read, or a value is invalid.
    """
    # The file is that of `annotator sync`, with settings that the doctor does not take.
    words = split_words(args, sync_settings())
    file = take_config(words)
    return build("doctor", DoctorSettings, words, DoctorSettings(vlm=file.vlm, plan=ViewSettings(view=file.plan.view)))


def run(args: Sequence[str]) -> int:
    """Print each check as it completes, and return 1 if one fails."""
    settings = parse_doctor(args)
    import asyncio

    return asyncio.run(_look(settings))


async def _look(settings: DoctorSettings) -> int:
    from annotator.vlm.diagnose import engine, gpus, installed

    def show(check: "Check") -> None:
        # One table per row: checks are shown at once, while an engine may take minutes to start.
        print_table([(check.what, MARKS[check.state], check.found)], widths=(22, 6))
        sys.stdout.flush()

    status = 0
    for check in [*installed(), *gpus()]:
        show(check)
    async for check in engine(settings.vlm, video_needed=settings.plan.view == "video"):
        show(check)
        status = 1 if check.state == "fails" else status
    return status
