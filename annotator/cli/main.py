"""The command line. Each command imports what it needs when it runs, so that `--help` answers at once.

stdout is data, stderr is talk. Exit status: 0 done, 1 some work failed, 2 usage, 130 interrupted, 143 terminated.
"""

import sys
from collections.abc import Callable, Sequence

from annotator_store.errors import Problem

USAGE = """\
usage: annotator COMMAND [OPTIONS]

Language for robot demonstrations: every call to a model is kept, reruns are free,
and LeRobot v3 datasets get the columns language_persistent and language_events.

  sync DATASET       annotate what is not annotated yet, and bring the shards up to date
  query SQL          ask the log or the dataset: rows, calls, episodes, runs, failures, prompts, vocabulary
  log                list the runs
  prompts            list the prompts, or copy them out: annotator prompts eject DIR
  validate DATASET   hold the language columns to the rules, whoever wrote them
  verify DATASET     derive every digest again, project again, and name what differs
  export DATASET     write the rows as files, one for each episode and module: --staging DIR
  doctor             say what is installed, which engine would answer, and what it can do
  pull ORG/NAME      download a dataset of the Hugging Face Hub, with its log
  push DATASET       push a dataset to the Hub, with its card, lock and log
  job submit         annotate on Hugging Face Jobs; job status, logs, wait, cancel look after it

annotator COMMAND --help shows a command's options.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0 if args else 2
    if args[0] in ("-V", "--version"):
        return _version()
    command = COMMANDS.get(args[0])
    if command is None:
        print(f"no such command – {args[0]}\nhint: annotator --help", file=sys.stderr)
        return 2
    return _guarded(command, args[1:])


def _guarded(command: Callable[[list[str]], int], args: list[str]) -> int:
    from annotator.cli.sigterm import Termination
    from annotator.errors import UsageError
    from annotator_store.errors import QueryRefused

    termination = Termination()
    try:
        with termination:
            " ".join(args).encode()  # DuckDB and Arrow take no path that is not text
            return command(args)
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


def _version() -> int:
    from annotator import __version__

    print(f"annotator {__version__}")
    return 0


def _sync(args: list[str]) -> int:
    from annotator.cli.parsing import parse_sync
    from annotator.cli.progress import ConsoleProgress
    from annotator.hub.sync import run_at_hub

    with ConsoleProgress() as report:
        outcome = run_at_hub(parse_sync(args), report)
    return 0 if outcome == "done" else 1


def _query(args: list[str]) -> int:
    from annotator.cli.parsing import parse_query
    from annotator.cli.show import show_query

    return show_query(parse_query(args))


def _log(args: list[str]) -> int:
    from annotator.cli.parsing import parse_log
    from annotator.cli.show import show_runs

    return show_runs(parse_log(args))


def _prompts(args: list[str]) -> int:
    from annotator.cli.parsing import parse_prompts
    from annotator.cli.show import show_prompts

    return show_prompts(parse_prompts(args))


def _validate(args: list[str]) -> int:
    from annotator.cli.parsing import parse_validate
    from annotator.cli.show_validate import show_validate

    return show_validate(parse_validate(args))


def _verify(args: list[str]) -> int:
    from annotator.cli.parsing import parse_verify
    from annotator.cli.show_verify import show_verify

    return show_verify(parse_verify(args))


def _export(args: list[str]) -> int:
    from annotator.cli.parsing import parse_export
    from annotator.cli.show_verify import show_export

    return show_export(parse_export(args))


def _doctor(args: list[str]) -> int:
    from annotator.cli.show_doctor import parse_doctor, show_doctor

    return show_doctor(parse_doctor(args))


def _pull(args: list[str]) -> int:
    from annotator.cli.hub_arguments import parse_pull
    from annotator.cli.show_hub import show_pull

    return show_pull(parse_pull(args))


def _push(args: list[str]) -> int:
    from annotator.cli.hub_arguments import parse_push
    from annotator.cli.show_hub import show_push

    return show_push(parse_push(args))


def _job(args: list[str]) -> int:
    from annotator.cli.hub_arguments import parse_job, parse_submit
    from annotator.cli.show_hub import show_job, show_submit

    if args[:1] == ["submit"]:
        return show_submit(*parse_submit(args[1:]))
    if args[:1] in (["-h"], ["--help"]):
        try:
            parse_job(args)
        except SystemExit:
            parse_submit(args)
    return show_job(parse_job(args))


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "sync": _sync,
    "query": _query,
    "log": _log,
    "prompts": _prompts,
    "validate": _validate,
    "verify": _verify,
    "export": _export,
    "doctor": _doctor,
    "pull": _pull,
    "push": _push,
    "job": _job,
}
if __name__ == "__main__":
    sys.exit(main())
