"""spinn_tensor: SPINN (Bowman et al., ACL 2016) with its stack machine compiled into index tensors.

Sizes, everywhere in this package:

    B   sentences (lanes) of a batch           H   hidden size; a state is [h; c], 2H wide
    N   tokens of a sentence                   K   size of the tracker's state
    T   = 2N - 1 transitions of a sentence     S   steps of a schedule
    L   tokens of a batch, sum of N            W   slots of a step
    M   transitions of a batch, 2L - B         R   rows of states: null, leaves, compositions
    C   compositions of a schedule             A   entries of a schedule: tracker steps of all lanes
    V   words of the vocabulary                P   lanes: B, or B times the parses of each sentence

`Pipeline` takes sentences and gives labels, encodings and trees; `PairClassifier.from_pretrained` and `load_checkpoint`
give back what `spinn train` saved. Below that, a `SentenceEncoder` turns a `SentenceBatch` into encodings, and
`data_prep` makes the columns and tables that a batch is made of. `SpinnTransformer` needs scikit-learn.
"""

from importlib import metadata as _metadata
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from data_prep.strings import Prediction as Prediction
from spinn_tensor.batch import LabelledBatch as LabelledBatch
from spinn_tensor.batch import PairBatch as PairBatch
from spinn_tensor.batch import SentenceBatch as SentenceBatch
from spinn_tensor.batch import collate as collate
from spinn_tensor.batch import make_labelled_batch as make_labelled_batch
from spinn_tensor.batch import make_pair_batch as make_pair_batch
from spinn_tensor.batch import make_sentence_batch as make_sentence_batch
from spinn_tensor.bundles import ComposeWeights as ComposeWeights
from spinn_tensor.bundles import ForestTables as ForestTables
from spinn_tensor.bundles import LaneTables as LaneTables
from spinn_tensor.bundles import OwnTables as OwnTables
from spinn_tensor.bundles import TrackerWeights as TrackerWeights
from spinn_tensor.bundles import TransitionWeights as TransitionWeights
from spinn_tensor.bundles import move as move
from spinn_tensor.bundles import to_torch as to_torch
from spinn_tensor.classifiers import PairClassifier as PairClassifier
from spinn_tensor.classifiers import SentenceClassifier as SentenceClassifier
from spinn_tensor.classifiers import SentenceParser as SentenceParser
from spinn_tensor.classifiers import build_model as build_model
from spinn_tensor.config import ClassifierConfig as ClassifierConfig
from spinn_tensor.config import ConfigError as ConfigError
from spinn_tensor.config import EncoderConfig as EncoderConfig
from spinn_tensor.config import ModelConfig as ModelConfig
from spinn_tensor.encoder import SentenceEncoder as SentenceEncoder
from spinn_tensor.machine import Parse as Parse
from spinn_tensor.machine import ScoreError as ScoreError
from spinn_tensor.machine import forcing_noise as forcing_noise
from spinn_tensor.machine import logistic_noise as logistic_noise
from spinn_tensor.machine import run_forest as run_forest
from spinn_tensor.machine import run_given as run_given
from spinn_tensor.machine import run_own as run_own
from spinn_tensor.machine import run_taught as run_taught
from spinn_tensor.pipeline import Pipeline as Pipeline
from spinn_tensor.training.checkpoint import CheckpointError as CheckpointError
from spinn_tensor.training.checkpoint import Provenance as Provenance
from spinn_tensor.training.checkpoint import load_checkpoint as load_checkpoint
from spinn_tensor.training.checkpoint import save_checkpoint as save_checkpoint

if _TYPE_CHECKING:
    from spinn_tensor.transformer import SpinnTransformer as SpinnTransformer

try:
    __version__ = _metadata.version("spinn_tensor")
except _metadata.PackageNotFoundError:  # a checkout on the path that nobody installed
    __version__ = "unknown"


def __getattr__(name: str) -> _Any:
    if name == "SpinnTransformer":  # the only public name that needs scikit-learn, and loads it
        try:
            from spinn_tensor.transformer import SpinnTransformer
        except ImportError as error:
            raise ImportError("SpinnTransformer needs scikit-learn: pip install scikit-learn") from error
        return SpinnTransformer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
