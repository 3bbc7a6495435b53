"""The release as a KServe model: V1 predict and V2 infer.

V1: {"instances": ["question", {"prompt" | "messages", …}], "parameters": {"max_tokens": …}}
V2: one input "prompt" (BYTES, shape [N]), the same parameters; outputs "text", "finish_reason" (BYTES, [N]) and
    "completion_tokens" (INT32, [N]); all of them, or those that the request names.
"""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

from kserve import InferInput, InferOutput, InferRequest, InferResponse, Model
from pydantic import ValidationError

from serving.errors import RequestError, describe_validation
from serving.generation import Answer, Generator, Plan
from serving.openai import encodable
from serving.routes import GenerateRequest, generate_reply

_MOST_PROMPTS = 64


class ReleaseModel(Model):
    """Serves one generator under KServe's protocols."""

    def __init__(self, generator: Generator):
        super().__init__(generator.name)
        self._generator = generator
        self.ready = True

    async def healthy(self) -> bool:
        """False once the engine has failed, so that readiness probes take the pod out of traffic."""
        return self.ready and self._generator.engine.failure is None

    def stop(self) -> None:
        """Free the engine; KServe calls this after the last request."""
        self.ready = False
        self._generator.engine.close()

    def get_input_types(self) -> list[dict[str, Any]]:
        return [{"name": "prompt", "datatype": "BYTES", "shape": [-1]}]

    def get_output_types(self) -> list[dict[str, Any]]:
        return [
            {"name": "text", "datatype": "BYTES", "shape": [-1]},
            {"name": "finish_reason", "datatype": "BYTES", "shape": [-1]},
            {"name": "completion_tokens", "datatype": "INT32", "shape": [-1]},
        ]

    def validate(self, payload: Any) -> Any:
        """KServe's own checks assume an object; `predict` makes them all."""
        return payload

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        """Answer every prompt of a request. Raises RequestError."""
        if isinstance(payload, InferRequest):
            plans = await self._v2_plans(payload)
            return self._v2_response(payload, await self._answers(plans))
        plans = await self._v1_plans(payload)
        answers = await self._answers(plans)
        return {
            "predictions": [
                generate_reply(self._generator, plan, answer) for plan, answer in zip(plans, answers, strict=True)
            ]
        }

    async def explain(self, payload: Any, headers: Any = None) -> NoReturn:
        raise _refusal("a language model has no explainer; use :predict")

    async def _answers(self, plans: list[Plan]) -> list[Answer]:
        """All answers, computed together; when one fails the others are cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._generator.answer(plan)) for plan in plans]
        except* RequestError as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _v1_plans(self, payload: Any) -> list[Plan]:
        if isinstance(payload, bytes):
            raise _refusal("send the body as JSON, with the header Content-Type: application/json")
        if not isinstance(payload, dict) or not isinstance(payload.get("instances"), list):
            raise _refusal('the body must be a JSON object with a list "instances"')
        parameters = payload.get("parameters", {})
        if not isinstance(parameters, dict) or set(payload) - {"instances", "parameters"}:
            raise _refusal('beside "instances" there may only be an object "parameters"')
        instances = [{"prompt": item} if isinstance(item, str) else item for item in payload["instances"]]
        return await self._plans(instances, parameters)

    async def _v2_plans(self, request: InferRequest) -> list[Plan]:
        names = [item.name for item in request.inputs]
        if names != ["prompt"] or request.inputs[0].datatype != "BYTES" or len(request.inputs[0].shape) != 1:
            raise _refusal(f'the inputs must be one "prompt" of datatype BYTES and shape [N], not {names}')
        self._check_outputs(request)
        _check_id(request.id or "")
        prompts = [_text(item) for item in _data(request.inputs[0])]
        if len(prompts) != request.inputs[0].shape[0]:
            raise _refusal(f'"prompt" has shape {request.inputs[0].shape} and {len(prompts)} elements')
        parameters = {name: value for name, value in (request.parameters or {}).items() if name != "binary_data_output"}
        return await self._plans([{"prompt": prompt} for prompt in prompts], parameters)

    async def _plans(self, instances: list[Any], parameters: dict[str, Any]) -> list[Plan]:
        # More than find a place in an idle server would be told to try again later, for ever.
        most = min(_MOST_PROMPTS, self._generator.admission.capacity)
        if not 1 <= len(instances) <= most:
            raise _refusal(f"a request holds 1 to {most} prompts, not {len(instances)}")
        plans: list[Plan] = []
        for index, instance in enumerate(instances):
            fields = parameters | instance if isinstance(instance, dict) else instance
            try:
                plans.append(await GenerateRequest.model_validate(fields).plan(self._generator))
            except ValidationError as error:
                details = [{**item, "loc": ("body", *item["loc"])} for item in error.errors(include_input=False)]
                raise _refusal(f"prompt {index}: {describe_validation(details)[0]}") from error
        return plans

    def _check_outputs(self, request: InferRequest) -> None:
        own = [output["name"] for output in self.get_output_types()]
        unknown = [output.name for output in request.request_outputs or [] if output.name not in own]
        if unknown:
            raise _refusal(f"there are no outputs {', '.join(unknown)}; ask for {', '.join(own)}, or leave outputs out")

    def _v2_response(self, request: InferRequest, answers: list[Answer]) -> InferResponse:
        shape = [len(answers)]
        outputs = [
            InferOutput("text", shape, "BYTES", data=[answer.text for answer in answers]),
            InferOutput("finish_reason", shape, "BYTES", data=[answer.finish_reason for answer in answers]),
            InferOutput("completion_tokens", shape, "INT32", data=[len(answer.token_ids) for answer in answers]),
        ]
        asked = {output.name for output in request.request_outputs or outputs}
        return InferResponse(
            response_id=request.id or "",
            model_name=self.name,
            infer_outputs=[output for output in outputs if output.name in asked],
            parameters={"release": self._generator.release.digest},
        )


def _refusal(message: str) -> RequestError:
    return RequestError(400, message)


def _check_id(text: str) -> None:
    """The reply gives the id again, so it must be text."""
    try:
        encodable(text)
    except ValueError as error:
        raise _refusal(f"id {error}") from error


def _data(tensor: InferInput) -> list[Any]:
    """The elements of a tensor, whether they came as JSON or as bytes."""
    data: Any = tensor.data
    return list(tensor.as_numpy() if data is None else data)


def _text(item: Any) -> str:
    if isinstance(item, bytes):
        try:
            return item.decode()
        except UnicodeDecodeError as error:
            raise _refusal(f"a prompt is not UTF-8: {error}") from error
    if not isinstance(item, str):
        raise _refusal(f"a prompt is a string, not {type(item).__name__}")
    return item
