"""Parses, corpora and batches as NumPy arrays.

A corpus is read into trees (`trees`, `snli`, `sst`), its words are numbered (`vocabulary`, `vectors`), and
all its sentences are laid one after another in a few arrays (`columns`), of which a batch (`batching`) is an
indexing. Files are read by the line and written whole (`files`); whatever is wrong with the input is a
`DataError` that names the place.
"""

from data_prep.batching import epoch_batches as epoch_batches
from data_prep.columns import NO_LABEL as NO_LABEL
from data_prep.columns import LabelledColumns as LabelledColumns
from data_prep.columns import PairColumns as PairColumns
from data_prep.columns import SentenceColumns as SentenceColumns
from data_prep.columns import check_columns as check_columns
from data_prep.columns import concatenate as concatenate
from data_prep.columns import lengths as lengths
from data_prep.columns import n_sentences as n_sentences
from data_prep.columns import node_offsets as node_offsets
from data_prep.columns import select as select
from data_prep.columns import sentence_columns as sentence_columns
from data_prep.columns import take as take
from data_prep.errors import DataError as DataError
from data_prep.files import Skipped as Skipped
from data_prep.files import atomic_write as atomic_write
from data_prep.files import open_text as open_text
from data_prep.files import read_examples as read_examples
from data_prep.snli import PairExample as PairExample
from data_prep.snli import pair_columns as pair_columns
from data_prep.snli import pair_columns_from_examples as pair_columns_from_examples
from data_prep.snli import read_pairs as read_pairs
from data_prep.snli import to_dataset as to_dataset
from data_prep.snli import token_counts as token_counts
from data_prep.sst import labelled_columns as labelled_columns
from data_prep.sst import read_trees as read_trees
from data_prep.trees import PADDING as PADDING
from data_prep.trees import REDUCE as REDUCE
from data_prep.trees import SHIFT as SHIFT
from data_prep.trees import Tree as Tree
from data_prep.trees import check_all_transitions as check_all_transitions
from data_prep.trees import check_transitions as check_transitions
from data_prep.trees import format_binary as format_binary
from data_prep.trees import format_close_bracket as format_close_bracket
from data_prep.trees import format_labelled as format_labelled
from data_prep.trees import format_transitions as format_transitions
from data_prep.trees import parse_binary as parse_binary
from data_prep.trees import parse_close_bracket as parse_close_bracket
from data_prep.trees import parse_labelled as parse_labelled
from data_prep.trees import parse_transitions as parse_transitions
from data_prep.vectors import read_vectors as read_vectors
from data_prep.vocabulary import Vocabulary as Vocabulary
