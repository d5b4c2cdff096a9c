"""A server to compare `spinn serve` with: LitServe, with its batching.

python -m benchmarks.serve_litserve FOLDER PORT
"""

import sys
from typing import Any

import litserve

from spinn_tensor.export.predictor import OnnxPredictor

MOST, WAIT = 64, 0.002  # of its batches: requests, and seconds that the first one waits for others


class Api(litserve.LitAPI):  # type: ignore[misc, unused-ignore]
    """Encode sentences."""

    def setup(self, device: str) -> None:
        """Read the model."""
        self.predictor = OnnxPredictor(sys.argv[1], "cpu", threads=1)

    def decode_request(self, request):  # no annotation: LitServe would read it
        """Return the sentence of a request."""
        return str(request["inputs"])

    def batch(self, inputs: list[str]) -> list[str]:
        """Leave sentences as they are."""
        return inputs

    def predict(self, inputs: list[str]) -> Any:
        """Encode them."""
        return self.predictor.encode(inputs, normalize_embeddings=True)

    def unbatch(self, output: Any) -> list[Any]:
        """Return a vector for each."""
        return list(output)

    def encode_response(self, output: Any) -> list[list[float]]:
        """Return the vector of one, as text-embeddings-inference does."""
        return [output.tolist()]


if __name__ == "__main__":
    made = Api(max_batch_size=MOST, batch_timeout=WAIT, api_path="/embed")
    server = litserve.LitServer(made, accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[2]), log_level="error", generate_client_file=False)
