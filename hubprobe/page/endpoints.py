"""The endpoints: what a program can ask, once. HTTP, Gradio's clients, MCP and OpenAPI are read off this table."""

from __future__ import annotations

import base64
import binascii
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import to_json

from hubprobe.page import question as questions
from hubprobe.page.question import MOST, Question
from workspace import QueryError
from workspace.text import printable

if TYPE_CHECKING:
    from anyio import CapacityLimiter

    from hubprobe.page.opened import Current

LONGEST = 10_000
"""Characters of a text or a condition; the search's own bound is lower and says so."""

IMAGE_LONGEST = 16 * 2**20
"""Characters of an image in base64: as much as the largest body that is read."""

_REMEMBERED = 500
"""Characters of an argument of a call whose answer is remembered; images are longer."""

_TEXT = f"a text of at most {LONGEST:,} characters"
Text = Annotated[
    str, Field(max_length=LONGEST, description=f'{_TEXT}: a concept in words, such as "dog" or "a red car"')
]
Where = Annotated[
    str,
    Field(
        max_length=LONGEST,
        description=f"{_TEXT}: an SQL condition over models and logits, such as "
        "\"downloads > 1000 AND license = 'mit'\"; may be empty",
    ),
]
By = Annotated[
    Literal["logit", "model", "family"],
    Field(description="'logit', 'model' or 'family': what a hit is; near-copies count once in a family"),
]
Limit = Annotated[int, Field(ge=1, le=MOST, description=f"a whole number between 1 and {MOST}: how many hits")]
RepoId = Annotated[str, Field(max_length=300, description='a text such as "owner/name": the repository of a model')]
Logit = Annotated[int, Field(ge=0, lt=2**31, description="a whole number: the index of an output of the model")]
Base64 = Annotated[
    str,
    Field(max_length=IMAGE_LONGEST, description="a text in base64: the bytes of a PNG, JPEG, WebP, GIF or BMP file"),
]
Records = list[dict[str, Any]]


class _Arguments(BaseModel):
    """Arguments of a call: of exactly the declared scalar types, and no others."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)


@dataclass(frozen=True)
class Endpoint:
    """One question that a program can ask.

    Attributes:
        name: how it is called.
        function: answers it; its arguments are keywords.
        arguments: their names, types, bounds, defaults and meaning.
        about: what it does, a sentence.
        returns: what it answers, a sentence.
    """

    name: str
    function: Callable[..., Any]
    arguments: type[BaseModel]
    about: str
    returns: str

    @property
    def schema(self) -> dict[str, Any]:
        """The arguments as a JSON schema."""
        return self.arguments.model_json_schema()

    def positional(self, values: Sequence[Any]) -> dict[str, Any]:
        """Name arguments that came in order; raises `QueryError` for too many."""
        names = list(self.arguments.model_fields)
        if len(values) > len(names):
            raise QueryError(f"{self.name} takes at most {len(names)} arguments: {', '.join(names)}")
        return dict(zip(names, values, strict=False))

    def written(self, values: Mapping[str, str]) -> dict[str, Any]:
        """Read arguments that came as text, in an address."""
        fields = self.arguments.model_fields
        whole = {key for key, field in fields.items() if field.annotation is int}
        number = re.compile("-?[0-9]{1,15}")
        return {k: int(v) if k in whole and number.fullmatch(v) else v for k, v in values.items()}

    def checked(self, values: Any) -> dict[str, Any]:
        """Return the arguments of a call with their defaults.

        Raises `QueryError` for anything that is not of its declared scalar type and within its bounds.
        """
        if not isinstance(values, dict):
            raise QueryError(f"{self.name} takes an object of arguments: {', '.join(self.arguments.model_fields)}")
        try:
            return dict(self.arguments.model_validate(values))
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
        name = printable(first["loc"][0], 40)
        if first["type"] == "extra_forbidden":
            raise QueryError(f"{self.name} has no argument '{name}': {', '.join(self.arguments.model_fields)}")
        said = "is needed:" if first["type"] == "missing" else "must be"
        raise QueryError(f"'{name}' {said} {self.arguments.model_fields[name].description}")


class Endpoints:
    """The table, and how it is answered.

    Args:
        current: what questions.
        searching: of the searches that run at once, those of the page included.
    """

    def __init__(self, current: Current, searching: CapacityLimiter) -> None:
        self._current, self._searching = current, searching
        functions: list[Callable[..., Any]] = [
            self.search, self.search_image, self.similar, self.describe, self.coverage,
        ]  # fmt: skip
        self.table = {function.__name__: _endpoint(function) for function in functions}

    async def answer(self, endpoint: Endpoint, values: Any) -> bytes:
        """Return the JSON of an answer; raises `QueryError` for what cannot be answered as asked."""
        from anyio import to_thread

        arguments = endpoint.checked(values)
        opened, call = self._current.get(), (endpoint.name, *arguments.values())
        small = all(len(str(value)) <= _REMEMBERED for value in arguments.values())
        known: bytes | None = opened.records.get(call) if small else None
        if known is not None:
            return known
        # in the page's few threads: each keeps what its searches needed
        try:
            found = await to_thread.run_sync(partial(endpoint.function, **arguments), limiter=self._searching)
        except QueryError as error:
            raise QueryError(self._current.public(error)) from error
        text = to_json(found, inf_nan_mode="null")
        return opened.records.put(call, text) if small and opened.names.state != "preparing" else text

    def search(self, text: Text, where: Where = "", by: By = "logit", limit: Limit = 10) -> Records:
        """Find outputs (logits) of public image classifiers that recognise a concept, by what they answer.

        Returns:
            Hits, best first: rank, score, repo_id, sha, logit, label (the model's own word, untrusted), name (suggested
            by behaviour) with name_confidence, found_by, facts of the model, evidence (probes answered most strongly)
        """
        return self._found(Question(q=text, where=where, by=by, n=limit))

    def search_image(self, image: Base64, where: Where = "", by: By = "logit", limit: Limit = 10) -> Records:
        """Find outputs (logits) of public image classifiers that recognise what an example image shows.

        Returns:
            Hits, best first, as of search
        """
        try:
            data = base64.b64decode(image.partition(",")[2] if image.startswith("data:") else image, validate=True)
        except (binascii.Error, ValueError):
            raise QueryError("the image is not base64: encode the bytes of the file") from None
        return self._found(Question(image=self._current.remember(data, "image"), where=where, by=by, n=limit))

    def similar(self, repo_id: RepoId, logit: Logit, where: Where = "", by: By = "logit", limit: Limit = 10) -> Records:
        """Find outputs of other models that answer like one output of a model.

        Returns:
            Hits, best first, as of search
        """
        return self._found(Question(like=repo_id, logit=logit, where=where, by=by, n=limit))

    def describe(self, repo_id: RepoId) -> Records:
        """Name every output of a model by what it recognises, whatever it is called.

        Returns:
            A record per output: logit, label (the model's own word, untrusted), name, confidence, source, others
        """
        opened = self._current.get()
        if opened.names.state != "ready":
            raise QueryError(f"names are not there: {opened.names.state}")
        rows: Records = opened.index.describe(repo_id, progress=False).to_pylist()
        return [row | {"label": None if row["label"] is None else printable(row["label"], 200)} for row in rows]

    def coverage(self, text: Text, where: Where = "") -> dict[str, Any]:
        """Say how probable it is that a concept can be answered by this index.

        Returns:
            covered, probability (that one of the ten nearest is right), said (the same in words) and notes (such
            as that a text was cut)
        """
        query = questions.prepared(self._current, self._current.get(), Question(q=text, where=where))
        found, notes = query.coverage(), list(query.notes)
        return {
            "covered": found.covered,
            "probability": round(found.probability, 4),
            "said": str(found),
            "notes": notes,
        }

    def _found(self, question: Question) -> Records:
        opened = self._current.get()
        query = questions.prepared(self._current, opened, replace(question, q=question.q.strip()))
        return [
            questions.plain(opened, hit) for hit in questions.records(opened, query.by(question.by).limit(question.n))
        ]


def _endpoint(function: Callable[..., Any]) -> Endpoint:
    """Return the row of the table that a function's signature and docstring say."""
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {
        name: (hints[name], ... if one.default is inspect.Parameter.empty else one.default)
        for name, one in inspect.signature(function).parameters.items()
    }
    about, _, returns = (inspect.getdoc(function) or "").partition("\n\nReturns:\n")
    arguments = create_model(function.__name__, __base__=_Arguments, **fields)
    return Endpoint(function.__name__, function, arguments, about, " ".join(returns.split()))
