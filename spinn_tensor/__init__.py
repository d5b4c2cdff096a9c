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

`__init__.pyi` has the names and the modules they come from. A module is loaded when its name is first used, so
that what needs no torch (`spinn_tensor.data_prep`, `spinn_tensor.export.predictor`) does not load it.
"""

from importlib import metadata as _metadata

import lazy_loader as _lazy_loader

__getattr__, _, _names = _lazy_loader.attach_stub(__name__, __file__)
__all__ = [name for name in _names if name != "SpinnTransformer"]  # which scikit-learn may be missing for


def __dir__() -> list[str]:
    return list(__all__)


try:
    __version__ = _metadata.version("spinn_tensor")
except _metadata.PackageNotFoundError:  # a checkout on the path that nobody installed
    __version__ = "unknown"
