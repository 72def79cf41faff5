"""What a vLLM server saves of `plan.describe` → `plan.segment`, which look at the same contact sheets.

    make engines-env
    .venv-engines/bin/python tests/bench/bench_caches.py

Starts vLLM's server with the tiny model, annotates copies of real episodes through it and reads `/metrics`. Two caches:
of processed pictures (items), and of the prompt's beginning (tokens). The floor is a run of the same episodes without
`plan.describe`, on the same server started afresh: then no sheet is seen twice. What is saved does not depend on what
the model says, so a model with random weights measures it as well as any other; the time that it saves does.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.vlm.real.conftest import vllm_server
from tests.vlm.real_engines import OFFLINE
from tests.vlm.tiny_model import make_tiny_model

BANANA = Path(__file__).parents[1] / "data" / "cr5_banana"
EPISODES = "0-5"
CACHES = {"pictures": "mm_cache", "prompt tokens": "prefix_cache"}
PLAN_ALONE = ("--vocabulary.enabled", "false", "--interjections.enabled", "false", "--vqa.enabled", "false")
SHORT = ("--plan.n_task_rephrasings", "0", "--plan.emit_plan", "false", "--plan.emit_memory", "false")


def main() -> int:
    """Measure with and without the description; give 1 where a limit breaks."""
    if importlib.util.find_spec("vllm") is None:
        print("left out: vLLM is not installed here; see the top of this file")
        return 0
    os.environ |= OFFLINE
    with tempfile.TemporaryDirectory(prefix="bench-caches-") as folder:
        model = make_tiny_model(Path(folder) / "tiny")
        print(f"episodes {EPISODES} of cr5_banana, vLLM with a tiny model on a CPU")
        print(f"{'':<24}{'calls':>6}{'cache of':>16}{'asked':>9}{'found':>9}{'rate':>7}")
        rates = [_measured(model, Path(folder), describe) for describe in (False, True)]
    floor, both = rates
    more = both["prompt tokens"] > floor["prompt tokens"]
    limits = [
        ("pictures: half are found again where two steps look at each", both["pictures"] >= 0.5),
        ("prompt tokens: more are found with the description than without", more),
    ]
    for said, kept in limits:
        print(f"{'ok' if kept else 'BROKEN':<7}{said}")
    return 0 if all(kept for _, kept in limits) else 1


def _measured(model: Path, folder: Path, describe: bool) -> dict[str, float]:
    root = folder / f"describe-{describe}"
    shutil.copytree(BANANA, root)
    with vllm_server(model, folder / "log") as api_base:
        asked = ("--vlm.backend", "openai", "--vlm.api_base", api_base, "--vlm.model_id", "tiny")
        how = ("--only_episodes", EPISODES, "--plan.subtask_describe_first", str(describe).lower())
        command = [sys.executable, "-m", "annotator", "sync", str(root), *asked, *how, *PLAN_ALONE, *SHORT]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        metrics = urllib.request.urlopen(api_base.removesuffix("/v1") + "/metrics").read().decode()
    calls = re.search(r"calls +(\d+) answered", done.stderr)
    assert calls, done.stderr
    rates: dict[str, float] = {}
    for name, cache in CACHES.items():
        queries, hits = (_counter(metrics, f"vllm:{cache}_{what}_total") for what in ("queries", "hits"))
        rates[name] = hits / queries
        shown = "describe → segment" if describe else "segment alone (floor)"
        print(f"{shown:<24}{calls[1]:>6}{name:>16}{queries:>9.0f}{hits:>9.0f}{rates[name]:>7.2f}")
    return rates


def _counter(metrics: str, name: str) -> float:
    return sum(float(line.rpartition(" ")[2]) for line in metrics.splitlines() if line.startswith(f"{name}{{"))


if __name__ == "__main__":
    sys.exit(main())
