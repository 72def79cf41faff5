"""Show what the doctor found: a line for each thing that was looked at, on stdout."""

import asyncio
import sys
from collections.abc import Sequence
from typing import Literal

from annotator.cli.parsing import parse_as, with_flag_values
from annotator.config.flags import part_flags, take_config
from annotator.config.load import read_toml
from annotator.config.settings import Settings, SyncSettings, VlmSettings
from annotator.modules.third_party import sync_settings
from annotator.vlm.diagnose import Check, engine, gpus, installed

_MARKS = {"ok": "ok", "none": "-", "fails": "FAILS"}


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
        UsageError: the settings file cannot be read.
    """
    flags, loose = part_flags(with_flag_values(args))
    config = take_config(flags)
    file = read_toml(config, sync_settings()) if config else SyncSettings()
    defaults = DoctorSettings(vlm=file.vlm, plan=ViewSettings(view=file.plan.view))
    return parse_as("doctor", DoctorSettings, [*flags, *loose], defaults, DoctorSettings.__doc__)


def show_doctor(settings: DoctorSettings) -> int:
    """Look at everything and print it as it is found; 1 where something fails."""
    checks = [*installed(), *gpus()]
    for check in checks:
        sys.stdout.write(_line(check))
    failed = asyncio.run(_engine(settings))
    return 1 if failed else 0


async def _engine(settings: DoctorSettings) -> bool:
    failed = False
    async for check in engine(settings.vlm, video_needed=settings.plan.view == "video"):
        sys.stdout.write(_line(check))
        sys.stdout.flush()
        failed = failed or check.state == "fails"
    return failed


def _line(check: Check) -> str:
    found = check.found.replace("\n", "\n" + " " * 32)
    return f"{check.what:<24}{_MARKS[check.state]:<8}{found}\n"
