"""Corpora: what is in a line (`formats`), files to columns (`read`), and columns kept (`store`).

`config` says which examples, `sources` which files these are, and `splits` reads them all, from files or a store, which
`preparation` makes. `download` fetches what others publish, `generated` makes corpora that need no files.
"""

from spinn_tensor.data_prep.corpora.formats import Example as Example
from spinn_tensor.data_prep.corpora.formats import LabelNames as LabelNames
from spinn_tensor.data_prep.corpora.formats import ListOpsFormat as ListOpsFormat
from spinn_tensor.data_prep.corpora.formats import PairFields as PairFields
from spinn_tensor.data_prep.corpora.formats import PairFormat as PairFormat
from spinn_tensor.data_prep.corpora.formats import SentenceFormat as SentenceFormat
from spinn_tensor.data_prep.corpora.formats import SstFormat as SstFormat
from spinn_tensor.data_prep.corpora.formats import TreebankFormat as TreebankFormat
from spinn_tensor.data_prep.corpora.read import corpus_of as corpus_of
from spinn_tensor.data_prep.corpora.read import read_examples_as_columns as read_examples_as_columns
from spinn_tensor.data_prep.corpora.read import read_line_examples as read_line_examples
from spinn_tensor.data_prep.corpora.store import PreparedCorpus as PreparedCorpus
from spinn_tensor.data_prep.corpora.store import read_store as read_store
from spinn_tensor.data_prep.corpora.store import write_store as write_store
