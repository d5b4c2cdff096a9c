"""Any number of sentences to vectors, at a constant memory: blocks of lines, in batches of like length, into shards."""

from spinn_tensor.encoding.run import Reading as Reading
from spinn_tensor.encoding.run import encode_to_array as encode_to_array
from spinn_tensor.encoding.run import encode_to_shards as encode_to_shards
from spinn_tensor.encoding.shards import EncodedBlock as EncodedBlock
from spinn_tensor.encoding.shards import EncodingOptions as EncodingOptions
from spinn_tensor.encoding.shards import Part as Part
from spinn_tensor.encoding.shards import read_manifest as read_manifest
from spinn_tensor.encoding.shards import read_shards as read_shards
from spinn_tensor.inference import encode_columns as encode_columns
