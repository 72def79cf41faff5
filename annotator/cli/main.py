"""The command line. A command's module is imported when the command runs, so that `--help` is fast.

Results go to stdout, messages to stderr. Exit status: 0 done, 1 some work failed, 2 usage, 130 interrupted,
143 terminated.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from annotator_store.errors import Problem


class Command(NamedTuple):
    """A command: its module, which has `run(args) -> int`, its arguments, and its line of `annotator --help`."""

    module: str
    words: str
    text: str


COMMANDS = {
    "sync": Command("run.sync", "DATASET", "annotate new and changed episodes and update the shards"),
    "query": Command(
        "look.query",
        "SQL",
        "query the log or the dataset in SQL: rows, calls, episodes, runs, failures, prompts, vocabulary",
    ),
    "log": Command("look.log", "", "list the runs"),
    "prompts": Command("run.prompts", "", "list the prompts, or copy them to a folder: annotator prompts eject DIR"),
    "validate": Command("store.validate", "DATASET", "check the language columns against the rules"),
    "verify": Command("store.verify", "DATASET", "recompute every digest, rebuild the rows, and list what differs"),
    "export": Command("store.export", "DATASET", "write the rows as files, one per episode and module: --staging DIR"),
    "doctor": Command("run.doctor", "", "check the installation, the engine, and what the engine supports"),
    "pull": Command("hub.pull", "ORG/NAME", "download a dataset from the Hugging Face Hub, with its log"),
    "push": Command("hub.push", "DATASET", "push a dataset to the Hub, with its card, lock and log"),
    "job": Command("hub.job", "submit", "annotate on Hugging Face Jobs; job status, logs, wait, cancel monitor it"),
}
"""Commands by name. Modules are relative to `annotator.cli`."""

USAGE = """\
usage: annotator COMMAND [OPTIONS]

Language annotations for robot demonstrations: writes the columns language_persistent and
language_events of LeRobot v3 datasets. Every model call is recorded, so reruns are free.

{commands}

Run annotator COMMAND --help for the options of a command.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        lines = (f"  {f'{name} {command.words}':<18} {command.text}" for name, command in COMMANDS.items())
        print(USAGE.format(commands="\n".join(lines)), end="")
        return 0 if args else 2
    if args[0] in ("-V", "--version"):
        from annotator import __version__

        print(f"annotator {__version__}")
        return 0
    if args[0] not in COMMANDS:
        print(f"unknown command – {args[0]}\nhint: annotator --help", file=sys.stderr)
        return 2
    return _run(COMMANDS[args[0]], args[1:])


def _run(command: Command, args: list[str]) -> int:
    """Run a command, and turn errors and signals into a message on stderr and an exit status."""
    from annotator.cli.sigterm import Termination
    from annotator.errors import UsageError
    from annotator_store.errors import QueryRefused

    termination = Termination()
    try:
        with termination:
            " ".join(args).encode()  # fails for a path that is not text, which DuckDB and Arrow do not accept
            return import_module(f"annotator.cli.{command.module}").run(args)
    except (UsageError, QueryRefused) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Problem as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        hint = "every answer that arrived is kept; run the same command to go on"
        print(f"{'terminated' if termination.asked else 'interrupted'}\nhint: {hint}", file=sys.stderr)
        return 143 if termination.asked else 130
    except UnicodeEncodeError as error:
        print(f"error: {_beyond_locale(error)}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # `annotator query … | head` is no error. Without stderr, Python cannot report the failed flush at exit.
        sys.stderr.close()
        return 0


def _beyond_locale(error: UnicodeEncodeError) -> Problem:
    """Return the error for a path or text that cannot be encoded in the current locale."""
    return Problem(
        "a path or a text has characters that the locale cannot encode",
        where=ascii(error.object[max(error.start - 40, 0) : error.end + 40]),
        got=f"{error.encoding}: {error.reason}",
        hint="set PYTHONUTF8=1, or a UTF-8 locale such as LC_ALL=C.UTF-8",
    )


if __name__ == "__main__":
    sys.exit(main())
