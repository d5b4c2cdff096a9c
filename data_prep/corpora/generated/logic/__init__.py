"""The embedded corpus: generated logical inference in SNLI's jsonl schema, with gold binary parses.

`grammar` holds the sentences and their words, `semantics` computes the label of a pair by checking every model
of a small finite domain, `sampling` draws and changes sentences, `corpus` makes the balanced splits and writes them.
"""

from spinn_tensor.data_prep.corpora.generated.logic.corpus import LABELS as LABELS
from spinn_tensor.data_prep.corpora.generated.logic.corpus import SPLITS as SPLITS
from spinn_tensor.data_prep.corpora.generated.logic.corpus import VERSION as VERSION
from spinn_tensor.data_prep.corpora.generated.logic.corpus import LogicConfig as LogicConfig
from spinn_tensor.data_prep.corpora.generated.logic.corpus import generate as generate
from spinn_tensor.data_prep.corpora.generated.logic.corpus import line as line
