"""A server to compare `spinn serve` with: the smallest handler of FastAPI, a sentence a call.

python -m benchmarks.serve_fastapi FOLDER PORT
"""

import sys

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from spinn_tensor.export.predictor import OnnxPredictor


class Request(BaseModel):  # type: ignore[misc, unused-ignore]
    """Hold a sentence."""

    inputs: str


app = FastAPI()
predictor = OnnxPredictor(sys.argv[1], "cpu", threads=1)


@app.post("/embed")
def embed(request: Request) -> list[list[float]]:
    """Encode it."""
    vectors: list[list[float]] = predictor.encode([request.inputs], normalize_embeddings=True).tolist()
    return vectors


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[2]), log_level="error")
