"""The routes of the Open Inference Protocol, version 2, over HTTP."""

from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Path, Request, Response

from serve import schemas
from serve.models import Served
from serve.refusals import Refused
from serve.service import Service

NAMED = "/v2/models/{name}"
VERSIONED = NAMED + "/versions/{version}"
PLATFORM = "openvino_onnx"
NOT_FOUND: dict[int | str, dict[str, Any]] = {
    404: {"model": schemas.Problem, "description": "No model of this name and version"}
}
NOT_READY: dict[int | str, dict[str, Any]] = {503: {"model": schemas.Ready, "description": "Not ready"}}
Name = Annotated[str, Path(max_length=64)]


def add_routes(
    app: FastAPI, keyed: APIRouter, service: Service, InferRequest: Any, problems: dict[int | str, Any]
) -> None:
    """Add the routes to the application, and to the router of those that want a key."""

    def known(name: str, version: str | None) -> Served:
        served = service.served
        if name != served.name or version not in (None, served.version):
            asked = name if version is None else f"{name}, version {version}"
            message = f"no model {asked[:140]!r}; this is {served.name!r}, version {served.version!r}"
            raise Refused(404, message, "unknown_model")
        return served

    @app.get("/v2", tags=["Open Inference Protocol"])
    async def server() -> schemas.ServerMetadata:
        """Describe the service."""
        return schemas.ServerMetadata(name="tweets", version=app.version, extensions=[])

    @app.get("/v2/health/live", tags=["Open Inference Protocol"])
    async def live() -> schemas.Live:
        """Tell that the process answers."""
        return schemas.Live(live=True)

    @app.get("/v2/health/ready", tags=["Open Inference Protocol"], responses=NOT_READY)
    async def ready(response: Response) -> schemas.Ready:
        """Tell whether requests should be sent here; not while the service drains."""
        response.status_code = 200 if service.is_ready else 503
        return schemas.Ready(ready=service.is_ready)

    @app.get(NAMED, tags=["Open Inference Protocol"], responses=NOT_FOUND)
    @app.get(VERSIONED, tags=["Open Inference Protocol"], responses=NOT_FOUND)
    async def metadata(name: Name, version: Name | None = None) -> schemas.ModelMetadata:
        """Describe the model."""
        served = known(name, version)
        tensor = schemas.TensorMetadata
        return schemas.ModelMetadata(
            name=served.name,
            versions=[served.version],
            platform=PLATFORM,
            inputs=[tensor(name="text", datatype="BYTES", shape=[-1])],
            outputs=[
                tensor(name="label", datatype="BYTES", shape=[-1]),
                tensor(name="probabilities", datatype="FP32", shape=[-1, len(served.labels)]),
            ],
        )

    @app.get(NAMED + "/ready", tags=["Open Inference Protocol"], responses=NOT_FOUND | NOT_READY)
    @app.get(VERSIONED + "/ready", tags=["Open Inference Protocol"], responses=NOT_FOUND | NOT_READY)
    async def model_ready(response: Response, name: Name, version: Name | None = None) -> schemas.ModelReady:
        """Tell whether the model answers."""
        known(name, version)
        response.status_code = 200 if service.is_ready else 503
        return schemas.ModelReady(name=name, ready=service.is_ready)

    errors = problems | NOT_FOUND

    @keyed.post(NAMED + "/infer", tags=["Open Inference Protocol"], responses=errors)
    @keyed.post(VERSIONED + "/infer", tags=["Open Inference Protocol"], responses=errors)
    async def infer(
        request: Request, body: InferRequest, name: Name, version: Name | None = None
    ) -> schemas.InferAnswer:
        """Label a tensor of tweets; without `outputs`, both are returned."""
        known(name, version)
        texts = body.inputs[0].data
        if body.inputs[0].shape != [len(texts)]:
            message = f"body.inputs.0.shape: is {body.inputs[0].shape}, and data has {len(texts)} texts"
            raise Refused(422, message, "shape")
        served, probabilities = await service.predict(request, texts)
        labels = [served.labels[number] for number in probabilities.argmax(1)]
        outputs = {
            "label": schemas.InferOutput(name="label", datatype="BYTES", shape=[len(texts)], data=labels),
            "probabilities": schemas.InferOutput(
                name="probabilities",
                datatype="FP32",
                shape=list(probabilities.shape),
                data=probabilities.ravel().round(6).tolist(),
            ),
        }
        wanted = [output.name for output in body.outputs] or list(outputs)
        return schemas.InferAnswer(
            model_name=served.name,
            model_version=served.version,
            id=body.id or request.scope["state"]["request_id"],
            outputs=[outputs[output] for output in dict.fromkeys(wanted)],
        )
