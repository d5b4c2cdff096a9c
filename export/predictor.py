"""Raw sentences in; labels, probabilities, encodings and trees out: an exported ONNX model, without torch.

The same methods and results as `spinn_tensor.Pipeline` has for a checkpoint, those of `TextModel`. What the model
composes by depends on its tables:

    own              its own trees, whatever is given
    sequence         none
    given, forest    those given, or those that are made:
        parser=OnnxPredictor(...)       another exported model makes them for text without a parse
        trees="left", "right", ...      such trees replace those given, too
        neither                         as the model was trained: its own --branching, else the parser in its folder
                                        (spinn export --parser packaged), else only trees are taken
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from spinn_tensor.answers import Advance, TreeMaker
from spinn_tensor.config import ConfigError
from spinn_tensor.data_prep.batching import length_batches
from spinn_tensor.data_prep.columns import Corpus, SentenceColumns, lengths, n_sentences, node_offsets, take
from spinn_tensor.data_prep.limits import DEFAULT_LIMITS
from spinn_tensor.data_prep.segments import ragged_arange
from spinn_tensor.export.artefact import (
    ARTEFACTS,
    PARSER,
    VERSION_KEY,
    ArtefactError,
    Exported,
    check_version,
    graph_inputs,
    read_export,
    sides_of,
)
from spinn_tensor.export.session import open_session
from spinn_tensor.text_model import BATCH, TextModel

TOKENS = 16_384  # of a batch, padding included: what bounds memory, since sentences may have any length
OVERHEAD = 6  # sentences that a batch costs besides its own, measured at H = 300 on one core


class OnnxPredictor(TextModel):
    """Run an exported model on one provider, for sentences in any number and of any lengths.

    Threads may share it. Its methods are those of `spinn_tensor.Pipeline`, without torch (but for tensors).
    """

    def __init__(
        self,
        folder: str | Path,
        provider: str = "auto",
        threads: int | None = None,
        *,
        trees: str | None = None,
        parser: OnnxPredictor | str | Path | None = None,
        notation: str = "auto",
        max_words: int = DEFAULT_LIMITS.max_words,
    ) -> None:
        """Open the model.

        Args:
            folder: of `spinn export`, of one of the onnx formats, or a model of a Triton repository.
            provider: "cpu", "cuda" or "tensorrt"; "auto": cuda where it is granted, else cpu.
            threads: of the CPU; None: onnxruntime's choice.
            trees: "left", "right", "balanced" or "random", see the top of this module.
            parser: makes trees for text without a parse; or the folder of one that does.
            notation: what strings are: "text", "parses", or "auto": what they look like, see `data_prep.text`.
            max_words: of a sentence at most; the model may take fewer.

        Raises:
            ArtefactError: for a folder that cannot be used.
            ProviderError: for a provider that is not granted.
            ConfigError: for trees that the model has no use for.
        """
        self.exported, tokenizer, path = read_export(folder)
        if not ARTEFACTS[self.exported.format].endswith(".onnx"):
            raise ArtefactError(f"{path}: a {self.exported.format} artefact, expected ONNX")
        composes_by = {"own": "own", "sequence": "none"}.get(self.exported.tables, "given")
        if isinstance(parser, str | Path):
            parser = OnnxPredictor(parser, provider, threads)
        if parser is not None and parser.exported.tables != "own":
            raise ConfigError(f"parser: a model of kind {parser.exported.kind!r} makes no trees")
        of_all = False
        if trees is None and parser is None and composes_by == "given":
            trees = self.exported.branching
            if trees is None and (path.parent / PARSER).is_dir():
                parser = OnnxPredictor(path.parent / PARSER, provider, threads)
                of_all = self.exported.parser_of_all
        self.parser = parser
        super().__init__(
            self.exported.task,
            self.exported.kind,
            tokenizer,
            trees=composes_by,
            branching=trees,
            tree_maker=None if parser is None else parser._as_tree_maker(of_all),
            binarize=self.exported.binarize,
            notation=notation,
            max_words=max_words,
            max_length=self.exported.max_length,
        )
        self._session, self.provider = open_session(path, provider, threads)
        _check_metadata(path, self._session.get_modelmeta().custom_metadata_map, self.exported)
        names = [output.name for output in self._session.get_outputs()]
        self._tells_log_probabilities = names[-1].endswith("log_probabilities")  # not of earlier versions

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the names of the classes; () for a model that only parses."""
        return tuple(self.exported.labels)

    def _logits(self, corpus: Corpus, batch_size: int, advance: Advance) -> np.ndarray:  # (n, C) float32
        logits = np.empty((len(corpus.labels), len(self.labels)), dtype=np.float32)
        for rows, (answer,) in self._answers(corpus.sides, ["logits"], batch_size):
            logits[rows] = answer
            advance(len(rows))
        return logits

    def _encodings(
        self, sentences: SentenceColumns, batch_size: int | None, advance: Advance
    ) -> np.ndarray:  # (n, D) float32
        encodings = np.empty((n_sentences(sentences), self.exported.hidden_dim), dtype=np.float32)
        for rows, (answer,) in self._of_sentences(sentences, ["encodings"], batch_size or BATCH):
            encodings[rows] = answer
            advance(len(rows))
        return encodings

    def _own_parses(
        self, sentences: SentenceColumns, batch_size: int = BATCH, advance: Advance = lambda n: None
    ) -> tuple[np.ndarray, np.ndarray | None]:  # (M,) int8 and float64
        found = {"transitions": np.empty_like(sentences.transitions)}
        if self._tells_log_probabilities:
            found["log_probabilities"] = np.empty(len(sentences.transitions))
        starts, n_steps = node_offsets(sentences), 2 * lengths(sentences) - 1
        for rows, answers in self._of_sentences(sentences, list(found), batch_size):
            real_mask = np.arange(answers[0].shape[1]) < n_steps[rows][:, None]
            places = ragged_arange(starts[rows], n_steps[rows])
            for values, answer in zip(found.values(), answers, strict=True):
                values[places] = answer[real_mask]
            advance(len(rows))
        return found["transitions"], found.get("log_probabilities")

    def _as_tree_maker(self, of_all: bool) -> TreeMaker:
        def parse(words: SentenceColumns) -> np.ndarray:
            return self._own_parses(words)[0]

        return TreeMaker(self.tokenizer.vocabulary, parse, self.exported.max_length, of_all)

    def _of_sentences(
        self,
        columns: SentenceColumns,
        outputs: list[str],  # of a sentence: "encodings", ...
        batch_size: int,
    ) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
        """Yield rows and their outputs; a model of pairs takes two sentences of like lengths for a pair."""
        if self.exported.task != "pair":
            yield from self._answers([columns], outputs, batch_size)
            return
        order = np.argsort(-lengths(columns), kind="stable")
        if len(order) % 2:
            order = np.append(order, order[-1])
        first, second = order[0::2], order[1::2]
        sides = [take(columns, first), take(columns, second)]
        of_sides = [f"{side}{output}" for side in sides_of("pair") for output in outputs]
        for rows, answers in self._answers(sides, of_sides, max(batch_size // 2, 1)):
            yield first[rows], answers[: len(outputs)]
            yield second[rows], answers[len(outputs) :]

    def _answers(
        self, sides: list[SentenceColumns], outputs: list[str], batch_size: int
    ) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
        """Yield rows and their outputs of each batch, the longest sentences first; each row once."""
        longer = np.maximum.reduce([lengths(side) for side in sides])
        # all sides are padded to the longest
        overhead = None if self.exported.tables == "forest" else OVERHEAD  # a forest is not padded
        n_tokens = len(sides) * longer
        for rows in length_batches(n_tokens, tokens=TOKENS, rows=batch_size, padded=True, overhead=overhead):
            inputs = graph_inputs([take(side, rows) for side in sides], self.exported.tables)
            yield rows, self._session.run(outputs, inputs)


def _check_metadata(path: Path, metadata: dict[str, str], exported: Exported) -> None:
    """Raise ArtefactError unless the ONNX file says of itself what export.json says of it."""
    version = metadata.get(VERSION_KEY, "")
    if not version.isdecimal():
        raise ArtefactError(f"{path}: not an ONNX file of spinn export (no {VERSION_KEY} in its metadata)")
    check_version(path, int(version))
    for key, expected in exported.metadata.items():
        if metadata.get(key) != expected:
            raise ArtefactError(f"{path}: {key} is {metadata.get(key)!r}, export.json says {expected!r}")
