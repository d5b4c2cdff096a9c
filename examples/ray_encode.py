"""Encode a column of any size with Ray Data: python examples/ray_encode.py IN.parquet OUT [FOLDER] [WORKERS]

Every worker is an actor that reads the model once; one that dies is started again, and its batches are made again.
The sentences are the column `sentence`; OUT is a folder of parquet files with a column `encoding` beside.
"""

from __future__ import annotations

import sys

import ray

from spinn_tensor import BatchEncoder

if __name__ == "__main__":
    source, output, *more = sys.argv[1:]
    folder, n_workers = (more[0] if more else "packaged"), int(more[1]) if more[1:] else 2
    rows = ray.data.read_parquet(source)
    encoded = rows.map_batches(
        BatchEncoder,
        fn_constructor_args=(folder,),
        concurrency=n_workers,
        batch_size=512,
        num_cpus=0.5,  # of Ray's accounts: two whole ones of a machine of two leave none to read with, and it waits
    )
    encoded.write_parquet(output)
