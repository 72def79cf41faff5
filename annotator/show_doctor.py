"""Show what the doctor found: a line for each thing that was looked at, on stdout."""

import asyncio
import sys
from collections.abc import Sequence

from annotator.arguments import parse_as, with_flag_values
from annotator.doctor import Check, engine, gpus, installed
from annotator.settings import Settings, VlmSettings

_MARKS = {"ok": "ok", "none": "-", "fails": "FAILS"}


class DoctorSettings(Settings, frozen=True, kw_only=True):
    """Say what is installed, which GPUs there are, which engine a sync would take, and what that engine really can do.

    Takes the same model options as `annotator sync`. An engine with a model is asked a few small questions, which are
    not kept. Exit status 1 where a sync would stumble over something.
    """

    vlm: VlmSettings = VlmSettings()


def parse_doctor(args: Sequence[str]) -> DoctorSettings:
    """Read `annotator doctor`'s arguments."""
    return parse_as("doctor", DoctorSettings, list(with_flag_values(args)), DoctorSettings(), DoctorSettings.__doc__)


def show_doctor(settings: DoctorSettings) -> int:
    """Look at everything and print it as it is found; 1 where something fails."""
    checks = [*installed(), *gpus()]
    for check in checks:
        sys.stdout.write(_line(check))
    failed = asyncio.run(_engine(settings.vlm))
    return 1 if failed else 0


async def _engine(vlm: VlmSettings) -> bool:
    failed = False
    async for check in engine(vlm):
        sys.stdout.write(_line(check))
        sys.stdout.flush()
        failed = failed or check.state == "fails"
    return failed


def _line(check: Check) -> str:
    found = check.found.replace("\n", "\n" + " " * 32)
    return f"{check.what:<24}{_MARKS[check.state]:<8}{found}\n"
