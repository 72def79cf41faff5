"""Score subtask boundaries against references made by eye and against a generated sample's ground truth.

    python tests/bench/bench_quality.py [--seed 7]

Prints Markdown tables. An interior boundary is where one subtask ends and the next begins. Boundaries of an episode
are matched one-to-one with its reference's within a tolerance; precision, recall and F1 are micro-averaged.
To score another way of making spans, give `report` another `SpansOf`.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from annotator.dataset.signals import Signals
from annotator.prompting.answers import Segmentation
from annotator.vlm.base import Request
from annotator.vlm.signals.engine import MODEL_ID, SignalsEngine
from annotator_store.digests import Digest
from annotator_store.keys import Model

REPO = Path(__file__).resolve().parents[2]
TOLERANCES_S = (0.5, 1.0, 2.0)
SETTINGS = {"the pipeline's defaults": (1.5, 8), "no limits": (0.0, 64)}

_HEAD = ["| | found | reference | F1 at 0.5 s | **F1 at 1 s** | F1 at 2 s | ms |", "| --- " * 7 + "|"]


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One episode and the interior boundaries of its reference, seconds from the first frame."""

    name: str
    task: str
    signals: Signals
    boundaries: tuple[float, ...]

    @property
    def end_s(self) -> float:
        """One frame past the last."""
        times = self.signals.timestamps
        return float(times[-1] + np.median(np.diff(times)))


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """Boundaries found, boundaries in the reference, and pairs of them matched."""

    found: int
    reference: int
    matched: int

    @property
    def f1(self) -> float:
        total = self.found + self.reference
        return 2 * self.matched / total if total else 1.0


SpansOf = Callable[[Case, float, int], list[float]]
"""From an episode, the shortest subtask in seconds and the most of them, to interior boundaries in seconds."""


def by_signals(case: Case, min_seconds: float, max_steps: int) -> list[float]:
    """The `signals` engine's boundaries."""
    request = Request(
        key=Digest("0" * 32),
        step="plan.segment",
        messages=(),
        schema={},
        pictures=(),
        model=Model(model_id=MODEL_ID),
        seed=1729,
        episode=Digest("0" * 32),
        inputs={"task": case.task, "start_s": "0", "end_s": str(case.end_s), "min_seconds": str(min_seconds),
                "max_steps": str(max_steps)},
        signals=lambda: case.signals,
    )  # fmt: skip
    reply = asyncio.run(SignalsEngine().generate(request))
    return [span.start for span in msgspec.json.decode(reply.text, type=Segmentation).subtasks[1:]]


def by_equal_lengths(case: Case, min_seconds: float, max_steps: int) -> list[float]:
    """A baseline that is told how many subtasks the reference has and cuts the episode into as many equal parts."""
    return np.linspace(0, case.end_s, len(case.boundaries) + 2)[1:-1].tolist()


def by_nothing(case: Case, min_seconds: float, max_steps: int) -> list[float]:
    """A baseline that calls every episode one subtask."""
    return []


def score(found: Iterable[float], reference: Iterable[float], tolerance_s: float) -> Score:
    """Match greedily in time order, which is a largest matching because all tolerances are alike."""
    ours, theirs = sorted(found), sorted(reference)
    i = j = matched = 0
    while i < len(ours) and j < len(theirs):
        if abs(ours[i] - theirs[j]) <= tolerance_s + 1e-6:
            matched, i, j = matched + 1, i + 1, j + 1
        elif ours[i] < theirs[j]:
            i += 1
        else:
            j += 1
    return Score(found=len(ours), reference=len(theirs), matched=matched)


def total(scores: Iterable[Score]) -> Score:
    """Sum the counts over episodes: the micro-average."""
    listed = list(scores)
    return Score(
        found=sum(s.found for s in listed),
        reference=sum(s.reference for s in listed),
        matched=sum(s.matched for s in listed),
    )


def load_signals(root: Path) -> dict[int, Signals]:
    """Read every episode's signals straight from the shards."""
    features = json.loads((root / "meta/info.json").read_text())["features"]
    tables = [pq.read_table(path) for path in sorted((root / "data").rglob("*.parquet"))]
    found: dict[int, Signals] = {}
    for table in tables:
        episodes = table["episode_index"].to_numpy()
        for index in np.unique(episodes).tolist():
            rows = table.filter(episodes == index)
            found[index] = Signals(
                timestamps=rows["timestamp"].to_numpy().astype(np.float64),
                state=_matrix(rows, "observation.state"),
                action=_matrix(rows, "action"),
                state_names=_names(features["observation.state"]),
                action_names=_names(features["action"]),
            )
    return found


def _matrix(rows: Any, column: str) -> npt.NDArray[np.float32]:
    return np.array(rows[column].to_pylist(), dtype=np.float32)


def _names(feature: dict[str, Any]) -> tuple[str, ...]:
    names = feature["names"] or ()
    return tuple(names["motors"] if isinstance(names, dict) else names)


def banana_cases() -> list[Case]:
    """The four episodes of cr5_banana that have a reference made by eye."""
    root = REPO / "tests/data/cr5_banana"
    reference = json.loads((root / "reference_subtasks.json").read_text())
    signals = load_signals(root)
    return [
        Case(
            name=f"cr5_banana {episode['episode_index']}",
            task=reference["true_task"],
            signals=signals[episode["episode_index"]],
            boundaries=tuple(span["start"] for span in episode["subtasks"][1:]),
        )
        for episode in reference["episodes"]
    ]


def sample_cases(seed: int) -> list[Case]:
    """A generated sample with its exact ground truth; empty where the generator is not there."""
    generator = REPO / "examples/make_sample.py"
    if not generator.exists():
        return []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "sample"
        subprocess.run([sys.executable, str(generator), str(root), "--seed", str(seed)], check=True)
        truth = json.loads((root / "ground_truth.json").read_text())
        signals = load_signals(root)
    return [
        Case(
            name=f"sample {episode['episode_index']}",
            task=episode["task"],
            signals=signals[episode["episode_index"]],
            boundaries=tuple(phase["start_s"] for phase in episode["phases"][1:]),
        )
        for episode in truth["episodes"]
    ]


def report(cases: list[Case], spans_of: SpansOf) -> list[str]:
    """Tables of F1 for each setting and tolerance, then each episode alone."""
    lines: list[str] = []
    for setting, (min_seconds, max_steps) in SETTINGS.items():
        lines += ["", f"{setting}: min_seconds {min_seconds}, max_steps {max_steps}", ""]
        lines += _HEAD
        everything: list[list[float]] = []
        for case in cases:
            started = perf_counter()
            everything.append(spans_of(case, min_seconds, max_steps))
            elapsed_ms = 1000 * (perf_counter() - started)
            lines.append(_line(case.name, [case], everything[-1:], f"{elapsed_ms:.1f}"))
        lines.append(_line("**all**", cases, everything))
    lines += _baselines(cases)
    return lines


def _baselines(cases: list[Case]) -> list[str]:
    equal = [by_equal_lengths(case, 0.0, 64) for case in cases]
    nothing = [by_nothing(case, 0.0, 64) for case in cases]
    return [
        *["", "baselines", "", *_HEAD],
        _line("equal lengths, the reference's count", cases, equal),
        _line("no boundary at all", cases, nothing),
    ]


def _line(name: str, cases: list[Case], found: list[list[float]], ms: str = "") -> str:
    scores = [
        total(score(f, case.boundaries, tolerance_s) for f, case in zip(found, cases, strict=True))
        for tolerance_s in TOLERANCES_S
    ]
    numbers = " | ".join(f"{s.f1:.2f}" for s in scores)
    return f"| {name} | {scores[0].found} | {scores[0].reference} | {numbers} | {ms} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=7, help="seed of the generated sample")
    args = parser.parse_args()
    for title, cases in (("cr5_banana", banana_cases()), ("generated sample", sample_cases(args.seed))):
        if not cases:
            print(f"\n{title}: not there", file=sys.stderr)
            continue
        by_signals(cases[0], 0.0, 64)  # the first call pays for imports, which is not what an episode costs
        print("\n".join([f"\n### {title}", *report(cases, by_signals)]))


if __name__ == "__main__":
    main()
