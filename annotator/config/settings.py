"""Every setting with its name, range and default. The options of the command line are generated from these structs.

Names are those of the pipeline this tool stands in for (`--vlm.model_id`, `--plan.n_task_rephrasings`, …).
Settings that can change an answer are part of the key (see `annotator.pipeline.fingerprints`); the rest is provenance.
"""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from annotator.config.store_path import store_path

PositiveInt = Annotated[int, Meta(ge=1)]
NonNegativeInt = Annotated[int, Meta(ge=0)]
# The upper bound refuses infinity, which has no JSON and so no key; NaN fails every comparison.
PositiveFloat = Annotated[float, Meta(gt=0, le=sys.float_info.max)]
NonNegativeFloat = Annotated[float, Meta(ge=0, le=sys.float_info.max)]
AxisCount = Annotated[int, Meta(ge=0, le=16)]
"""A number of rephrasings along one axis; the schema of the reply has room for 16."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base class of every group of settings and of every command's arguments.

    The constructor does not check types or ranges; `annotator.config.load.validated` does.
    """


class VocabularySettings(Settings, frozen=True, kw_only=True):
    """The vocabulary: a small set of subtask labels and memory milestones for the whole dataset."""

    enabled: bool = True
    """Restrict subtasks and memory to a vocabulary; without one, both are free text."""
    sample_episodes: PositiveInt = 3
    """Number of episodes shown to the model to discover the vocabulary."""
    max_frames: PositiveInt = 180
    """Maximum number of frames in the discovery prompt, over all sampled episodes."""
    reuse_existing: bool = True
    """Use meta/canonical_vocabulary.json if it exists, edited or not; false discovers a new vocabulary."""


class TaskAugAxesSettings(Settings, frozen=True, kw_only=True):
    """Task rephrasings along five axes instead of free ones: the number along each axis."""

    enabled: bool = False
    """Ask for rephrasings along the axes; n_task_rephrasings is then ignored."""
    synonym_paraphrase: AxisCount = 3
    """Rephrasings that keep every detail."""
    omit_arm: AxisCount = 3
    """Rephrasings that omit which arm is used."""
    omit_orientation: AxisCount = 2
    """Rephrasings that omit orientations."""
    omit_grasp_method: AxisCount = 2
    """Rephrasings that omit the grasp method."""
    combined_omissions: AxisCount = 2
    """Rephrasings that omit several of these at once."""


class PlanSettings(Settings, frozen=True, kw_only=True):
    """The `plan` module: subtasks, plan, memory and task rephrasings."""

    enabled: bool = True
    """Write subtask, plan, memory and task_aug rows."""
    view: Literal["contact_sheets", "video"] = "contact_sheets"
    """How an episode is shown to the model: contact sheets of time-stamped frames, for any server that accepts images,
    or one video."""
    frames_per_second: PositiveFloat = 2.0
    """Frames shown per second of an episode. Long episodes are split into windows; their frame rate stays."""
    max_video_frames: PositiveInt = 128
    """Maximum frames per call with --plan.view=video; longer episodes are split into windows."""
    max_frames_per_prompt: PositiveInt = 60
    """Maximum frames per call with --plan.view=contact_sheets; longer episodes are split into windows."""
    contact_sheet_columns: PositiveInt = 5
    """Columns of a contact sheet."""
    contact_sheet_frames_per_sheet: PositiveInt = 20
    """Frames on one contact sheet."""
    contact_sheet_frame_width: PositiveInt = 224
    """Width of a frame on a contact sheet, pixels."""
    contact_sheet_quality: Annotated[int, Meta(ge=1, le=95)] = 84
    """JPEG quality of contact sheets and frames."""
    video_frame_width: NonNegativeInt = 448
    """Width of a video frame, pixels; 0 keeps the stored width."""
    derive_task_from_video: Literal["off", "if_short", "always"] = "if_short"
    """Whether to derive the task from the footage: never, if the given task is short or a placeholder, or always."""
    derive_task_min_words: int = 3
    """With if_short: derive tasks of fewer words than this from the footage."""
    n_task_rephrasings: Annotated[int, Meta(ge=0, le=64)] = 10
    """Number of task rephrasings; 0 writes no task_aug rows."""
    min_subtask_seconds: NonNegativeFloat = 1.5
    """Minimum subtask length; shorter subtasks are merged into a neighbour."""
    plan_max_steps: Annotated[int, Meta(ge=1, le=64)] = 8
    """Maximum number of subtasks per call."""
    subtask_describe_first: bool = True
    """Ask for a description of what happens before asking for subtasks."""
    subtask_seeded_relabel: bool = False
    """Ask about each subtask again, with its neighbours as context, to correct its label; its boundaries stay."""
    subtask_relabel_frames: PositiveInt = 5
    """Frames of each subtask shown for relabeling."""
    gripper_hints: bool = False
    """Add the times at which the gripper opens and closes to the segment prompt, if the dataset names a gripper."""
    emit_plan: bool = True
    """Write a numbered plan of the remaining subtasks at every subtask boundary."""
    emit_memory: bool = True
    """Write a memory of the relevant events so far at every subtask boundary."""
    task_aug_axes: TaskAugAxesSettings = TaskAugAxesSettings()


class InterjectionsSettings(Settings, frozen=True, kw_only=True):
    """The `interjections` module: what a user might say during the task, and the robot's spoken reply."""

    enabled: bool = True
    """Write interjection rows and the robot's spoken replies."""
    max_interjections_per_episode: NonNegativeInt = 3
    """Maximum number of interjections per episode, placed at subtask boundaries."""
    interjection_min_t: NonNegativeFloat = 2.0
    """Earliest time of an interjection, seconds."""
    interjection_window_seconds: NonNegativeFloat = 2.0
    """Length of the footage shown around an interjection, seconds."""
    interjection_window_frames: PositiveInt = 4
    """Frames shown of that footage."""
    frame_width: NonNegativeInt = 448
    """Width of a shown frame, pixels; 0 keeps the stored width."""


QuestionType = Literal["bbox", "keypoint", "count", "attribute", "spatial"]


class VqaSettings(Settings, frozen=True, kw_only=True):
    """The `vqa` module: questions about single frames, with typed answers."""

    enabled: bool = True
    """Write vqa rows."""
    vqa_emission_hz: PositiveFloat = 1.0
    """Rate at which frames are asked about, per second of an episode."""
    K: PositiveInt = 1
    """Consecutive frames per tick and camera, each with its own question."""
    question_types: tuple[QuestionType, ...] = ("bbox", "keypoint", "count", "attribute", "spatial")
    """Question types to draw from."""
    restrict_to_default_camera: bool = False
    """Ask about the default camera only instead of every camera."""


ENGINES = ("auto", "openai", "serve", "vllm", "transformers", "signals", "scripted", "offline")
"""The shipped engines, for the help text; `annotator.vlm.registry` defines them, and other packages can add more."""


class VlmSettings(Settings, frozen=True, kw_only=True):
    """The model, and the server or engine that runs it."""

    backend: Annotated[str, Meta(examples=list(ENGINES))] = "auto"
    """The engine: auto (a server that is named or found), openai, serve (servers started for the run), vllm or
    transformers (a model loaded in process), signals (no model), scripted (for tests), offline (the log alone)."""
    model_id: str = "Qwen/Qwen3-VL-8B-Instruct"
    """Name of the model on the server. Part of every key."""
    model_revision: str | None = None
    """Revision of the model, if the server was started with one. Part of every key."""
    api_base: str | None = None
    """An OpenAI-compatible endpoint, or several that serve the same model: separated by commas, or by repeating the
    option. If unset, http://localhost:8000/v1 is tried."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the API key."""
    request_timeout_s: PositiveFloat = 600.0
    """Timeout of a request, seconds."""
    request_max_retries: NonNegativeInt = 4
    """Maximum number of retries after a timeout, a lost connection, a 429 or a 5xx, with backoff."""
    client_concurrency: NonNegativeInt = 16
    """Maximum number of concurrent requests per endpoint; 0 sets no limit."""
    max_new_tokens: int = 2048
    """Maximum length of a reply, tokens."""
    temperature: NonNegativeFloat = 0.2
    """Sampling temperature."""
    top_p: NonNegativeFloat = 1.0
    """Nucleus sampling threshold."""
    reasoning_effort: str | None = None
    """Reasoning effort, for models that accept one."""
    chat_template_kwargs: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    """Arguments of the chat template, such as {"enable_thinking": false}."""
    mm_processor_kwargs: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    """Arguments of the image processor; the server must accept them."""
    coordinates: Literal["relative_1000", "pixels"] = "relative_1000"
    """Coordinates in the model's replies: 0 to 1000 of width and height (Qwen3-VL), or pixels (Qwen2.5-VL)."""
    auto_serve: bool = True
    """With backend auto: start servers if none is named or found and there are a GPU and `vllm`."""
    parallel_servers: NonNegativeInt = 0
    """Number of servers to start; 0 starts as many as the GPUs allow."""
    num_gpus: NonNegativeInt = 0
    """Number of GPUs for the started servers; 0 uses all visible ones."""
    serve_command: str | None = None
    """Command that starts one server, with {port} and {model}; if unset, `vllm serve` (docs/serving.md)."""
    serve_ready_timeout_s: PositiveFloat = 600.0
    """Maximum time for a started server to become ready, seconds."""
    tensor_parallel_size: PositiveInt = 1
    """Number of GPUs per started server, or per model loaded in process."""
    max_model_len: int | None = None
    """Maximum context length of a model started here, tokens; if unset, as much of the model's own as fits."""
    gpu_memory_utilization: float | None = None
    """Share of GPU memory for a model started here; if unset, vLLM decides."""
    engine_kwargs: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    """Further arguments of vLLM's engine with backend vllm, such as {"max_num_seqs": 64}."""
    camera_key: str | None = None
    """The camera shown to the model; if unset, the dataset's first."""
    camera_keys: tuple[str, ...] = ()
    """Cameras shown side by side in the plan prompts, in this order; replaces camera_key."""


class ExecutorSettings(Settings, frozen=True, kw_only=True):
    """Parallelism on this machine. Never part of a key."""

    episode_parallelism: PositiveInt = 16
    """Episodes processed concurrently."""
    decode_threads: PositiveInt = 2
    """Threads that decode video."""
    write_threads: PositiveInt = 2
    """Shards written concurrently."""


class ValidationSettings(Settings, frozen=True, kw_only=True):
    """Handling of rows that violate a rule. See `annotator validate`."""

    on_error: Literal["abort", "quarantine"] = "abort"
    """abort writes no shard; quarantine keeps the old rows of the violating episodes and writes the others."""
    rules: Path | None = None
    """A folder of additional rules, one SQL file per rule."""


class SyncSettings(Settings, frozen=True, kw_only=True):
    """All settings of `annotator sync`."""

    root: Path = Path()
    """The dataset's folder; can also be given without the flag."""
    output: Path | None = None
    """Write an annotated copy of the dataset here instead of in place; unchanged files are linked."""
    store: Path | None = None
    """Folder of the log; if unset, .annotator in the dataset that is written."""
    prompts: Path | None = None
    """A folder of prompt files that replace shipped ones of the same name."""
    seed: int = 1729
    """Seed of every call and of every random choice."""
    only_episodes: str | None = None
    """Episodes to annotate, such as 0,5-9; the rows of all others stay as they are."""
    offline: bool = False
    """Answer calls from the log only; a call that is not in the log fails."""
    locked: bool = False
    """Change nothing, not even the log, and fail if anything is out of date."""
    skip_validation: bool = False
    """Write rows even if they violate a rule."""
    repo_id: str | None = None
    """A dataset on the Hugging Face Hub, org/name, to download into --root, or into a cache folder if that is unset."""
    revision: str | None = None
    """Branch, tag or commit of --repo_id; if unset, main."""
    push_to_hub: bool = False
    """Push the annotated dataset with its lock, card and log after the run, to --new_repo_id or else to --repo_id."""
    new_repo_id: str | None = None
    """Dataset on the Hub to push to, org/name; created if it does not exist."""
    push_private: bool | None = None
    """Whether a dataset created on the Hub is private; if unset, as the dataset it was downloaded from."""
    bucket: str | None = None
    """Bucket on the Hub that shares the log between machines: hf://buckets/org/name[/folder]."""
    bucket_every_s: PositiveFloat = 60.0
    """Interval at which new answers are uploaded to the bucket during a run, seconds."""
    max_failures: NonNegativeInt = 0
    """Stop calling after this many failed calls; 0 sets no limit."""
    vocabulary: VocabularySettings = VocabularySettings()
    plan: PlanSettings = PlanSettings()
    interjections: InterjectionsSettings = InterjectionsSettings()
    vqa: VqaSettings = VqaSettings()
    vlm: VlmSettings = VlmSettings()
    executor: ExecutorSettings = ExecutorSettings()
    validation: ValidationSettings = ValidationSettings()

    @property
    def log_folder(self) -> Path:
        """Return the folder of the run's log."""
        return store_path(self.output or self.root, self.store)
