"""The runtime: one call of the network for each batch."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from network import load


class Network(MLModel):
    """Both models; the settings' name says which."""

    async def load(self) -> bool:
        """Load the weights."""
        self._predict = load(self.name)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Predict a batch."""
        logits = self._predict(NumpyCodec.decode_input(payload.inputs[0]))
        output = NumpyCodec.encode_output(name="logits", payload=logits)
        return InferenceResponse(model_name=self.name, outputs=[output])
