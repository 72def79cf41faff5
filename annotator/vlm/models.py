"""Models: what names one in a key."""

from annotator.config.settings import SyncSettings, VlmSettings
from annotator_store.keys import Model

SIGNALS_MODEL = "signals.v1"
SCRIPTED_MODEL = "scripted.v1"


def reads_evidence(model: Model) -> bool:
    """Say whether a model reads signals and inputs instead of looking: by its id, since keys do not know engines."""
    return model.model_id == SIGNALS_MODEL


def looks(settings: SyncSettings) -> bool:
    """Say whether whoever answers wants pictures: not the log alone, and no rules over signals."""
    return not settings.offline and settings.vlm.backend not in ("offline", "signals")


def model_of(vlm: VlmSettings) -> Model:
    """Name the model that answers, and what can change its answers. An engine without a model has no settings."""
    if vlm.backend == "signals":
        return Model(model_id=SIGNALS_MODEL)
    if vlm.backend == "scripted":
        return Model(model_id=SCRIPTED_MODEL)
    return Model(
        model_id=vlm.model_id,
        revision=vlm.model_revision,
        chat_template_kwargs=vlm.chat_template_kwargs,
        mm_processor_kwargs=vlm.mm_processor_kwargs,
        temperature=vlm.temperature,
        top_p=vlm.top_p,
        max_new_tokens=vlm.max_new_tokens,
        reasoning_effort=vlm.reasoning_effort,
    )
