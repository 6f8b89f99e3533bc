"""What requests and answers look like."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from serve.settings import ServiceSettings
from tweets.text.blank import is_blank


class Strict(BaseModel):
    """A part of a request: unknown names are errors, and a number is not a text."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _not_blank(text: str) -> str:
    if is_blank(text):
        raise ValueError("blank: needs at least one character that is not white space")
    return text


def _whole(value: Any) -> Any:
    """Read 2.0 as JSON means it, an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Size = Annotated[int, BeforeValidator(_whole), Field(ge=1)]


def _kind(value: Any) -> str:
    return "list" if isinstance(value, list) else "text"


class InferWanted(Strict):
    """The name of an output that is asked for."""

    name: Literal["label", "probabilities"]
    parameters: dict[str, Any] = {}


def requests(settings: ServiceSettings) -> tuple[type[BaseModel], type[BaseModel], type[BaseModel]]:
    """Return the bodies of /predict, of /feedback and of an inference request, within the limits of the settings."""
    size = Field(min_length=1, max_length=settings.max_text_chars, json_schema_extra={"pattern": r"\S"})
    Text = Annotated[str, size, AfterValidator(_not_blank)]
    Texts = Annotated[list[Text], Field(min_length=1, max_length=settings.max_texts)]

    class PredictRequest(Strict):
        """One tweet, or a list of tweets."""

        text: Annotated[Annotated[Text, Tag("text")] | Annotated[Texts, Tag("list")], Discriminator(_kind)]

        model_config = ConfigDict(
            json_schema_extra={"examples": [{"text": "What a day!"}, {"text": ["What a day!", "Worst flight ever"]}]}
        )

    class FeedbackRequest(Strict):
        """The true labels of what a request asked, in the order of its texts; null for one that is not known."""

        request_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]  # as X-Request-ID told it
        labels: Annotated[
            list[Annotated[str, Field(max_length=200)] | None], Field(min_length=1, max_length=settings.max_texts)
        ]

    class InferInput(Strict):
        """The tweets, as a tensor of N strings."""

        name: Literal["text"]
        shape: Annotated[list[Size], Field(min_length=1, max_length=1)]
        datatype: Literal["BYTES"]
        data: Texts
        parameters: dict[str, Any] = {}

    class InferRequest(Strict):
        """An inference request of the Open Inference Protocol."""

        id: Annotated[str, Field(max_length=64)] = ""
        inputs: Annotated[list[InferInput], Field(min_length=1, max_length=1)]
        outputs: Annotated[list[InferWanted], Field(max_length=2)] = []
        parameters: dict[str, Any] = {}

    return PredictRequest, FeedbackRequest, InferRequest


class Prediction(BaseModel):
    """The label of a tweet, and the probability of each label."""

    label: str
    probabilities: dict[str, float]


class PredictAnswer(BaseModel):
    """A prediction for each tweet, in their order."""

    model: str
    version: str
    predictions: list[Prediction]


class Lock(BaseModel):
    """The model's hash, as DVC computes it, and whether dvc.lock has it: null where the service sees no dvc.lock."""

    md5: str
    is_in_dvc_lock: bool | None


class ModelAnswer(BaseModel):
    """What exactly is being served."""

    name: str
    version: str
    commit: str | None
    lock: Lock
    labels: list[str]
    max_tokens: int
    card: dict[str, Any]


class Problem(BaseModel):
    """Why there is no answer, in one line."""

    error: str


class Live(BaseModel):
    """The process answers."""

    live: bool


class Ready(BaseModel):
    """Whether requests should be sent here."""

    ready: bool


class ModelReady(Ready):
    """Whether the model answers."""

    name: str


class ServerMetadata(BaseModel):
    """The service, as the Open Inference Protocol describes one."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    """An input or output of the model; -1 stands for any number."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """The model, as the Open Inference Protocol describes one."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class InferOutput(BaseModel):
    """A tensor of the answer, its data flat, row after row."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any]


class InferAnswer(BaseModel):
    """An inference response of the Open Inference Protocol."""

    model_name: str
    model_version: str
    id: str
    outputs: list[InferOutput]
