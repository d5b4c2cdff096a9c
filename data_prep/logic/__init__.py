"""The embedded corpus: generated logical inference in SNLI's jsonl schema, with gold binary parses.

`grammar` holds the sentences, `lexicon` their words, `semantics` computes the label of a pair by checking every model
of a small finite domain, `sampling` draws and changes sentences, `corpus` makes the balanced splits and writes them.
"""

from data_prep.logic.corpus import LABELS as LABELS
from data_prep.logic.corpus import SPLITS as SPLITS
from data_prep.logic.corpus import VERSION as VERSION
from data_prep.logic.corpus import LogicConfig as LogicConfig
from data_prep.logic.corpus import generate as generate
from data_prep.logic.corpus import write_corpus as write_corpus
