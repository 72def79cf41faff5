"""Every setting, its name, its default. The command line and `annotator.toml` are generated from these structs.

Names are those of the pipeline this tool stands in for (`--vlm.model_id`, `--plan.n_task_rephrasings`, …).
Settings that can change an answer reach the key (see `annotator.pipeline.fingerprints`); the rest is provenance.
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
"""How many rephrasings along one axis: one reply has room for 16."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of every group of settings, and of the arguments of every command.

    Constructing one checks nothing; `annotator.config.load.validated` does.
    """


class VocabularySettings(Settings, frozen=True, kw_only=True):
    """The vocabulary: one small set of subtask labels and memory milestones for the whole dataset."""

    enabled: bool = True
    """Hold subtasks and memory to a vocabulary; without it both are worded freely."""
    sample_episodes: PositiveInt = 3
    """Episodes that are watched together to find the vocabulary."""
    max_frames: PositiveInt = 180
    """Frames of all sampled episodes together that the one prompt may show."""
    reuse_existing: bool = True
    """Take meta/canonical_vocabulary.json as it is, edited or not; false discovers it anew."""


class TaskAugAxesSettings(Settings, frozen=True, kw_only=True):
    """Task rephrasings along five axes in place of free ones: how many of each."""

    enabled: bool = False
    """Ask along the axes; n_task_rephrasings then has no effect."""
    synonym_paraphrase: AxisCount = 3
    """Other words, every detail kept."""
    omit_arm: AxisCount = 3
    """Which arm is used is left out."""
    omit_orientation: AxisCount = 2
    """How things are turned is left out."""
    omit_grasp_method: AxisCount = 2
    """How things are gripped is left out."""
    combined_omissions: AxisCount = 2
    """Several of these are left out at once."""


class PlanSettings(Settings, frozen=True, kw_only=True):
    """The `plan` module: subtasks, plan, memory and task rephrasings."""

    enabled: bool = True
    """Write subtask, plan, memory and task_aug rows."""
    view: Literal["contact_sheets", "video"] = "contact_sheets"
    """How an episode is shown: grids of timed tiles (any server that takes images), or one video block."""
    frames_per_second: PositiveFloat = 2.0
    """Frames shown per second of episode. Long episodes are cut into windows rather than thinned out."""
    max_video_frames: PositiveInt = 128
    """Frames per call with --plan.view=video; an episode with more is cut into windows."""
    max_frames_per_prompt: PositiveInt = 60
    """Frames per call with --plan.view=contact_sheets; an episode with more is cut into windows."""
    contact_sheet_columns: PositiveInt = 5
    """Tiles in a row of a contact sheet."""
    contact_sheet_frames_per_sheet: PositiveInt = 20
    """Tiles on one contact sheet."""
    contact_sheet_frame_width: PositiveInt = 224
    """Width of a tile, pixels."""
    contact_sheet_quality: Annotated[int, Meta(ge=1, le=95)] = 84
    """JPEG quality of sheets and frames, 1 to 95."""
    video_frame_width: NonNegativeInt = 448
    """Width of a frame of a video block, pixels; 0 keeps the stored width."""
    derive_task_from_video: Literal["off", "if_short", "always"] = "if_short"
    """Read the task off the footage: never, where the given one is short or a placeholder, or always."""
    derive_task_min_words: int = 3
    """With if_short: a task of fewer words than this is read off the footage."""
    n_task_rephrasings: Annotated[int, Meta(ge=0, le=64)] = 10
    """Other wordings of the task to ask for; 0 asks for none and writes no task_aug rows."""
    min_subtask_seconds: NonNegativeFloat = 1.5
    """Shorter subtasks are merged into a neighbour."""
    plan_max_steps: Annotated[int, Meta(ge=1, le=64)] = 8
    """Subtasks asked for at most, per call; up to 64."""
    subtask_describe_first: bool = True
    """Ask what visibly happens before asking for subtasks."""
    subtask_seeded_relabel: bool = False
    """Show each subtask again beside its neighbours and correct its wording; its bounds stay."""
    subtask_relabel_frames: PositiveInt = 5
    """Frames of each subtask that a relabel looks at."""
    gripper_hints: bool = False
    """Tell the segment prompt when the gripper opens and closes, where the dataset names one."""
    emit_plan: bool = True
    """Write a numbered plan of what is left at every subtask boundary."""
    emit_memory: bool = True
    """Write a memory of what matters so far at every subtask boundary."""
    task_aug_axes: TaskAugAxesSettings = TaskAugAxesSettings()


class InterjectionsSettings(Settings, frozen=True, kw_only=True):
    """The `interjections` module: what a user might say in mid-task, and the robot's spoken reply."""

    enabled: bool = True
    """Write interjection rows and the robot's spoken replies."""
    max_interjections_per_episode: NonNegativeInt = 3
    """Interjections in an episode at most, at subtask boundaries."""
    interjection_min_t: NonNegativeFloat = 2.0
    """No interjection before this time, seconds."""
    interjection_window_seconds: NonNegativeFloat = 2.0
    """How much footage around the interjection is shown, seconds."""
    interjection_window_frames: PositiveInt = 4
    """Frames shown of that window."""
    frame_width: NonNegativeInt = 448
    """Width of a shown frame, pixels; 0 keeps the stored width."""


QuestionType = Literal["bbox", "keypoint", "count", "attribute", "spatial"]


class VqaSettings(Settings, frozen=True, kw_only=True):
    """The `vqa` module: questions about single frames, with typed answers."""

    enabled: bool = True
    """Write vqa rows."""
    vqa_emission_hz: PositiveFloat = 1.0
    """Ticks per second of episode at which frames are asked about."""
    K: PositiveInt = 1
    """Consecutive frames per tick and camera; each gets a question of its own."""
    question_types: tuple[QuestionType, ...] = ("bbox", "keypoint", "count", "attribute", "spatial")
    """The kinds of question to draw from."""
    restrict_to_default_camera: bool = False
    """Ask about the watched camera only, not about every camera."""


ENGINES = ("auto", "openai", "serve", "vllm", "transformers", "signals", "scripted", "offline")
"""The shipped engines, for the help of the command line: what each is stands in `annotator.vlm.registry`, where other
packages may add theirs."""


class VlmSettings(Settings, frozen=True, kw_only=True):
    """The model and the server that runs it."""

    backend: Annotated[str, Meta(examples=list(ENGINES))] = "auto"
    """Who answers: auto (a server that is named or found), openai, serve (servers started for the run), vllm or
    transformers (a model loaded for the run), signals (no model), scripted (tests), offline."""
    model_id: str = "Qwen/Qwen3-VL-8B-Instruct"
    """The model's name, as the server knows it. Part of every key."""
    model_revision: str | None = None
    """The model's revision, where the server was started with one. Part of every key."""
    api_base: str | None = None
    """An OpenAI-compatible endpoint, or several with the same model: joined by commas, or the option repeated; unset
    looks at http://localhost:8000/v1."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the API key."""
    request_timeout_s: PositiveFloat = 600.0
    """Give up on a request after this many seconds."""
    request_max_retries: NonNegativeInt = 4
    """Ask again this often after a timeout, a lost connection, a 429 or a 5xx, backing off."""
    client_concurrency: NonNegativeInt = 16
    """Requests in flight at once at each endpoint; 0 sets no limit."""
    max_new_tokens: int = 2048
    """Longest reply, tokens."""
    temperature: NonNegativeFloat = 0.2
    """Sampling temperature."""
    top_p: NonNegativeFloat = 1.0
    """Nucleus sampling."""
    reasoning_effort: str | None = None
    """Sent along where set, for models that think."""
    chat_template_kwargs: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    """Arguments of the chat template, as JSON, such as {"enable_thinking": false}."""
    mm_processor_kwargs: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    """Arguments of the image processor, as JSON; the server must allow them."""
    coordinates: Literal["relative_1000", "pixels"] = "relative_1000"
    """How the model points into an image: 0 to 1000 of its width and height (Qwen3-VL), or pixels (Qwen2.5-VL)."""
    auto_serve: bool = True
    """With backend auto, where no server is named or found: start servers, if there is a GPU and `vllm`."""
    parallel_servers: NonNegativeInt = 0
    """Servers that are started; 0 starts as many as the GPUs allow."""
    num_gpus: NonNegativeInt = 0
    """GPUs that started servers share out; 0 takes all that are visible."""
    serve_command: str | None = None
    """Starts one server; {port} and {model} are filled in. Unset runs `vllm serve` (docs/serving.md)."""
    serve_ready_timeout_s: PositiveFloat = 600.0
    """Give up on a started server that is not ready after this many seconds."""
    tensor_parallel_size: PositiveInt = 1
    """GPUs that one started server, or one model in process, spreads over."""
    max_model_len: int | None = None
    """Longest prompt and reply together, tokens, of a model started here; unset takes what fits of the model's own."""
    gpu_memory_utilization: float | None = None
    """Share of a GPU's memory that a model started here may fill; unset leaves it to vLLM."""
    engine_kwargs: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    """Further arguments of vLLM's engine with backend vllm, as JSON, such as {"max_num_seqs": 64}."""
    camera_key: str | None = None
    """The camera to watch; unset takes the dataset's first."""
    camera_keys: tuple[str, ...] = ()
    """Several cameras for the plan prompts to watch side by side, in this order; takes the place of camera_key."""


class ExecutorSettings(Settings, frozen=True, kw_only=True):
    """How much happens at once, on this machine. Never part of a key."""

    episode_parallelism: PositiveInt = 16
    """Episodes in progress at once."""
    decode_threads: PositiveInt = 2
    """Threads that decode footage."""
    write_threads: PositiveInt = 2
    """Shards written at once."""


class ValidationSettings(Settings, frozen=True, kw_only=True):
    """What happens to rows that break a rule. See `annotator validate`."""

    on_error: Literal["abort", "quarantine"] = "abort"
    """abort: no shard is written. quarantine: the bad episodes keep the rows they had, the others are written."""
    rules: Path | None = None
    """A folder of own rules, one SQL file each, beside the shipped ones."""


class SyncSettings(Settings, frozen=True, kw_only=True):
    """Everything `annotator sync` can be told."""

    root: Path = Path()
    """The dataset's folder. May also be given without the flag."""
    output: Path | None = None
    """Write a separate dataset here instead of in place; what is unchanged is linked."""
    store: Path | None = None
    """Where the log lives; unset takes .annotator in the dataset that is written."""
    prompts: Path | None = None
    """A folder of prompt files that replace the shipped ones, file by file."""
    seed: int = 1729
    """Sent with every call, and the root of every random choice."""
    only_episodes: str | None = None
    """Episodes to work on, such as 0,5-9; all others keep every row they have."""
    offline: bool = False
    """Answer from the log alone; a call that is not in it fails."""
    locked: bool = False
    """Change nothing, not even the log; fail if anything would have to change."""
    skip_validation: bool = False
    """Write rows that break a rule all the same."""
    repo_id: str | None = None
    """A dataset on the Hugging Face Hub, org/name: downloaded into --root, or, where that is unset, a cache folder."""
    revision: str | None = None
    """The branch, tag or commit of --repo_id to annotate; unset takes the newest of main."""
    push_to_hub: bool = False
    """Push the annotated dataset, its lock, card and log when the run is done: to --repo_id, or to --new_repo_id."""
    new_repo_id: str | None = None
    """Push to this dataset on the Hub instead, org/name; it is made where there is none."""
    push_private: bool | None = None
    """A dataset that is made on the Hub is private; unset takes what the one is that this one was downloaded from."""
    bucket: str | None = None
    """Share the log through a bucket on the Hub: hf://buckets/org/name[/folder]."""
    bucket_every_s: PositiveFloat = 60.0
    """Deliver what was newly answered to the bucket this often during a run, seconds."""
    max_failures: NonNegativeInt = 0
    """Ask nothing more after this many failed calls; 0 sets no limit."""
    vocabulary: VocabularySettings = VocabularySettings()
    plan: PlanSettings = PlanSettings()
    interjections: InterjectionsSettings = InterjectionsSettings()
    vqa: VqaSettings = VqaSettings()
    vlm: VlmSettings = VlmSettings()
    executor: ExecutorSettings = ExecutorSettings()
    validation: ValidationSettings = ValidationSettings()

    @property
    def log_folder(self) -> Path:
        """Where the run's log lives."""
        return store_path(self.output or self.root, self.store)
