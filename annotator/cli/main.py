"""The command line. Each command imports what it needs when it runs, so that `--help` answers at once.

stdout is data, stderr is talk. Exit status: 0 done, 1 some work failed, 2 usage, 130 interrupted, 143 terminated.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from annotator_store.errors import Problem


class Command(NamedTuple):
    """One command: the module whose `run` it is, the words it takes, and its line of `annotator --help`."""

    module: str
    words: str
    text: str


COMMANDS = {
    "sync": Command("run.sync", "DATASET", "annotate what is not annotated yet, and bring the shards up to date"),
    "query": Command(
        "look.query", "SQL", "ask the log or the dataset: rows, calls, episodes, runs, failures, prompts, vocabulary"
    ),
    "log": Command("look.log", "", "list the runs"),
    "prompts": Command("run.prompts", "", "list the prompts, or copy them out: annotator prompts eject DIR"),
    "validate": Command("store.validate", "DATASET", "hold the language columns to the rules, whoever wrote them"),
    "verify": Command("store.verify", "DATASET", "derive every digest again, project again, and name what differs"),
    "export": Command(
        "store.export", "DATASET", "write the rows as files, one for each episode and module: --staging DIR"
    ),
    "doctor": Command("run.doctor", "", "say what is installed, which engine would answer, and what it can do"),
    "pull": Command("hub.pull", "ORG/NAME", "download a dataset of the Hugging Face Hub, with its log"),
    "push": Command("hub.push", "DATASET", "push a dataset to the Hub, with its card, lock and log"),
    "job": Command("hub.job", "submit", "annotate on Hugging Face Jobs; job status, logs, wait, cancel look after it"),
}
"""Every command by its name; the modules are those of `annotator.cli`, each imported when its command runs."""

USAGE = """\
usage: annotator COMMAND [OPTIONS]

Language for robot demonstrations: every call to a model is kept, reruns are free,
and LeRobot v3 datasets get the columns language_persistent and language_events.

{commands}

annotator COMMAND --help shows a command's options.
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
        print(f"no such command – {args[0]}\nhint: annotator --help", file=sys.stderr)
        return 2
    return _run(COMMANDS[args[0]], args[1:])


def _run(command: Command, args: list[str]) -> int:
    """Run a command, and turn what ends it into a message on stderr and an exit status."""
    from annotator.cli.sigterm import Termination
    from annotator.errors import UsageError
    from annotator_store.errors import QueryRefused

    termination = Termination()
    try:
        with termination:
            " ".join(args).encode()  # DuckDB and Arrow take no path that is not text
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
        sys.stderr.close()
        return 0


def _beyond_locale(error: UnicodeEncodeError) -> Problem:
    """A path was read, or a text is to be written, in a locale that has not all of its characters."""
    return Problem(
        "a path or a text has characters that this locale cannot express",
        where=ascii(error.object[max(error.start - 40, 0) : error.end + 40]),
        got=f"{error.encoding}: {error.reason}",
        hint="set PYTHONUTF8=1, or a UTF-8 locale such as LC_ALL=C.UTF-8",
    )


if __name__ == "__main__":
    sys.exit(main())
