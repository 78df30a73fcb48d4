"""OpenAI's endpoints without a limit of the output: embeddings, images and transcriptions."""

from collections.abc import Mapping
from typing import Any

from atlas_sdk.integrations.metering.endpoint import Plan, Tally, answered_model, text_bytes
from atlas_sdk.integrations.metering.options import positive
from atlas_sdk.integrations.usage import as_data

__all__ = ["Embeddings", "Images", "Transcriptions"]

#: Tokens to reserve for an image. The largest of gpt-image-1 has 6,240, of high quality and 1,024 x 1,536 pixels.
_IMAGE_TOKENS = 8_192
#: Events of streams that have the final usage.
_ENDS = frozenset({"image_generation.completed", "image_edit.completed", "transcript.text.done"})


class _Unlimited:
    """The base of endpoints whose requests have no limit of the output."""

    provider = "openai"
    #: The key of `usage_fields.SHAPES`.
    shape: str

    def counter(self, body: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:  # noqa: ARG002  # of Endpoint
        """Return None: the provider does not count input tokens for these endpoints."""
        return None

    def limited(self, body: dict[str, Any], output: int) -> dict[str, Any]:  # noqa: ARG002  # of Endpoint
        """Return the request unchanged."""
        return body

    def answer(self, tally: Tally, answer: object) -> None:
        """Note an answer."""
        data = as_data(answer)
        tally.model = answered_model(data)
        if data.get("usage") is not None:
            tally.tell(self.shape, data["usage"], final=True, beside={"svg_usage": data.get("svg_usage")})

    def see(self, tally: Tally, event: Any) -> bool:
        """Note an event. The last one has the usage."""
        kind = getattr(event, "type", "")
        if kind.endswith(".delta"):
            tally.text(getattr(event, "delta", None))
        elif kind in _ENDS and getattr(event, "usage", None) is not None:
            tally.tell(self.shape, event.usage, final=True)
        return True


class Embeddings(_Unlimited):
    """The endpoint POST /embeddings, which has no output tokens."""

    shape = "openai.embeddings"
    needs_bound = False

    def plan(self, body: Mapping[str, Any], *, default_output: int) -> Plan:  # noqa: ARG002  # of Endpoint
        """Read a request."""
        return Plan(model=str(body.get("model", "")), output=0, least=0)


class Images(_Unlimited):
    """The endpoints POST /images/generations and /images/edits. Models before gpt-image-1 report no usage."""

    shape = "openai.images"

    def __init__(self, *, edits: bool) -> None:
        """Create the endpoint. `edits` says that the input has images, whose bytes do not bound their tokens."""
        self.needs_bound = edits

    def plan(self, body: Mapping[str, Any], *, default_output: int) -> Plan:
        """Read a request. It has no limit of the output, so the tokens of large images are reserved."""
        count = body.get("n")
        return Plan(
            model=str(body.get("model", "")),
            output=max(default_output, _IMAGE_TOKENS),
            answers=1 if count is None else positive("n", count),
            # A smaller grant cannot be sent to the provider.
            least=max(default_output, _IMAGE_TOKENS),
            hides=True,
            output_part="output_image",
            uses=frozenset({"output_image", *(["input_image"] if self.needs_bound else [])}),
        )


class Transcriptions(_Unlimited):
    """The endpoint POST /audio/transcriptions."""

    shape = "openai.audio"
    needs_bound = True

    def plan(self, body: Mapping[str, Any], *, default_output: int) -> Plan:
        """Read a request. It has no limit of the output, and the minutes of its audio are unknown."""
        return Plan(
            model=str(body.get("model", "")),
            output=default_output,
            least=default_output,
            uses=frozenset({"input_audio"}),
            timed=True,
        )

    def answer(self, tally: Tally, answer: object) -> None:
        """Note a transcription. Its plain formats (text, srt, vtt) are a str, and report no usage."""
        super().answer(tally, answer)
        if isinstance(answer, str):
            tally.text(answer)
        else:
            tally.seen = text_bytes(as_data(answer))
