"""Encode, compare and parse sentences: python examples/encode.py [FOLDER], without one by the package's parser."""

from __future__ import annotations

import sys

from spinn_tensor import Pipeline

SENTENCES = ["A man plays the guitar.", "Someone makes music.", "The dog sleeps on the sofa."]

pipeline = Pipeline.from_pretrained(*sys.argv[1:2])
vectors = pipeline.encode(SENTENCES, normalize_embeddings=True)  # (3, H) float32
print(vectors.shape, pipeline.similarity(vectors, vectors).round(2), sep="\n")
for tree in pipeline.parse(SENTENCES, format="penn"):
    print(tree)
