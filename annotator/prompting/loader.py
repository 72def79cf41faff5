"""Prompt files: a TOML head between `+++` lines, then a Jinja template.

The head says what the file is for and which inputs it takes; only the body reaches a model. A body that uses an
input the head does not list, or the other way round, is refused before the first call.
"""

import functools
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jinja2
import jinja2.meta
import msgspec

from annotator.errors import PromptError
from annotator.prompting import answers
from annotator_store.digests import Digest, digest_parts
from annotator_store.keys import Message, Prompt, Slot, Text

_env = jinja2.Environment(
    undefined=jinja2.StrictUndefined,
    autoescape=False,
    trim_blocks=True,
    keep_trailing_newline=False,
)


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The head of a prompt file. Everything in it may be edited without asking anything again."""

    id: str
    inputs: tuple[str, ...]
    answer: str | None = None
    scope: Literal["episode", "dataset"] = "episode"
    frames: Literal["none", "episode", "window", "frame"] = "none"


class PromptFile(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt, checked. `digest` covers the body without its comments: what a rendering can depend on."""

    head: Head
    body: str
    digest: Digest
    where: str

    def text(self, inputs: Mapping[str, str]) -> str:
        """Render the body from those of `inputs` that the head lists; an own prompt may use fewer than the shipped one.

        Raises:
            PromptError: an input is missing.
        """
        missing = set(self.head.inputs) - set(inputs)
        if missing:
            raise PromptError("a prompt lacks an input", where=self.where, got=", ".join(sorted(missing)))
        return _render(self.body, self.taken(inputs), self.where)

    def taken(self, inputs: Mapping[str, str]) -> dict[str, str]:
        """Pick the inputs that this prompt uses, in the head's order: nothing else may change an answer."""
        return {name: inputs[name] for name in self.head.inputs}


class Prompts:
    """All prompts of a run, by id: the shipped ones, with single files replaced from a folder."""

    def __init__(self, files: Iterable[PromptFile]) -> None:
        self._files = {f.head.id: f for f in files}

    def __getitem__(self, step: str) -> PromptFile:
        return self._files[step]

    def __iter__(self) -> Iterator[PromptFile]:
        return iter(sorted(self._files.values(), key=lambda f: f.head.id))

    def digests(self, steps: Iterable[str]) -> dict[str, Digest]:
        """Digest the bodies that the given steps can render, by id; `system` and `retry` belong to every step."""
        return {step: self._files[step].digest for step in ("system", "retry", *steps)}

    def ask(self, step: str, inputs: Mapping[str, str], schema: dict[str, Any], pictures: int) -> Prompt:
        """Render a step's first ask: system text, then the pictures, then the step's text.

        The pictures come before the text and in one order: steps that share them share a server's prefix cache.
        """
        slots = tuple(Slot(index) for index in range(pictures))
        system = Message("system", (Text(self._files["system"].text({})),))
        user = Message("user", (*slots, Text(self._files[step].text(inputs))))
        return Prompt(messages=(system, user), schema=schema)

    def ask_again(self, first: Prompt, reply: str, error: str) -> Prompt:
        """Render the second ask, after a reply that could not be used."""
        again = Message("user", (Text(self._files["retry"].text({"error": error})),))
        messages = (*first.messages, Message("assistant", (Text(reply),)), again)
        return msgspec.structs.replace(first, messages=messages)


def load_prompts(folder: Path | None = None, third_party: Iterable[Path] = ()) -> Prompts:
    """Load the shipped prompts, and over them those in `folder`, file by file.

    `third_party`: the prompt files of modules that are not shipped, see `annotator.modules.registry.prompt_files`.

    Raises:
        PromptError: a file is malformed, or its inputs and body disagree, or it replaces nothing.
    """
    shipped = [parse_prompt(text, where=f"prompts/{name}") for name, text in shipped_files()]
    shipped += [parse_prompt(_read(path), where=str(path)) for path in third_party]
    known = {f.head.id: f for f in shipped}
    replaced: dict[str, str] = {}
    for path in _override_paths(folder):
        file = parse_prompt(_read(path), where=str(path))
        if file.head.id in replaced:
            got = f"{file.head.id}, as {replaced[file.head.id]} does"
            raise PromptError("two prompts replace one step", where=str(path), got=got, hint="keep one of them")
        replaced[file.head.id] = path.name
        if file.head.id not in known:
            hint = f"ids are {', '.join(sorted(known))}"
            raise PromptError("a prompt replaces no step", where=str(path), got=file.head.id, hint=hint)
        if set(file.head.inputs) - set(known[file.head.id].head.inputs):
            extra = sorted(set(file.head.inputs) - set(known[file.head.id].head.inputs))
            hint = f"{file.head.id} is given {', '.join(known[file.head.id].head.inputs) or 'no inputs'}"
            raise PromptError("a prompt wants an unknown input", where=str(path), got=", ".join(extra), hint=hint)
        _refuse_other_head(file.head, known[file.head.id].head, where=str(path))
        known[file.head.id] = file
    return Prompts(known.values())


def _refuse_other_head(own: Head, shipped: Head, *, where: str) -> None:
    """What a step answers, sees and covers is decided by the code; a head that says otherwise would mislead."""
    for name in ("answer", "scope", "frames"):
        if getattr(own, name) != getattr(shipped, name):
            got, hint = f"{name} = {getattr(own, name)!r}", f"{own.id} has {name} = {getattr(shipped, name)!r}"
            raise PromptError("a prompt's head does not fit its step", where=where, got=got, hint=hint)


def shipped_files() -> Sequence[tuple[str, str]]:
    """List the shipped prompt files: (name, text)."""
    return [(path.name, path.read_text(encoding="utf-8")) for path in sorted(_shipped_folder().glob("*.md"))]


def _shipped_folder() -> Path:
    """Return where the shipped templates lie: in the wheel inside this package, in a checkout beside `annotator/`."""
    packaged = Path(__file__).with_name("templates")
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "prompts"


def eject(folder: Path, third_party: Iterable[Path] = ()) -> list[Path]:
    """Copy the shipped prompts into `folder` for editing, and those of `third_party` modules.

    Raises:
        PromptError: a file of that name is there already; nothing is copied then.
    """
    texts = [
        *shipped_files(),
        *((path.name, _read(path)) for path in third_party),
    ]
    targets = [(folder / name, text) for name, text in texts]
    for path, _ in targets:
        if path.exists():
            raise PromptError("a prompt file would be overwritten", where=str(path), hint="name an empty folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in targets:
            path.write_text(text, encoding="utf-8")
    except OSError as cause:
        raise PromptError(
            "prompts cannot be copied", where=str(folder), got=str(cause), hint="name a new folder"
        ) from cause
    return [path for path, _ in targets]


def parse_prompt(text: str, *, where: str) -> PromptFile:
    """Parse and check one prompt file.

    Raises:
        PromptError: what is wrong with it, and where.
    """
    parts = text.replace("\r\n", "\n").split("+++\n", 2)
    if len(parts) != 3 or parts[0].strip():
        raise PromptError("a prompt has no head", where=where, hint="start with +++, TOML, +++")
    head = _head(parts[1], where)
    if head.answer is not None and not hasattr(answers, head.answer):
        hint = "answers are the structs of annotator/prompting/answers.py; keep the shipped file's"
        raise PromptError("a prompt names an unknown answer", where=where, got=head.answer, hint=hint)
    used = _used_names(parts[2], where)
    if used != set(head.inputs):
        odd = sorted(used ^ set(head.inputs))
        side = "the body uses it, the head does not list it" if odd[0] in used else "listed in the head, unused"
        hint = "inputs = [...] in the head lists exactly what stands between {{ }} and {% %} in the body"
        raise PromptError(
            "a prompt's inputs and body disagree", where=where, got=f"{', '.join(odd)}: {side}", hint=hint
        )
    for value in ("", "1"):
        _render(parts[2], dict.fromkeys(head.inputs, value), where)
    return PromptFile(head=head, body=parts[2], digest=_body_digest(parts[2]), where=where)


def _head(toml: str, where: str) -> Head:
    try:
        return msgspec.convert(tomllib.loads(toml), Head)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as cause:
        hint = "the head is TOML: id, inputs, answer, scope, frames"
        raise PromptError("a prompt's head cannot be read", where=where, got=str(cause), hint=hint) from cause


def _used_names(body: str, where: str) -> set[str]:
    try:
        return jinja2.meta.find_undeclared_variables(_env.parse(body))
    except jinja2.TemplateSyntaxError as cause:
        hint = "a brace that is meant as such is written {{ '{' }}"
        place = f"{where}, line {cause.lineno} of the body"
        raise PromptError("a prompt's body is no template", where=place, got=cause.message or "", hint=hint) from cause


def _render(body: str, values: Mapping[str, str], where: str) -> str:
    try:
        return _template(body).render(**values).strip()
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError) as cause:
        hint = "every input is a text; Jinja's own tests and filters apply to it"
        raise PromptError("a prompt cannot be rendered", where=where, got=str(cause), hint=hint) from cause


@functools.cache
def _template(body: str) -> jinja2.Template:
    return _env.from_string(body)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as cause:
        raise PromptError("a prompt file cannot be read", where=str(path), got=str(cause), hint="UTF-8 text") from cause


def _body_digest(body: str) -> Digest:
    """Digest the body's tokens, leaving out `{# comments #}`."""
    kept: list[str] = []
    inside = False
    for _, kind, value in _env.lex(body):
        inside = inside or kind == "comment_begin"
        if not inside:
            kept.append(value)
        inside = inside and kind != "comment_end"
    return digest_parts("prompt-body.v1", ["".join(kept).strip().encode()])


def _override_paths(folder: Path | None) -> list[Path]:
    if folder is None:
        return []
    if not folder.is_dir():
        raise PromptError("no such folder of prompts", where=str(folder), hint="annotator prompts eject DIR makes one")
    paths = sorted(folder.glob("*.md"))
    if not paths:
        hint = "one .md file a step; annotator prompts eject DIR copies the shipped ones"
        raise PromptError("no prompts there", where=str(folder), got="no .md file", hint=hint)
    return paths
