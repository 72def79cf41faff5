# pyright: reportMissingImports=false
"""Make a vision-language model of 3 MB: the architecture, processor and chat template of a real one, seeded weights.

    python tests/vlm/tiny_model.py FOLDER [--seed 0]

transformers and vLLM load FOLDER like any model (Qwen3-VL, two layers of text and two of vision), without a network.
What it says is noise that hangs on pictures, prompt and seed; it ends strings, numbers and lists early, so that
constrained replies are short and times are a few seconds. Needs torch, torchvision and transformers.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VOCABULARY = 1024
HIDDEN = 96
PATCH_PX = 16
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TEXT = """
the robot arm gripper hand moves to reach for grasp lift carry lower place release open close turn push pull hold wait
red green blue yellow white black cup bowl plate box block lid drawer door table towel sponge left right above below
what is in this picture answer as json question subtasks start end task memory speech label count point observations
"""

CHAT_TEMPLATE = """\
{%- macro said(content) -%}
  {%- if content is string -%}
    {{- content -}}
  {%- else -%}
    {%- for part in content -%}
      {%- if part.type in ('image', 'image_url') -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
      {%- elif part.type in ('video', 'video_url') -%}{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
      {%- else -%}{{- part.text -}}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
  {{- '<|im_start|>' ~ message.role ~ '\n' ~ said(message.content) ~ '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|im_start|>assistant\n' -}}
  {%- if enable_thinking is defined and not enable_thinking -%}{{- '<think></think>' -}}{%- endif -%}
{%- endif -%}
"""


def make_tiny_model(folder: Path, *, seed: int = 0) -> Path:
    """Write the model. The same seed and library versions give the same weights.

    Source: the layout of Qwen3-VL (Qwen team, 2025): M-RoPE in three sections, deepstack, 16 px patches merged 2x2.
    """
    from transformers import Qwen3VLForConditionalGeneration

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer()
    model = Qwen3VLForConditionalGeneration(_config(tokenizer)).eval()
    _fill(model, tokenizer, seed)
    end, pad = (tokenizer.convert_tokens_to_ids(name) for name in ("<|im_end|>", "<|endoftext|>"))
    model.generation_config.update(eos_token_id=[end, pad], pad_token_id=pad)
    model.save_pretrained(folder)
    _processor(tokenizer).save_pretrained(folder)
    return folder


def _lines() -> Iterator[str]:
    words = TEXT.split()
    for i, word in enumerate(words):
        other = words[(7 * i + 3) % len(words)]
        yield f"The {word} {other}. {word} the {other} and {word}"
        yield f'{{"{word}":"{other} the {word}","{other}":[{i % 10},0.{i % 7}],"{word}":[{{"{other}":{i % 10}}}]}}'


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = bytes_of
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=list(SPECIAL), initial_alphabet=bytes_of.alphabet(), show_progress=False
    )
    raw.train_from_iterator(_lines(), trainer)
    tokenizer = Qwen2Tokenizer(
        tokenizer_object=raw,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,
        additional_special_tokens=list(SPECIAL[1:]),
        model_max_length=16384,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _config(tokenizer: Any) -> Any:
    from transformers import Qwen3VLConfig

    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "max_position_embeddings": 16384,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 100000.0, "mrope_section": [6, 5, 5], "mrope_interleaved": True,
            },
            "tie_word_embeddings": False,
            "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "patch_size": PATCH_PX,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "out_hidden_size": HIDDEN,
            "num_position_embeddings": 256,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )  # fmt: skip
    config.architectures = ["Qwen3VLForConditionalGeneration"]
    config.dtype = "float32"
    return config


def _processor(tokenizer: Any) -> Any:
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    merged_px = 2 * PATCH_PX
    patches = {"patch_size": PATCH_PX, "temporal_patch_size": 2, "merge_size": 2}
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    image_size = {"shortest_edge": merged_px**2, "longest_edge": 768**2}
    video_size = {"shortest_edge": 2 * merged_px**2, "longest_edge": 16 * 768**2}
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=image_size, **patches, **half),
        video_processor=Qwen3VLVideoProcessor(size=video_size, **patches, **half),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
    )


def _fill(model: Any, tokenizer: Any, seed: int) -> None:
    """Noise, pictures and context louder than the last word, and one steady channel that favours closing."""
    import torch

    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            drawn = torch.randn(weight.shape, generator=noise)
            if weight.ndim == 1:
                weight.copy_(1 + 0.05 * drawn if "norm" in name and name.endswith("weight") else 0.02 * drawn)
            elif "embed" in name:
                weight.copy_(drawn)
            else:
                loud = 3.0 if "merger" in name or "o_proj" in name else 1.0
                weight.copy_(loud * drawn / weight[0].numel() ** 0.5)
        # Channel 0 is the same for every token and, after the last norm, about 1; the head reads it as a bias.
        model.get_input_embeddings().weight[:, 0] = 2.0
        head = model.get_output_embeddings().weight
        head *= 2
        for token_id in range(len(tokenizer)):
            text = tokenizer.decode([token_id])
            if text.isdecimal():
                head[token_id] *= 0.1  # any digit is as good as another, also at a low temperature
            head[token_id, 0] = _eagerness(text)


def _eagerness(text: str) -> float:
    """How much sooner than by chance a token is said: what ends a string, a number or a list comes early."""
    eager = {'"]': 7.0, '"}': 7.0, '"': 6.0, "]": 5.0, ',"': 5.0}
    return next((gain for start, gain in eager.items() if text.startswith(start)), 0.0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    made = make_tiny_model(arguments.folder, seed=arguments.seed)
    print(made)
