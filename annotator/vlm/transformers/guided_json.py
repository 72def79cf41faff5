# pyright: reportMissingImports=false
"""Constrain a reply to a JSON schema while transformers generates it, by llguidance's token masks."""

import json
from typing import Any

import llguidance
import llguidance.hf
import numpy as np
import torch

COMPACT = {"whitespace_flexible": False}
"""No whitespace between JSON tokens: a model that may add any amount of it sometimes never stops."""


def constraint_tokenizer(tokenizer: Any, logits: int, end_ids: list[int]) -> Any:
    """Return a model's tokenizer as llguidance takes it; takes about a second. `logits` is the width of its output.

    Raises:
        ValueError: the tokenizer is not one of the fast kind.
    """
    return llguidance.hf.from_tokenizer(tokenizer, n_vocab=logits, eos_token=end_ids)


class JsonConstraint:
    """A logits processor for one reply: what the schema does not allow next gets no probability.

    Raises:
        ValueError: the schema cannot be compiled.
    """

    def __init__(self, tokenizer: Any, schema: dict[str, Any]) -> None:
        grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), defaults=COMPACT)
        self._matcher = llguidance.LLMatcher(tokenizer, grammar)
        if self._matcher.is_error():
            raise ValueError(f"the schema cannot be compiled: {self._matcher.get_error()}")
        self._started = False

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Mask the next token's scores. `input_ids`: (1, tokens so far), `scores`: (1, vocabulary)."""
        if self._started:
            self._matcher.consume_token(int(input_ids[0, -1]))
        self._started = True
        # (vocabulary,) uint8, 0 where a token is not allowed; the output may be narrower than the tokenizer.
        allowed = np.frombuffer(self._matcher.compute_logit_bias(), np.uint8)[: scores.shape[-1]]
        return scores.masked_fill(torch.from_numpy(allowed == 0).to(scores.device), float("-inf"))
