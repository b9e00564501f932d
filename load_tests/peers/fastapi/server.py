"""The application, in the body format of the Open Inference Protocol so that all parse the same bytes."""

import numpy as np
from fastapi import FastAPI
from network import load
from pydantic import BaseModel

MODELS = {name: load(name) for name in ("mlp", "cnn")}
app = FastAPI()


class Tensor(BaseModel):
    """A named tensor, its data flat."""

    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class Call(BaseModel):
    """What is asked."""

    inputs: list[Tensor]


class Answer(BaseModel):
    """What is answered."""

    model_name: str
    outputs: list[Tensor]


@app.post("/v2/models/{model}/infer")
async def infer(model: str, call: Call) -> Answer:
    """Predict one request."""
    given = call.inputs[0]
    logits = MODELS[model](np.array(given.data, dtype=np.float32).reshape(given.shape))
    output = Tensor(name="logits", shape=list(logits.shape), datatype="FP32", data=logits.ravel().tolist())
    return Answer(model_name=model, outputs=[output])
