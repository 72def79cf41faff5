"""Annotate a dataset of the Hub on Hugging Face Jobs.

    python examples/annotations/run_hf_job.py --repo_id ORG/NAME --new_repo_id ORG/NAME-annotated

Everything below can be changed on the command line: the same arguments as `annotator job submit`, later ones count.
The token comes from `hf auth login` or HF_TOKEN, and reaches the job as a secret.
"""

import sys
from pathlib import Path

from annotator.cli.hub.job import run_script

ARGUMENTS = [
    "--flavor=h200x2",  # two GPUs: two servers of the model, kept busy together
    "--vlm.model_id=Qwen/Qwen3-VL-8B-Instruct",
    "--push_to_hub=true",
]

if __name__ == "__main__":
    sys.exit(run_script([*ARGUMENTS, *sys.argv[1:]], Path(__file__)))
