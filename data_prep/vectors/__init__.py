"""Word vectors of a vocabulary, from files far larger than it.

`read` reads each form of file and keeps the words that `words` looks for, which also says what becomes of a word that
the file lacks.
"""

from spinn_tensor.data_prep.vectors.read import read_vectors as read_vectors
from spinn_tensor.data_prep.vectors.read import save_vectors as save_vectors
from spinn_tensor.data_prep.vectors.words import DRAWN as DRAWN
from spinn_tensor.data_prep.vectors.words import EXACT as EXACT
from spinn_tensor.data_prep.vectors.words import LOWER as LOWER
from spinn_tensor.data_prep.vectors.words import PADDING as PADDING
from spinn_tensor.data_prep.vectors.words import UNESCAPED as UNESCAPED
from spinn_tensor.data_prep.vectors.words import UNESCAPED_LOWER as UNESCAPED_LOWER
from spinn_tensor.data_prep.vectors.words import WordVectors as WordVectors
