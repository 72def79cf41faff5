"""What a push to somebody else's commit would take away: rows of episodes that have some there and none here."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from annotator.config.load import spell_episodes
from annotator.hub.client import HubError
from annotator_store.rows import EVENTS, PERSISTENT

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_FRAMES = 65_536


def refuse_losses(api: "HfApi", repo_id: str, commit: str, shards: Mapping[str, Path]) -> None:
    """Compare shards (their names there → the files here) with those of a repository's commit; it has all of them.

    Raises:
        HubError: episodes have language rows there that have none here, or a shard there cannot be read.
    """
    lost: set[int] = set()
    for name, path in shards.items():
        # One by one, and not into the cache: a shard is looked at once.
        with TemporaryDirectory() as folder:
            there = api.hf_hub_download(repo_id, name, repo_type="dataset", revision=commit, local_dir=folder)
            lost |= _annotated(Path(there), f"{repo_id}: {name}") - _annotated(path, str(path))
    if lost:
        hint = (
            f"build on what is there: --repo_id {repo_id} --push_to_hub (what is answered is not asked again);"
            " or push to another name with --new_repo_id"
        )
        got = spell_episodes(sorted(lost))
        raise HubError("the push would remove rows that are there", where=repo_id, got=got, hint=hint)


def _annotated(shard: Path, where: str) -> set[int]:
    """Find the episodes of a shard of which any frame has language rows."""
    try:
        with pq.ParquetFile(shard) as file:
            # Of each column one leaf: whether there are rows shows in any, and texts may be of any size.
            leaves = {path.partition(".")[0]: path for path in (column.path for column in file.schema)}
            language = {name: leaves[name] for name in (PERSISTENT, EVENTS) if name in leaves}
            if not language:
                return set()
            found: set[int] = set()
            for batch in file.iter_batches(_FRAMES, columns=["episode_index", *language.values()]):
                episodes = batch["episode_index"].to_numpy(zero_copy_only=False)
                for name in language:
                    found.update(np.unique(episodes[_has_rows(batch[name])]).tolist())
            return found
    except (pa.ArrowException, OSError, KeyError) as cause:  # pyarrow calls a damaged page an OSError
        hint = "mend or remove that file, or push to another name with --new_repo_id"
        raise HubError("a shard cannot be read", where=where, got=str(cause).splitlines()[0], hint=hint) from cause


def _has_rows(column: pa.Array) -> npt.NDArray[np.bool_]:
    """Which frames have rows, (N,); a column that is no list is somebody else's, and counts wherever it is set."""
    if isinstance(column, pa.ListArray | pa.LargeListArray):
        return column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False) > 0
    return column.is_valid().to_numpy(zero_copy_only=False)
