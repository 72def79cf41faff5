"""Prompt files: a TOML head between `+++` lines, then a Jinja template.

The head says what the file is for and which inputs it takes; only the body reaches a model. A body that uses an
input the head does not list, and a head that lists one the body does not use, are refused before the first call.
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
# Jinja caches templates that a loader finds, not those that are made from a string.
_template = functools.cache(_env.from_string)


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The head of a prompt file. Everything in it may be edited without asking anything again."""

    id: str
    inputs: tuple[str, ...]
    answer: str | None = None
    scope: Literal["episode", "dataset"] = "episode"
    frames: Literal["none", "episode", "window", "frame"] = "none"


class PromptFile(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt file that has been checked.

    `digest` covers the body without its comments: all that a rendering can depend on. `where`: its path, for messages.
    """

    head: Head
    body: str
    digest: Digest
    where: str

    def text(self, inputs: Mapping[str, str]) -> str:
        """Render the body with those of `inputs` that the head lists; an own prompt may use fewer than the shipped one.

        Raises:
            PromptError: an input is missing.
        """
        missing = set(self.head.inputs) - set(inputs)
        if missing:
            raise PromptError("a prompt lacks an input", where=self.where, got=", ".join(sorted(missing)))
        return _render(self.body, self.taken(inputs), self.where)

    def taken(self, inputs: Mapping[str, str]) -> dict[str, str]:
        """Return the inputs that this prompt uses, in the head's order. The call's key holds these and no others."""
        return {name: inputs[name] for name in self.head.inputs}


class Prompts:
    """All prompts of a run, by id: the shipped ones, with single files replaced from a folder."""

    def __init__(self, files: Iterable[PromptFile]) -> None:
        self._files = {file.head.id: file for file in files}

    def __getitem__(self, step: str) -> PromptFile:
        return self._files[step]

    def __iter__(self) -> Iterator[PromptFile]:
        return iter(sorted(self._files.values(), key=lambda file: file.head.id))

    def digests(self, steps: Iterable[str]) -> dict[str, Digest]:
        """Return the digests of all bodies that the given steps render, by id; `system` and `retry` belong to each."""
        return {step: self._files[step].digest for step in ("system", "retry", *steps)}

    def ask(self, step: str, inputs: Mapping[str, str], schema: dict[str, Any], pictures: int) -> Prompt:
        """Render a step's first prompt: system text, then the pictures, then the step's text.

        The pictures come before the text and in one order, so that steps which share them share a server's prefix
        cache. `schema`: of the answer; `pictures`: how many there are.
        """
        slots = tuple(Slot(index) for index in range(pictures))
        system = Message("system", (Text(self._files["system"].text({})),))
        user = Message("user", (*slots, Text(self._files[step].text(inputs))))
        return Prompt(messages=(system, user), schema=schema)

    def ask_again(self, first: Prompt, reply: str, error: str) -> Prompt:
        """Render the retry prompt: the first prompt, the reply that could not be used, and what is wrong with it."""
        again = Message("user", (Text(self._files["retry"].text({"error": error})),))
        messages = (*first.messages, Message("assistant", (Text(reply),)), again)
        return msgspec.structs.replace(first, messages=messages)


def load_prompts(folder: Path | None = None, third_party: Sequence[Path] = ()) -> Prompts:
    """Load the shipped prompts, and over them those in `folder`, file by file.

    `third_party`: the folders of modules that are not shipped, see `annotator.modules.registry.prompt_folders`.

    Raises:
        PromptError: a file is malformed, its inputs and body disagree, it replaces nothing, or two have one id.
    """
    files = [parse_prompt(text, where=f"prompts/{name}") for name, text in shipped_files()]
    files += [parse_prompt(text, where=str(path)) for other in third_party for path, text in _read_folder(other)]
    shipped: dict[str, PromptFile] = {}
    for file in files:
        if file.head.id in shipped:
            got, hint = f"{file.head.id}, as {shipped[file.head.id].where} does", "a module's prompts have its own ids"
            raise PromptError("two prompts have one id", where=file.where, got=got, hint=hint)
        shipped[file.head.id] = file
    own: dict[str, PromptFile] = {}
    for path, text in _read_folder(folder) if folder is not None else ():
        file = parse_prompt(text, where=str(path))
        if file.head.id in own:
            got = f"{file.head.id}, as {Path(own[file.head.id].where).name} does"
            raise PromptError("two prompts replace one step", where=str(path), got=got, hint="keep one of them")
        if file.head.id not in shipped:
            hint = f"ids are {', '.join(sorted(shipped))}"
            raise PromptError("a prompt replaces no step", where=str(path), got=file.head.id, hint=hint)
        _refuse_other_head(file, shipped[file.head.id].head)
        own[file.head.id] = file
    return Prompts((shipped | own).values())


def shipped_files() -> Sequence[tuple[str, str]]:
    """List the shipped prompt files by name: (name, text)."""
    # The wheel carries the templates inside this package; in a checkout they lie beside `annotator/`.
    packaged = Path(__file__).with_name("templates")
    folder = packaged if packaged.is_dir() else Path(__file__).parents[2] / "prompts"
    return [(path.name, path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.md"))]


def eject(folder: Path, third_party: Sequence[Path] = ()) -> list[Path]:
    """Copy the shipped prompts into `folder` for editing, and those of `third_party` modules.

    Raises:
        PromptError: a file of that name is there already; nothing is copied then.
    """
    texts = [*shipped_files(), *((path.name, text) for other in third_party for path, text in _read_folder(other))]
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
    body = parts[2]
    try:
        head = msgspec.convert(tomllib.loads(parts[1]), Head)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as cause:
        hint = "the head is TOML: id, inputs, answer, scope, frames"
        raise PromptError("a prompt's head cannot be read", where=where, got=str(cause), hint=hint) from cause
    if head.answer is not None and not hasattr(answers, head.answer):
        hint = "answers are the structs of annotator/prompting/answers.py; keep the shipped file's"
        raise PromptError("a prompt names an unknown answer", where=where, got=head.answer, hint=hint)
    used = _used_names(body, where)
    if used != set(head.inputs):
        odd = sorted(used ^ set(head.inputs))
        side = "the body uses it, the head does not list it" if odd[0] in used else "listed in the head, unused"
        hint = "inputs = [...] in the head lists exactly what stands between {{ }} and {% %} in the body"
        got = f"{', '.join(odd)}: {side}"
        raise PromptError("a prompt's inputs and body disagree", where=where, got=got, hint=hint)
    # Rendered once with every input empty and once with none: both arms of an `if` show their errors before a call.
    for value in ("", "1"):
        _render(body, dict.fromkeys(head.inputs, value), where)
    return PromptFile(head=head, body=body, digest=_body_digest(body), where=where)


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


def _body_digest(body: str) -> Digest:
    """Digest the body's tokens without `{# comments #}`: rewording a comment asks nothing again."""
    kept: list[str] = []
    in_comment = False
    for _, kind, value in _env.lex(body):
        in_comment = in_comment or kind == "comment_begin"
        if not in_comment:
            kept.append(value)
        in_comment = in_comment and kind != "comment_end"
    return digest_parts("prompt-body.v1", ["".join(kept).strip().encode()])


def _refuse_other_head(own: PromptFile, shipped: Head) -> None:
    """Refuse inputs that the step is not given, and a head that misstates what the code decides about the step."""
    unknown = sorted(set(own.head.inputs) - set(shipped.inputs))
    if unknown:
        hint = f"{shipped.id} is given {', '.join(shipped.inputs) or 'no inputs'}"
        raise PromptError("a prompt wants an unknown input", where=own.where, got=", ".join(unknown), hint=hint)
    for name in ("answer", "scope", "frames"):
        if getattr(own.head, name) != getattr(shipped, name):
            got, hint = f"{name} = {getattr(own.head, name)!r}", f"{shipped.id} has {name} = {getattr(shipped, name)!r}"
            raise PromptError("a prompt's head does not fit its step", where=own.where, got=got, hint=hint)


def _read_folder(folder: Path) -> Iterator[tuple[Path, str]]:
    if not folder.is_dir():
        raise PromptError("no such folder of prompts", where=str(folder), hint="annotator prompts eject DIR makes one")
    paths = sorted(folder.glob("*.md"))
    if not paths:
        hint = "one .md file a step; annotator prompts eject DIR copies the shipped ones"
        raise PromptError("no prompts there", where=str(folder), got="no .md file", hint=hint)
    for path in paths:
        try:
            yield path, path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as cause:
            raise PromptError(
                "a prompt file cannot be read", where=str(path), got=str(cause), hint="UTF-8 text"
            ) from cause
