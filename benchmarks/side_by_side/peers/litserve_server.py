"""LitServe with its own batching: 16 requests a batch, 20 ms to fill it."""

import base64
import os
import sys

import litserve
from pipeline import Painter

BATCH, WAIT_S = 16, 0.02


class Api(litserve.LitAPI):
    def setup(self, device):
        del device
        self.painter = Painter()

    def decode_request(self, request):
        return request

    def batch(self, inputs):
        return inputs

    def predict(self, inputs):
        return self.painter.paint(inputs)

    def unbatch(self, output):
        return output

    def encode_response(self, output):
        return {"png": base64.b64encode(output).decode()}


if __name__ == "__main__":
    api = Api(max_batch_size=BATCH, batch_timeout=WAIT_S, api_path="/generate")
    server = litserve.LitServer(
        api,
        accelerator="cpu",
        workers_per_device=int(os.environ.get("PROCESSES", "1")),
        timeout=600,
    )
    server.run(
        port=int(sys.argv[1]), host="127.0.0.1", log_level="error", generate_client_file=False
    )
