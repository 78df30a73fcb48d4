"""The types of usage in the present client libraries, and the paths of their fields."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, get_args

from anthropic.types import MessageDeltaUsage, Usage
from anthropic.types.beta import BetaMessageDeltaUsage, BetaUsage
from openai.types import CompletionUsage, CreateEmbeddingResponse, ImageEditCompletedEvent, ImageGenCompletedEvent
from openai.types import ImagesResponse as Images
from openai.types.audio import Transcription, TranscriptionDiarized, TranscriptionTextDoneEvent, TranscriptionVerbose
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseUsage
from openai.types.responses.response_output_item import ImageGenerationCall
from pydantic import BaseModel

#: By shape of `SHAPES`: types, with the field in which each reports usage; "" if the type is the usage itself. Fields
#: other than `usage` are beside it.
MODELS: dict[str, list[tuple[type[BaseModel], str]]] = {
    "anthropic.messages": [(model, "") for model in (Usage, MessageDeltaUsage, BetaUsage, BetaMessageDeltaUsage)],
    "openai.chat": [(CompletionUsage, ""), (ChatCompletion, "service_tier"), (ChatCompletionChunk, "service_tier")],
    "openai.responses": [
        (ResponseUsage, ""),
        (Response, "service_tier"),
        (Response, "tool_usage"),
        (ImageGenerationCall, "svg_usage"),
    ],
    "openai.embeddings": [(CreateEmbeddingResponse, "usage")],
    "openai.images": [
        (Images, "usage"),
        (Images, "svg_usage"),
        (ImageGenCompletedEvent, "usage"),
        (ImageEditCompletedEvent, "usage"),
    ],
    "openai.audio": [
        (model, "usage")
        for model in (Transcription, TranscriptionVerbose, TranscriptionDiarized, TranscriptionTextDoneEvent)
    ],
}
#: Paths in the types that are lists in the table.
_LISTS = ("svg_usage",)


def paths(model: type[BaseModel], start: str) -> Iterator[str]:
    """Yield the paths of the fields of a usage, as in the table."""
    if not start:
        yield from _below(model, "")
        return
    annotation = model.model_fields[start].annotation
    prefix = "" if start == "usage" else f"{start}[]" if start in _LISTS else start
    inner = list(_models(annotation))
    for one in inner:
        yield from _below(one, f"{prefix}." if prefix else "")
    if not inner:
        yield prefix


def _below(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = list(_models(field.annotation))
        path = f"{prefix}{name}{'[]' if _is_list(field.annotation) else ''}"
        for one in inner:
            yield from _below(one, f"{path}.")
        if not inner:
            yield path


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _is_list(annotation: Any) -> bool:
    return getattr(annotation, "__origin__", None) is list or any(map(_is_list, get_args(annotation)))
