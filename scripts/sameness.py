"""The gate of sameness: what `annotator` does to known datasets, recorded once and compared after every change.

    python scripts/sameness.py record [--only NAME]    # write what it does now into tests/e2e/sameness.json
    python scripts/sameness.py check [--only NAME]     # say what differs from it, and exit 1

It knows the command line and the files that the command writes, and imports nothing of the packages, so they can be
moved and renamed under it. What is printed is not compared. NAME is a scenario, or the first part of several names.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parent))
from fake_server import MODEL, FakeServer, fake_server

REPO = Path(__file__).resolve().parents[1]
GOLDEN = REPO / "tests" / "e2e" / "sameness.json"
LOGS = REPO / "tests" / "e2e" / "logs"
COMMAND = Path(sys.executable).parent / "annotator"
DATASETS = {name: REPO / "tests" / "data" / name for name in ("cr5_banana", "so101_static")}
SAMPLE = "sample"
CLI = "docs/cli.md"
SECOND_ASKS = "second asks"
STORE = ".annotator"

Found = dict[str, Any]
"""What a scenario gave: item → value, either one possibly nested."""

QUERIES = {
    "rows": """SELECT episode_index, timestamp, style, role, content, camera, tool_calls, module, engine, model_id,
        call, episode, seq FROM rows ORDER BY dataset, episode_index, episode, module, seq""",
    "calls": """SELECT key, step, episode_index, episode, outcome, reply, answer, tokens_in, tokens_out, engine,
        model_id, model_revision, finish_reason, prompt, frames, seed, attempts FROM calls ORDER BY key""",
    "episodes": """SELECT digest, dataset, episode_index, tasks, frame_count, duration_s, cameras, modules, revision
        FROM episodes ORDER BY dataset, episode_index""",
    "runs": """SELECT dataset, outcome, engine, model_id, episodes, episodes_skipped, calls_answered, calls_hit,
        calls_failed, calls_declined, answers_rejected, answered_by_step, tokens_in, tokens_out, frames_decoded,
        shards_written, broken_rules FROM runs ORDER BY finished_at, id""",
    "failures": """SELECT outcome, step, episode_index, episode, kind, detail, reply, retryable, attempts, engine,
        model_id, key, superseded FROM failures ORDER BY key, episode, step, outcome, detail""",
    "prompts": "SELECT prompt, step, text, calls FROM prompts ORDER BY prompt, step",
    "vocabulary": "SELECT dataset, kind, seq, entry, origin FROM vocabulary ORDER BY dataset, kind, seq",
    "rows by style": """SELECT style, module, count(*) AS n, min(timestamp) AS first, max(timestamp) AS last
        FROM rows GROUP BY ALL ORDER BY style NULLS FIRST, module""",
}
"""Columns without times of day, run ids and durations, in a total order."""

VERBATIM = frozenset({"runs", "rows by style"})
"""Answers that are recorded row by row, to be read."""

EDITS = {"scripted": "plan_segment.md", "signals": "plan_memory.md"}
"""The prompt that is edited: one whose step the engine answers."""


class Desk:
    """A folder of its own with a home of its own, and `annotator` run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "home").mkdir()
        self.exits: dict[str, int] = {}
        cached = os.environ.get("PYTHONPYCACHEPREFIX") or str(Path(tempfile.gettempdir()) / "sameness-bytecode")
        self._env = {
            **{name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ},
            "HOME": str(folder / "home"),
            "LANG": "C.UTF-8",
            "COLUMNS": "120",
            "PYTHONPYCACHEPREFIX": cached,
        }

    def run(self, name: str, *arguments: str) -> str:
        """Run a command, keep its exit status under `name`, and give its stdout."""
        started = time.monotonic()
        done = subprocess.run(
            [str(COMMAND), *arguments], cwd=self.folder, env=self._env, capture_output=True, text=True, check=False
        )
        self.exits[name] = done.returncode
        took = f"{time.monotonic() - started:.1f} s"
        with (self.folder / "said.txt").open("a", encoding="utf-8") as said:
            said.write(f"$ annotator {' '.join(arguments)}\n{done.stdout}{done.stderr}")
            said.write(f"exit {done.returncode}, {took}\n\n")
        return done.stdout

    def query(self, dataset: str, name: str, sql: str) -> list[Any]:
        """Query a dataset's log."""
        said = self.run(f"query {name}", "query", "--root", dataset, " ".join(sql.split()), "--format", "json")
        return [json.loads(line) for line in self.plain(said).splitlines()]

    def edit(self, prompt: str) -> None:
        """Write the prompts into `prompts`, and add a sentence to one of them."""
        self.run("prompts eject", "prompts", "eject", "prompts")
        path = self.folder / "prompts" / prompt
        path.write_text(path.read_text(encoding="utf-8").rstrip("\n") + "\n\nTake your time.\n", encoding="utf-8")

    def plain(self, text: str) -> str:
        """Take out what belongs to this place and this moment: temporary paths and ports.

        The package's version stands nowhere but among an event's `versions`, which `lasting` leaves out.
        """
        text = text.replace(str(self.folder.resolve()), "<folder>").replace(str(self.folder), "<folder>")
        return re.sub(r"127\.0\.0\.1:\d+", "<server>", text)


def digest(text: str | bytes) -> str:
    """Digest a text; 24 hex digits tell any two of a few thousand texts apart."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()[:24]


def files_of(desk: Desk, root: Path) -> Found:
    """Digest every file of a dataset but the footage and the log; parquet by its bytes and by what its columns say."""
    found: Found = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        name = path.relative_to(root)
        if name.parts[0] in (STORE, "videos"):
            continue
        if path.suffix == ".parquet":
            found[name.as_posix()] = {"bytes": digest(path.read_bytes()), "columns": columns_digest(path)}
        else:
            found[name.as_posix()] = digest(desk.plain(path.read_text(encoding="utf-8")))
    return found


def columns_digest(path: Path) -> str:
    """Digest what a parquet file says, whoever wrote it: schema, metadata, row groups, values."""
    file = pq.ParquetFile(path)
    hasher = hashlib.sha256()
    schema = file.schema_arrow
    metadata = {
        key.decode(): value.decode() for key, value in (schema.metadata or {}).items() if key != b"ARROW:schema"
    }
    groups = [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)]
    fields = [[field.name, str(field.type), field.nullable] for field in schema]
    hasher.update(json.dumps([fields, metadata, groups], sort_keys=True).encode())
    table = file.read()
    for name in table.column_names:
        _feed(hasher.update, pa.concat_arrays(table[name].chunks) if table[name].num_chunks else pa.array([]))
    return hasher.hexdigest()[:24]


def _feed(feed: Callable[[bytes], object], values: pa.Array) -> None:
    """Digest an array as what it means, not as how it lies in memory."""
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    feed(values.is_null().cast(pa.uint8()).to_numpy(zero_copy_only=False).tobytes())
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        lengths = pc.fill_null(pc.call_function("list_value_length", [values]), 0).cast(pa.int64())
        feed(lengths.to_numpy(zero_copy_only=False).tobytes())
        _feed(feed, values.flatten())
    elif pa.types.is_fixed_size_list(values.type):
        _feed(feed, values.flatten())
    elif pa.types.is_struct(values.type):
        for field in values.flatten():
            _feed(feed, field)
    elif pa.types.is_floating(values.type):
        feed(pc.fill_null(values, 0.0).to_numpy(zero_copy_only=False).tobytes())
    else:
        known = values.dictionary_encode()
        feed(json.dumps(known.dictionary.to_pylist(), default=str).encode())
        feed(pc.fill_null(known.indices, -1).cast(pa.int64()).to_numpy(zero_copy_only=False).tobytes())


def source_digest(root: Path) -> str:
    """Digest a dataset before anything is done to it, footage and all."""
    hasher = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        hasher.update(path.relative_to(root).as_posix().encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return hasher.hexdigest()[:24]


def events(root: Path) -> Iterator[dict[str, Any]]:
    """Read the journal: sealed segments, and lines of an id, a space and an object."""
    for path in sorted((root / STORE / "journal").rglob("*")):
        if path.suffix == ".parquet":
            for body in pq.read_table(path, columns=["body"])["body"].to_pylist():
                yield json.loads(body)
        elif path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                yield json.loads(line.partition(" ")[2])


def lasting(event: dict[str, Any]) -> dict[str, Any]:
    """Leave out of an event what is another each time: times, run ids, ids of events, versions, threads, ports."""
    passing = {"recorded_at", "run_id", "started_at", "elapsed_s", "versions", "endpoint"}
    kept = {name: value for name, value in event.items() if name not in passing}
    if "arguments" in kept:
        kept["arguments"] = {name: value for name, value in kept["arguments"].items() if name != "executor"}
    if "made_of" in kept:
        kept["made_of"] = [one | {"sources": sorted(one["sources"] or ())} for one in kept["made_of"]]
    return kept


def log_of(desk: Desk, root: Path) -> Found:
    """Say what is in the log: call keys by step, recipes by module, and of every type of event all that lasts."""
    keys: dict[str, set[str]] = defaultdict(set)
    recipes: dict[str, list[str]] = defaultdict(list)
    bodies: dict[str, list[str]] = defaultdict(list)
    for event in events(root):
        if event["type"].startswith("call_"):
            keys[event["step"]].add(event["key"])
        if "recipe" in event:
            recipes[event.get("module", "vocabulary")].append(f"{event.get('episode', '')} {event['recipe']}")
        bodies[event["type"]].append(desk.plain(json.dumps(lasting(event), sort_keys=True)))
    return {
        "keys": {step: counted(sorted(found)) for step, found in sorted(keys.items())},
        "all keys": counted(sorted(key for found in keys.values() for key in found)),
        "recipes": {module: counted(sorted(found)) for module, found in sorted(recipes.items())},
        "events": {kind: counted(sorted(found)) for kind, found in sorted(bodies.items())},
    }


def counted(texts: list[str]) -> str:
    """Say how many there are, and their digest."""
    return f"{len(texts)} {digest(json.dumps(texts))}"


def answers(desk: Desk, dataset: str, queries: Mapping[str, str] = QUERIES) -> Found:
    """Ask the queries, all of them unless others are given."""
    found: Found = {}
    for name, sql in queries.items():
        rows = desk.query(dataset, name, sql)
        lines = [json.dumps(row) for row in rows]
        found[name] = lines if name in VERBATIM else counted(lines)
    return found


def sources(folder: Path, dataset: str) -> Path:
    """Lay a dataset into a folder."""
    root = folder / dataset
    if dataset == SAMPLE:
        shutil.copytree(drawn_sample(), root)
    else:
        shutil.copytree(DATASETS[dataset], root)
    return root


_drawn: list[tempfile.TemporaryDirectory[str]] = []


def drawn_sample() -> Path:
    """Draw the sample, once for all scenarios of a run: it takes half a minute."""
    if not _drawn:
        _drawn.append(tempfile.TemporaryDirectory(prefix="sameness-sample-"))
        target = Path(_drawn[0].name) / SAMPLE
        subprocess.run(
            [sys.executable, str(REPO / "examples" / "make_sample.py"), str(target)], check=True, capture_output=True
        )
    return Path(_drawn[0].name) / SAMPLE


def lived(folder: Path, dataset: str, engine: str) -> Found:
    """Annotate a dataset, again, with an edited prompt, locked; verify it, export it, query it."""
    desk = Desk(folder)
    root = sources(folder, dataset)
    found: Found = {"source": source_digest(root)}
    backend = ("--vlm.backend", engine)
    desk.run("sync", "sync", dataset, *backend)
    found["after sync"] = {"files": files_of(desk, root), **log_of(desk, root)}
    desk.run("sync again", "sync", dataset, *backend)
    found["sync again changes"] = differences(found["after sync"]["files"], files_of(desk, root))
    desk.edit(EDITS[engine])
    desk.run("sync with an edited prompt", "sync", dataset, *backend, "--prompts", "prompts")
    found["after the edit"] = {"files": files_of(desk, root), **log_of(desk, root)}
    desk.run("sync --locked", "sync", dataset, *backend, "--prompts", "prompts", "--locked")
    desk.run("verify", "verify", dataset)
    desk.run("export", "export", dataset, "--staging", "staging")
    staged = [path for path in sorted((folder / "staging").rglob("*")) if path.is_file()]
    names = [path.relative_to(folder / "staging").as_posix() for path in staged]
    found["staging"] = {name: digest(path.read_bytes()) for name, path in zip(names, staged, strict=True)}
    found["queries"] = answers(desk, dataset)
    return found | {"exits": desk.exits}


def asked_twice(folder: Path) -> Found:
    """Sync against a server whose first replies do not fit; then edit a prompt that none of them belongs to."""
    desk = Desk(folder)
    root = Path(
        shutil.copytree(
            DATASETS["cr5_banana"], folder / "cr5_banana", ignore=shutil.ignore_patterns("file-001.mp4", "file-002.mp4")
        )
    )
    with fake_server() as server:
        found = _asked_twice(desk, root, server)
    found["queries"] = answers(desk, root.name)
    found["errors said in second asks"] = errors_said(desk, root.name)
    return found | {"exits": desk.exits}


def _asked_twice(desk: Desk, root: Path, server: FakeServer) -> Found:
    base = (
        *("sync", root.name, "--vlm.backend", "openai", "--vlm.model_id", MODEL, "--vlm.api_base", server.api_base),
        *("--only_episodes", "0-1", "--plan.frames_per_second", "1", "--plan.contact_sheet_frame_width", "64"),
        *("--plan.max_frames_per_prompt", "2", "--interjections.max_interjections_per_episode", "8"),
    )
    free = ("--vocabulary.enabled=false", "--plan.subtask_seeded_relabel", "--plan.task_aug_axes.enabled",
            "--plan.derive_task_from_video", "always")  # fmt: skip
    found: Found = {}

    def sync(name: str, *more: str) -> None:
        desk.run(name, *base, *more)
        found[name] = {"requests": server.take(), "files": files_of(desk, root), **log_of(desk, root)}

    sync("sync")
    sync("sync again")
    desk.edit("plan_task_rephrasings.md")
    sync("sync with edited rephrasings", "--prompts", "prompts")
    sync("sync in free words", *free)
    sync("sync in free words again", *free)
    anew = ("--plan.subtask_describe_first=false", "--plan.frames_per_second", "0.3", "--only_episodes", "0",
            "--vocabulary.reuse_existing=false", "--vocabulary.sample_episodes", "1",
            "--plan.task_aug_axes.enabled", "--plan.derive_task_from_video", "always")  # fmt: skip
    for seed in ("2", "3"):
        sync(f"sync with seed {seed}", *anew, "--seed", seed)
    desk.run("verify", "verify", root.name)
    return found


def errors_said(desk: Desk, dataset: str) -> list[str]:
    """List what second asks say of the replies before them, step by step, each once."""
    said: set[str] = set()
    for row in desk.query(dataset, "second asks", "SELECT step, text FROM prompts ORDER BY prompt, step"):
        messages: list[dict[str, Any]] = json.loads(row["text"])["messages"]
        if any(message["role"] == "assistant" for message in messages):
            said.add(f"{row['step']}: {''.join(part['text'] for part in messages[-1]['parts'])}")
    return sorted(said)


def from_log(folder: Path, log: Path) -> Found:
    """Annotate a dataset that comes with a log of long ago: nothing is asked, and the columns are what they were.

    `log` is a folder `<commit>/<dataset>/<engine>` with the journal that the code of that commit wrote.
    """
    desk = Desk(folder)
    dataset, engine = log.parts[-2:]
    root = sources(folder, dataset)
    shutil.copytree(log / "journal", root / STORE / "journal")
    found: Found = {"log before": log_of(desk, root)}
    asked = {name: QUERIES[name] for name in ("rows", "calls", "failures", "vocabulary")}
    found["queries before"] = answers(desk, dataset, asked)
    desk.run("sync", "sync", dataset, "--vlm.backend", engine)
    desk.run("verify", "verify", dataset)
    found["files"] = files_of(desk, root)
    found["queries"] = answers(desk, dataset, {"runs": QUERIES["runs"]})
    return found | {"exits": desk.exits}


def cli_page(_: Path) -> Found:
    """Digest the page that the command's help is written into."""
    return {CLI: digest((REPO / CLI).read_bytes())}


def _lived(dataset: str, engine: str) -> Callable[[Path], Found]:
    return lambda folder: lived(folder, dataset, engine)


def _from_log(log: Path) -> Callable[[Path], Found]:
    return lambda folder: from_log(folder, log)


SCENARIOS: dict[str, Callable[[Path], Found]] = {
    CLI: cli_page,
    **{f"{dataset}/{engine}": _lived(dataset, engine) for dataset in (*DATASETS, SAMPLE) for engine in EDITS},
    SECOND_ASKS: asked_twice,
    **{f"log {log.relative_to(LOGS).as_posix()}": _from_log(log) for log in sorted(LOGS.glob("*/*/*"))},
}


def recorded_with() -> dict[str, str]:
    """Name the versions that bytes depend on."""
    return {"pyarrow": version("pyarrow"), "av": version("av"), "duckdb": version("duckdb")}


def differences(before: Any, now: Any, where: str = "") -> list[str]:
    """Say what differs between two results, item by item."""
    if isinstance(before, dict) and isinstance(now, dict):
        old, new = cast("dict[str, Any]", before), cast("dict[str, Any]", now)
        return [
            line
            for name in sorted(old.keys() | new.keys())
            for line in differences(old.get(name), new.get(name), f"{where} / {name}" if where else name)
        ]
    if isinstance(before, list) and isinstance(now, list):
        old_lines, new_lines = cast("list[str]", before), cast("list[str]", now)
        gone = [f"{where}: gone: {line}" for line in old_lines if line not in new_lines]
        come = [f"{where}: new: {line}" for line in new_lines if line not in old_lines]
        return gone + come or ([] if old_lines == new_lines else [f"{where}: in another order, or another number"])
    return [] if before == now else [f"{where}: {before} → {now}"]


def without_bytes(found: Any) -> Any:
    """Leave the digests of parquet files' bytes out: another pyarrow writes other bytes."""
    if not isinstance(found, dict):
        return found
    items = cast("dict[str, Any]", found)
    return {name: without_bytes(value) for name, value in items.items() if name != "bytes"}


class Incomparable(Exception):
    """A scenario that cannot be compared on this machine, and why."""


def compare(name: str, golden: Mapping[str, Any], found: Found) -> list[str]:
    """Compare what a scenario gave with what was recorded.

    Raises:
        Incomparable: another version of av drew another sample.
    """
    found = json.loads(json.dumps(found))
    recorded, versions, now = golden["scenarios"].get(name), golden["recorded with"], recorded_with()
    if recorded is None:
        return [f"{name}: was never recorded"]
    other_sample = name.startswith(SAMPLE) and recorded["source"] != found["source"]
    if other_sample and versions["av"] != now["av"]:
        raise Incomparable(f"av {now['av']} draws another sample than av {versions['av']}, which was recorded")
    if versions["pyarrow"] != now["pyarrow"]:
        recorded, found = without_bytes(recorded), without_bytes(found)
    return differences(recorded, found, name)


def load() -> dict[str, Any]:
    """Read what was recorded."""
    if not GOLDEN.exists():
        return {"recorded with": recorded_with(), "scenarios": {}}
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


def save(golden: Mapping[str, Any]) -> None:
    """Write what is recorded now."""
    GOLDEN.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(golden, indent=1, sort_keys=True, ensure_ascii=False)
    GOLDEN.write_text(text + "\n", encoding="utf-8")


def main() -> int:
    """Record or check."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("record", "check"))
    parser.add_argument("--only", default="", help="scenarios whose names begin with this")
    parser.add_argument("--keep", type=Path, help="run in this new folder and leave everything there, to be looked at")
    options = parser.parse_args()
    names = [name for name in SCENARIOS if name.startswith(options.only)]
    if not names:
        parser.error(f"no scenario begins with {options.only!r}; there are {', '.join(SCENARIOS)}")
    golden, wrong = load(), 0
    if options.what == "record" and golden["recorded with"] != recorded_with():
        if options.only:
            parser.error(f"recorded with {golden['recorded with']}, here is {recorded_with()}: record everything")
        golden["recorded with"] = recorded_with()
    if golden["recorded with"]["pyarrow"] != version("pyarrow"):
        print("another pyarrow than was recorded: columns are compared, bytes are not")
    with tempfile.TemporaryDirectory(prefix="sameness-") as temporary:
        for name in names:
            started = time.monotonic()
            found = SCENARIOS[name]((options.keep or Path(temporary)) / name.replace("/", "_").replace(" ", "_"))
            took = f"{time.monotonic() - started:.0f} s"
            if options.what == "record":
                golden["scenarios"][name] = found
                print(f"recorded {name} ({took})", flush=True)
                save(golden)
                continue
            try:
                lines = compare(name, golden, found)
            except Incomparable as error:
                print(f"NOT COMPARED {name}: {error} ({took})", flush=True)
                continue
            wrong += len(lines)
            print("\n".join([f"{'differs' if lines else 'same'}: {name} ({took})", *(f"  {line}" for line in lines)]))
            sys.stdout.flush()
    for temporary in _drawn:
        temporary.cleanup()
    if wrong:
        print(f"{wrong} items differ from {GOLDEN.relative_to(REPO)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
