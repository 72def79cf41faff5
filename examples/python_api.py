"""The Python API on a dataset: plan, annotate, ask. python examples/python_api.py DATASET"""

import sys
from pathlib import Path

import annotator


def main(dataset: Path) -> None:
    """Annotate a dataset without a model and print what was written."""
    # The signals engine reads gripper and motion signals, no footage: nothing to install, and done in a second.
    settings = annotator.SyncSettings(root=dataset, vlm=annotator.VlmSettings(backend="signals"))

    plan = annotator.plan_run(settings)
    for (module, reason), episodes in sorted(plan.count_by_reason().items()):
        print(f"to do: {module} for {episodes} episodes ({reason})")
    print(f"outcome: {annotator.sync(settings)}")
    # What was answered is in the log, so a second run has nothing left to do.
    print(f"left to do: {len(annotator.plan_run(settings).work)} episodes")

    rows = annotator.query(
        dataset,
        "SELECT round(timestamp, 1) AS t, content FROM rows WHERE episode_index = 0 AND style = 'subtask' ORDER BY t",
    )
    for row in rows.to_pylist():
        print(f"{row['t']:5.1f} s  {row['content']}")
    with annotator.open_log(dataset) as log:
        print(f"the log knows {len(log.current())} annotations")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
