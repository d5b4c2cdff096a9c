"""What a model says of sentences, in evaluation: probabilities, transitions and encodings of any number of them.

Sentences are sorted by length and cut into batches of so many tokens, which bounds memory, whatever lengths they have.
Results keep the order of the sentences, and what comes out for one does not depend on the others.

On CUDA a thread makes batches ahead, and a result is read when the next batch is under way, so that neither waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from spinn_tensor.answers import Advance
from spinn_tensor.batch import Batch, SentenceBatch, TableKind, make_batch, make_sentence_batch
from spinn_tensor.data_prep.batching import length_batches
from spinn_tensor.data_prep.columns import (
    Corpus,
    SentenceColumns,
    lengths,
    n_sentences,
    node_offsets,
    select,
    take,
)
from spinn_tensor.data_prep.segments import ragged_arange
from spinn_tensor.machine import Parse
from spinn_tensor.model.classifiers import Model
from spinn_tensor.model.encoder import SentenceEncoder
from spinn_tensor.transfer import begun_to_host, made_ahead, pinned, sent

EVALUATION_BATCH = 256  # sentences or pairs; no gradient is kept, so there may be many
BATCH_TOKENS = 16_384  # of a batch: what bounds memory, since sentences may have any length
N_AHEAD = {"cuda": 2}  # batches that a thread makes ahead, by the type of the device
SHARING_TOKENS = 65_536  # the same where equal words and subtrees are done once: the more, the more are equal

AnyBatch = TypeVar("AnyBatch", Batch, SentenceBatch)


def predict_probabilities(
    model: Model,
    corpus: Corpus,
) -> np.ndarray:  # (n, C) float32, in the order of the corpus
    """Return the probabilities of the labels, as `predict_logits`."""
    return torch.from_numpy(predict_logits(model, corpus)).softmax(1).numpy()


def predict_logits(
    model: Model,
    corpus: Corpus,
    batch_size: int = EVALUATION_BATCH,
    on_batch: Advance = lambda n: None,
) -> np.ndarray:  # (n, C) float32, in the order of the corpus
    """Return the logits of the labels; those of the root where the model labels every node."""
    result = np.empty((len(corpus.labels), len(model.config.labels)), dtype=np.float32)
    model.eval()
    with torch.inference_mode():
        batches = corpus_batches(model, corpus, batch_size)
        runs = ((rows, [_root_logits(model, batch).float()]) for rows, batch in batches)
        for rows, (logits,) in read_late(runs):
            result[rows] = logits
            on_batch(len(rows))
    return result


def _root_logits(model: Model, batch: Batch) -> Tensor:  # (B, C)
    logits = model.run(batch).logits
    if logits is None:
        raise TypeError("a model that only parses predicts no labels")
    return logits[root_rows(batch)] if model.config.node_labels else logits


class OwnParses(NamedTuple):
    """Hold the trees that a model finds for n sentences."""

    transitions: np.ndarray  # (M,) int8, sentence after sentence
    step_log_probabilities: np.ndarray  # (M,) float64, of each transition, among those possible


def predict_transitions(
    encoder: SentenceEncoder,  # of kind "spinn"
    sentences: SentenceColumns,
    on_batch: Advance = lambda n: None,
) -> np.ndarray:  # (M,) int8, sentence after sentence
    """Return the trees that the encoder finds, as `predict_parses`."""
    return predict_parses(encoder, sentences, on_batch).transitions


def predict_parses(
    encoder: SentenceEncoder,  # of kind "spinn"
    sentences: SentenceColumns,
    on_batch: Advance = lambda n: None,
    batch_size: int = EVALUATION_BATCH,  # sentences of a batch at most
) -> OwnParses:
    """Return the trees that the encoder finds, in the order of the columns, whose own trees are not looked at.

    Raises TypeError for an encoder that does not parse.
    """
    transitions = np.empty_like(sentences.transitions)
    steps = np.empty(len(transitions))
    first, n_steps = node_offsets(sentences)[:-1], 2 * lengths(sentences) - 1
    encoder.eval()
    with torch.inference_mode():
        batches = sentence_batches(encoder, sentences, "own", BATCH_TOKENS, batch_size)
        runs = ((rows, _told(encoder.parse(batch))) for rows, batch in batches)
        for rows, (codes, log_probabilities) in read_late(runs):
            places = ragged_arange(first[rows], n_steps[rows])
            transitions[places], steps[places] = codes, log_probabilities
            on_batch(len(rows))
    return OwnParses(transitions, steps)


def _told(parse: Parse) -> list[Tensor]:  # (M,) int8, (M,) float64
    return [parse.transitions.to(torch.int8), parse.log_probabilities().double()]


class OwnBeams(NamedTuple):
    """Hold the k likeliest trees that a model finds for each of n sentences, the best first."""

    transitions: np.ndarray  # (k, M) int8, sentence after sentence
    step_log_probabilities: np.ndarray  # (k, M) float64, of each transition, among those possible
    log_probabilities: np.ndarray  # (k, n) float64 of the trees; -inf where a sentence has no other tree


def predict_beams(
    encoder: SentenceEncoder,  # of kind "spinn"
    sentences: SentenceColumns,
    k: int,  # lanes of a sentence
    on_batch: Advance = lambda n: None,
    batch_size: int = EVALUATION_BATCH,  # sentences of a batch at most
) -> OwnBeams:
    """Return the k likeliest trees that a beam of that width finds, otherwise as `predict_parses`.

    Raises TypeError for an encoder that does not parse.
    """
    n_steps = 2 * lengths(sentences) - 1
    first = node_offsets(sentences)[:-1]
    found = OwnBeams(
        np.empty((k, len(sentences.transitions)), dtype=np.int8),
        np.empty((k, len(sentences.transitions))),
        np.empty((k, len(first))),
    )
    encoder.eval()
    with torch.inference_mode():
        tokens, most = max(BATCH_TOKENS // k, 1), max(batch_size // k, 1)
        batches = sentence_batches(encoder, sentences, "own", tokens, most, n_samples=k)
        beams = ((rows, encoder.beams(batch, k)) for rows, batch in batches)
        runs = ((rows, [*_told(of_rows.parse), of_rows.log_probabilities]) for rows, of_rows in beams)
        for rows, (codes, log_probabilities, sums) in read_late(runs):
            places = ragged_arange(first[rows], n_steps[rows])
            found.transitions[:, places] = codes.reshape(k, -1)
            found.step_log_probabilities[:, places] = log_probabilities.reshape(k, -1)
            found.log_probabilities[:, rows] = sums
            on_batch(len(rows))
    return found


def encode_columns(
    encoder: SentenceEncoder,
    columns: SentenceColumns,  # n sentences
    *,
    dtype: str = "float32",  # or "float16"
    batch_tokens: int | None = None,  # of a batch; None: as suits the encoder
    batch_size: int | None = None,  # sentences of a batch at most
    on_batch: Advance = lambda n: None,
) -> np.ndarray:  # (n, D) of that dtype
    """Return the root encodings in the order of the columns. Puts the encoder in eval mode."""
    result = np.empty((n_sentences(columns), encoder.output_dim), dtype=dtype)
    encoder.eval()
    kind = encoder.table_kind
    if batch_tokens is None:
        batch_tokens = SHARING_TOKENS if encoder.sharing(kind) == "states" else BATCH_TOKENS
    with torch.inference_mode():
        batches = sentence_batches(encoder, columns, kind, batch_tokens, batch_size)
        runs = ((rows, [encoder(batch).to(getattr(torch, dtype))]) for rows, batch in batches)
        for rows, (encodings,) in read_late(runs):
            result[rows] = encodings
            on_batch(len(rows))
    return result


def corpus_batches(
    model: Model,
    corpus: Corpus,
    batch_size: int,  # sentences or pairs at most
) -> Iterator[tuple[np.ndarray, Batch]]:
    """Yield rows of the corpus and their batch on the model's device, longest first, each row once."""
    kind = model.encoder.table_kind
    share = model.encoder.sharing(kind)
    # both sides of a pair count as the longer one
    all_rows = length_batches(corpus.n_sides * corpus.lengths_key, tokens=BATCH_TOKENS, rows=batch_size)
    device = next(model.parameters()).device
    return _brought(lambda rows: make_batch(select(corpus, rows), kind, share=share), all_rows, device)


def sentence_batches(
    encoder: SentenceEncoder,
    columns: SentenceColumns,
    table_kind: TableKind,  # of the batches
    tokens: int,  # of a batch at most
    batch_size: int | None = None,  # sentences of a batch at most
    n_samples: int = 1,  # lanes of each sentence, of "own" alone
) -> Iterator[tuple[np.ndarray, SentenceBatch]]:
    """Yield rows of the columns and their batch on the encoder's device, longest first, each row once."""
    share = encoder.sharing(table_kind)
    return _brought(
        lambda rows: make_sentence_batch(take(columns, rows), table_kind, n_samples=n_samples, share=share),
        length_batches(lengths(columns), tokens=tokens, rows=batch_size),
        next(encoder.parameters()).device,
    )


def _brought(
    make: Callable[[np.ndarray], AnyBatch], all_rows: Iterable[np.ndarray], device: torch.device
) -> Iterator[tuple[np.ndarray, AnyBatch]]:
    """Yield each rows with their batch on the device, on CUDA made ahead."""
    n_ahead = N_AHEAD.get(device.type, 0)

    def make_ready(rows: np.ndarray) -> tuple[np.ndarray, AnyBatch]:
        batch = make(rows)
        return rows, pinned(batch) if n_ahead else batch

    with closing(made_ahead(make_ready, all_rows, n_ahead, device)) as made:
        for rows, batch in made:
            yield rows, sent(batch, device)


def read_late(
    results: Iterable[tuple[np.ndarray, Sequence[Tensor]]],  # rows, and what was found for them
) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Yield every result on the host when the next one is under way, of which it does not wait for the end."""
    before: list[tuple[np.ndarray, Callable[[], list[np.ndarray]]]] = []
    for rows, tensors in results:
        now = rows, begun_to_host(tensors)
        yield from ((of_rows, read()) for of_rows, read in before)
        before = [now]
    yield from ((of_rows, read()) for of_rows, read in before)


def root_rows(batch: Batch) -> Tensor:  # (B,) int64
    """Return the rows of the roots among all nodes in transition order: the last transition of every sentence."""
    sentence_index = batch.sentences.sequence.sentence_index
    n_tokens = torch.zeros_like(batch.labels).index_add(0, sentence_index, torch.ones_like(sentence_index))
    return (2 * n_tokens - 1).cumsum(0) - 1
