"""Raw sentences in; labels, probabilities, encodings and trees out: an exported ONNX model, without torch.

The same methods and results as `spinn_tensor.Pipeline` has for a checkpoint. A sentence is a string: a binary parse,
`( ( A dog ) barks )`, if it begins with "( ", else raw English text, which is tokenised as the model's words were.
What the model composes by depends on its tables:

    own              its own trees, whatever is given
    given, forest    those given, or those that are made:
        parser=OnnxPredictor(...)       another exported model makes them for text without a parse
        trees="left", "right", ...      such trees replace those given, too
        neither                         as the model was trained: its own --branching, else only parses are taken
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from spinn_tensor.data_prep.batching import epoch_batches
from spinn_tensor.data_prep.branching import BRANCHINGS
from spinn_tensor.data_prep.columns import (
    SentenceColumns,
    lengths,
    n_sentences,
    node_offsets,
    ragged_arange,
    take,
)
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.limits import DEFAULT_LIMITS, Limits
from spinn_tensor.data_prep.strings import (
    Prediction,
    Sentences,
    TreeMaker,
    binary_parses,
    joined,
    predictions,
    read_strings,
    require_parses,
    require_sides,
    under_trees,
)
from spinn_tensor.export.folder import (
    ARTEFACTS,
    FORMAT_VERSION,
    VERSION_KEY,
    ArtefactError,
    Exported,
    metadata_of,
    read_export,
)
from spinn_tensor.export.sentences import graph_inputs
from spinn_tensor.export.session import open_session

BATCH = 256  # sentences or pairs
TOKENS = 16_384  # of a batch, padding included: what bounds memory, since sentences may have any length


class OnnxPredictor:
    """An exported model on one provider, for sentences in any number and of any lengths; results keep their order.

    It keeps no state between calls, so threads may share it.
    """

    def __init__(
        self,
        folder: str
        | Path,  # of `spinn export`, of one of the onnx formats, or a model of a Triton repository
        provider: str = "auto",  # "cpu", "cuda", "tensorrt"; "auto": cuda where it is granted, else cpu
        threads: int | None = None,  # of the CPU; None = onnxruntime's choice
        *,
        trees: str | None = None,  # one of BRANCHINGS, see the top of this module
        parser: OnnxPredictor | None = None,  # makes trees for text without a parse
        max_words: int = DEFAULT_LIMITS.max_words,  # of a sentence; the model may take fewer
    ) -> None:
        """Raises ArtefactError for a folder that cannot be used, ProviderError for a provider that is not granted."""
        self.exported, self._tokenizer, path = read_export(folder)
        if not ARTEFACTS[self.exported.format].endswith(".onnx"):
            raise ArtefactError(f"{path}: a {self.exported.format} artefact, expected ONNX")
        self.branching = _branching(self.exported, trees, parser)
        self.parser = parser
        self.max_words = max_words
        self._session, self.provider = open_session(path, provider, threads)
        _check_metadata(path, self._session.get_modelmeta().custom_metadata_map, self.exported)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes; () for a model that only parses."""
        return tuple(self.exported.labels)

    def classify(
        self,
        premises: Iterable[str],  # n sentences, which need not be premises
        hypotheses: Iterable[str] | None = None,  # n, for a model of pairs
        *,
        batch_size: int = BATCH,  # sentences or pairs at most
    ) -> list[Prediction]:  # n
        """Labels and probabilities.

        Raises DataError naming the number of a sentence, counted from 0, that is empty, no text, a broken parse or
        longer than the model or `max_words` takes; TypeError where the model is not one of pairs, or of sentences.
        """
        task = self.exported.task
        require_sides(task, hypotheses is not None, f"model of task {task!r}")
        if hypotheses is None:
            sides = [self._composed(self._read(premises, "sentences"))]
        else:
            sides = self._pairs(premises, hypotheses)
        logits = np.empty((n_sentences(sides[0]), len(self.labels)), dtype=np.float32)
        for rows, (answer,) in self._answers(sides, ["logits"], batch_size):
            logits[rows] = answer
        return predictions(self.labels, _softmax(logits))

    def encode(self, sentences: Iterable[str]) -> np.ndarray:  # (n, H) float32
        """One vector a sentence. Raises DataError as `classify`."""
        columns = self._composed(self._read(sentences, "sentences"))
        encodings = np.empty((n_sentences(columns), self.exported.hidden_dim), dtype=np.float32)
        for rows, answer in self._of_sentences(columns, "encodings"):
            encodings[rows] = answer
        return encodings

    def parse(self, sentences: Iterable[str]) -> list[str]:  # n
        """The trees that the model composes the sentences by, as binary parses. Raises DataError as `classify`."""
        read = self._read(sentences, "sentences")
        columns = self._composed(read)
        if self.exported.tables == "own":
            columns = columns._replace(transitions=self._own_transitions(columns))
        return binary_parses(read, columns)

    def _pairs(self, premises: Iterable[str], hypotheses: Iterable[str]) -> list[SentenceColumns]:
        columns = self._composed(
            joined(self._read(premises, "premises"), self._read(hypotheses, "hypotheses"))
        )
        n_pairs = n_sentences(columns) // 2
        return [take(columns, np.arange(n_pairs)), take(columns, np.arange(n_pairs, 2 * n_pairs))]

    def _read(self, sentences: Iterable[str], name: str) -> Sentences:
        """Trees or words of the sentences, none too long. Raises DataError naming the sentence."""
        read = read_strings(sentences, name, self._tokenizer, Limits(max_words=self.max_words))
        limits = [self.exported.max_length, 0 if self.parser is None else self.parser.exported.max_length]
        longest = min(filter(None, limits), default=0)
        needs_parse = self.exported.tables != "own" and self.branching is None and self.parser is None
        for example, tree in enumerate(read.trees):
            if longest and tree.n_tokens > longest:
                reason = f"{tree.n_tokens} tokens; this model was exported for at most {longest}"
                raise DataError(reason, example=example, field=name)
        if needs_parse:
            require_parses(read, name)
        return read

    def _composed(self, read: Sentences) -> SentenceColumns:
        """The sentences under the trees that a model composes by which does not parse."""
        parser = None
        if self.parser is not None:
            parser = TreeMaker(self.parser._tokenizer.vocabulary, self.parser._own_transitions)
        return under_trees(read, self._tokenizer.vocabulary, self.branching, parser)

    def _own_transitions(self, columns: SentenceColumns) -> np.ndarray:  # (M,) int8, sentence after sentence
        """Those that the model chooses; the trees of the columns are not looked at."""
        transitions = np.empty_like(columns.transitions)
        starts, n_steps = node_offsets(columns), 2 * lengths(columns) - 1
        for rows, answer in self._of_sentences(columns, "transitions"):
            real_mask = np.arange(answer.shape[1]) < n_steps[rows][:, None]
            transitions[ragged_arange(starts[rows], n_steps[rows])] = answer[real_mask]
        return transitions

    def _of_sentences(
        self,
        columns: SentenceColumns,
        output: str,  # "encodings" or "transitions"
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(rows, their output); a model of pairs takes two sentences of like lengths for a pair."""
        if self.exported.task != "pair":
            for rows, (answer,) in self._answers([columns], [output]):
                yield rows, answer
            return
        order = np.argsort(-lengths(columns), kind="stable")
        if len(order) % 2:
            order = np.append(order, order[-1])
        first, second = order[0::2], order[1::2]
        sides = [take(columns, first), take(columns, second)]
        for rows, answers in self._answers(sides, [f"premise_{output}", f"hypothesis_{output}"]):
            yield first[rows], answers[0]
            yield second[rows], answers[1]

    def _answers(
        self, sides: Sequence[SentenceColumns], outputs: Sequence[str], batch_size: int = BATCH
    ) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
        """(rows, their outputs) of each batch, the longest sentences first; each row once."""
        longer = np.maximum.reduce([lengths(side) for side in sides])
        for rows in epoch_batches(longer, batch_size, seed=0, epoch=0, shuffle=False):
            n_lanes = max(1, TOKENS // (len(sides) * int(longer[rows[0]])))  # all padded to the longest
            for part in np.split(rows, np.arange(n_lanes, len(rows), n_lanes)):
                inputs = graph_inputs([take(side, part) for side in sides], self.exported.tables)
                yield part, self._session.run(list(outputs), inputs)


def _branching(exported: Exported, trees: str | None, parser: OnnxPredictor | None) -> str | None:
    """The trees that replace those given; raises ValueError for what the model has no use for."""
    if trees is not None and parser is not None:
        raise ValueError("trees and parser: give one of them")
    if exported.tables == "own":
        if trees is not None or parser is not None:
            raise ValueError(f"trees and parser: a model of kind {exported.kind!r} makes trees of its own")
        return None
    if trees is not None and trees not in BRANCHINGS:
        raise ValueError(f"trees: expected one of {', '.join(BRANCHINGS)}, got {trees!r}")
    if parser is not None:
        if parser.exported.tables != "own":
            raise ValueError(f"parser: a model of kind {parser.exported.kind!r} makes no trees")
        return None
    return trees or exported.branching


def _check_metadata(path: Path, metadata: dict[str, str], exported: Exported) -> None:
    """Raises ArtefactError unless the ONNX file says of itself what export.json says of it."""
    version = metadata.get(VERSION_KEY, "")
    if not version.isdecimal():
        raise ArtefactError(f"{path}: not an ONNX file of spinn export (no {VERSION_KEY} in its metadata)")
    if int(version) > FORMAT_VERSION:
        raise ArtefactError(
            f"{path}: format version {version}; this program reads {FORMAT_VERSION}: update spinn_tensor"
        )
    for key, expected in metadata_of(exported).items():
        if metadata.get(key) != expected:
            raise ArtefactError(f"{path}: {key} is {metadata.get(key)!r}, export.json says {expected!r}")


def _softmax(logits: np.ndarray) -> np.ndarray:  # (n, C) float32 from (n, C) float32
    shares = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    return shares / shares.sum(axis=1, keepdims=True)
