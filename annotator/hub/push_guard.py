"""What a push onto somebody else's commit would remove: the rows of episodes that have some there and none here."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from annotator.config.load import spell_episodes
from annotator.hub.client import HubError
from annotator_store.rows import EVENTS, PERSISTENT

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_FRAMES = 65_536


def refuse_losses(api: "HfApi", repo_id: str, commit: str, shards: Mapping[str, Path]) -> None:
    """Compare local shards (path in the repository → local file) with those of a commit, which has all of them.

    Raises:
        HubError: episodes have language rows there and none here, or a shard there cannot be read.
    """
    lost: set[int] = set()
    for name, path in shards.items():
        # One at a time, and not into the client's cache: a shard is looked at once.
        with TemporaryDirectory() as folder:
            remote = api.hf_hub_download(repo_id, name, repo_type="dataset", revision=commit, local_dir=folder)
            lost |= _annotated_episodes(Path(remote), f"{repo_id}: {name}") - _annotated_episodes(path, str(path))
    if lost:
        hint = (
            f"build on what is there: --repo_id {repo_id} --push_to_hub (what is answered is not asked again);"
            " or push to another name with --new_repo_id"
        )
        got = spell_episodes(sorted(lost))
        raise HubError("the push would remove rows that are there", where=repo_id, got=got, hint=hint)


def _annotated_episodes(shard: Path, where: str) -> set[int]:
    """Return the indices of the episodes of which at least one frame has language rows."""
    try:
        with pq.ParquetFile(shard) as file:
            # One leaf of each column: whether there are rows shows in any of them, and texts may be of any size.
            leaves = {path.partition(".")[0]: path for path in (column.path for column in file.schema)}
            language = {name: leaves[name] for name in (PERSISTENT, EVENTS) if name in leaves}
            if not language:
                return set()
            annotated: set[int] = set()
            for batch in file.iter_batches(_FRAMES, columns=["episode_index", *language.values()]):
                episodes = batch["episode_index"].to_numpy(zero_copy_only=False)
                for name in language:
                    column = batch[name]
                    # A column that is no list was written by another tool; any value in it would be lost.
                    is_list = isinstance(column, pa.ListArray | pa.LargeListArray)
                    present = column.value_lengths().fill_null(0) if is_list else column.is_valid()
                    has_rows = present.to_numpy(zero_copy_only=False).astype(bool)
                    annotated.update(np.unique(episodes[has_rows]).tolist())
            return annotated
    except (pa.ArrowException, OSError, KeyError) as cause:  # pyarrow raises OSError for a damaged page
        hint = "repair or remove that file, or push to another name with --new_repo_id"
        raise HubError("a shard cannot be read", where=where, got=str(cause).splitlines()[0], hint=hint) from cause
