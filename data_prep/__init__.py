"""Parses, corpora and batches as NumPy arrays.

A corpus is read in the format of its lines (`corpora`), its words are numbered (`vocabulary`, `vectors`), and
all its sentences are laid one after another in a few arrays (`columns`), which can be kept (`corpora.store`) and of
which a batch (`batching`) is an indexing. The same sentences can be given trees that need no parser (`branching`),
trees are measured against others (`brackets`), and `statistics` says what a corpus is like. Files are read by the line
and written whole (`files`, `folders`); whatever is wrong with the input is a `DataError` that names the place.
"""

from spinn_tensor.data_prep.batching import epoch_batches as epoch_batches
from spinn_tensor.data_prep.batching import shares as shares
from spinn_tensor.data_prep.brackets import BracketScores as BracketScores
from spinn_tensor.data_prep.brackets import ParseScores as ParseScores
from spinn_tensor.data_prep.brackets import Spans as Spans
from spinn_tensor.data_prep.brackets import average_depth as average_depth
from spinn_tensor.data_prep.brackets import bracket_scores as bracket_scores
from spinn_tensor.data_prep.brackets import bracket_spans as bracket_spans
from spinn_tensor.data_prep.brackets import score_parses as score_parses
from spinn_tensor.data_prep.brackets import self_f1 as self_f1
from spinn_tensor.data_prep.brackets import transition_accuracy as transition_accuracy
from spinn_tensor.data_prep.branching import BRANCHINGS as BRANCHINGS
from spinn_tensor.data_prep.branching import FINAL_MARKS as FINAL_MARKS
from spinn_tensor.data_prep.branching import baseline_transitions as baseline_transitions
from spinn_tensor.data_prep.branching import branched as branched
from spinn_tensor.data_prep.branching import branching_transitions as branching_transitions
from spinn_tensor.data_prep.branching import right_period_transitions as right_period_transitions
from spinn_tensor.data_prep.branching import with_branching as with_branching
from spinn_tensor.data_prep.columns import NO_LABEL as NO_LABEL
from spinn_tensor.data_prep.columns import Corpus as Corpus
from spinn_tensor.data_prep.columns import SentenceColumns as SentenceColumns
from spinn_tensor.data_prep.columns import check_columns as check_columns
from spinn_tensor.data_prep.columns import concatenate as concatenate
from spinn_tensor.data_prep.columns import lengths as lengths
from spinn_tensor.data_prep.columns import n_sentences as n_sentences
from spinn_tensor.data_prep.columns import node_offsets as node_offsets
from spinn_tensor.data_prep.columns import select as select
from spinn_tensor.data_prep.columns import sentence_columns as sentence_columns
from spinn_tensor.data_prep.columns import take as take
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
from spinn_tensor.data_prep.errors import DataError as DataError
from spinn_tensor.data_prep.errors import DataWarning as DataWarning
from spinn_tensor.data_prep.files import Skipped as Skipped
from spinn_tensor.data_prep.files import atomic_write as atomic_write
from spinn_tensor.data_prep.files import open_text as open_text
from spinn_tensor.data_prep.limits import DEFAULT_LIMITS as DEFAULT_LIMITS
from spinn_tensor.data_prep.limits import Limits as Limits
from spinn_tensor.data_prep.token_rules import Rules as Rules
from spinn_tensor.data_prep.token_rules import read_rules as read_rules
from spinn_tensor.data_prep.tokenizer import Tokenizer as Tokenizer
from spinn_tensor.data_prep.trees import PADDING as PADDING
from spinn_tensor.data_prep.trees import REDUCE as REDUCE
from spinn_tensor.data_prep.trees import SHIFT as SHIFT
from spinn_tensor.data_prep.trees import Tree as Tree
from spinn_tensor.data_prep.trees import check_all_transitions as check_all_transitions
from spinn_tensor.data_prep.trees import check_transitions as check_transitions
from spinn_tensor.data_prep.trees import format_binary as format_binary
from spinn_tensor.data_prep.trees import format_close_bracket as format_close_bracket
from spinn_tensor.data_prep.trees import format_labelled as format_labelled
from spinn_tensor.data_prep.trees import format_transitions as format_transitions
from spinn_tensor.data_prep.trees import parse_binary as parse_binary
from spinn_tensor.data_prep.trees import parse_close_bracket as parse_close_bracket
from spinn_tensor.data_prep.trees import parse_labelled as parse_labelled
from spinn_tensor.data_prep.trees import parse_transitions as parse_transitions
from spinn_tensor.data_prep.trees import right_branching as right_branching
from spinn_tensor.data_prep.vectors import WordVectors as WordVectors
from spinn_tensor.data_prep.vectors import read_vectors as read_vectors
from spinn_tensor.data_prep.vectors import save_vectors as save_vectors
from spinn_tensor.data_prep.vocabulary import Vocabulary as Vocabulary
