"""The gRPC port, asked by other people's clients as they come."""

import numpy as np
import tritonclient.grpc

from tests.conftest import Gateway


def test_triton_client(gateway: Gateway) -> None:
    """The reference client works as it comes: health, metadata, tensors both ways, errors."""
    with tritonclient.grpc.InferenceServerClient(gateway.ready["grpc"]) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("signs")
        assert client.is_model_ready("signs", "2")
        assert not client.is_model_ready("nothing")
        assert client.get_server_metadata().name == "snowgate"
        print(client.get_model_metadata("signs"))
        rows = np.arange(6, dtype=np.float32).reshape(2, 3)
        given = tritonclient.grpc.InferInput("x", [2, 3], "FP32")
        given.set_data_from_numpy(rows)
        result = client.infer("signs", [given], model_version="1", request_id="t")
        np.testing.assert_allclose(result.as_numpy("y"), [[3, -3], [12, -12]])
        print(result.get_response())
