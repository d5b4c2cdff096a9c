"""Classifiers over encodings: pairs of sentences (SNLI) and single sentences, or every node of them (SST); and parsers.

Pairs, after Mou et al. 2016 and Bowman et al. 2016, section 4: the MLP reads [p; q; p - q; p ∘ q].
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from spinn_tensor.batch import Batch
from spinn_tensor.bundle import CheckpointConfig, PretrainedModel, read_bundle
from spinn_tensor.config import HEADS, ClassifierConfig, ModelConfig
from spinn_tensor.data_prep.display import in_short
from spinn_tensor.data_prep.tokenizer import Tokenizer
from spinn_tensor.data_prep.vocabulary import Vocabulary
from spinn_tensor.machine import Parse
from spinn_tensor.model.cells import SOFTMAX_RANGE
from spinn_tensor.model.encoder import SentenceEncoder
from spinn_tensor.model.leaves import he_linear
from spinn_tensor.model.own_classes import make_part
from spinn_tensor.normalization import MaskedBatchNorm


@in_short
class Outcome(NamedTuple):
    """Hold what a model says of a batch. n = B, or B times the samples of own transitions, sample after sample."""

    logits: Tensor | None  # (n, n_classes), or (2L - B, n_classes); None for a parser
    parse: Parse | None  # None for encoders that do not parse


@in_short
class Checkpoint(NamedTuple):
    """Hold a loaded checkpoint; unpacks as (model, vocabulary, config)."""

    model: Model
    vocabulary: Vocabulary
    config: CheckpointConfig

    @property
    def tokenizer(self) -> Tokenizer:
        """Make what raw text for this model is to be read through, anew at each call."""
        return self.model.tokenizer


def load_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> Checkpoint:
    """Read a checkpoint. `Pipeline.from_pretrained` does, too, and reads text for it.

    Args:
        path: folder of a checkpoint or bundle, or of a run, whose `best` checkpoint is then taken.
        device: where the model goes.

    Returns:
        The model in eval mode, its vocabulary and its settings.

    Raises:
        CheckpointError: for a folder that is none, or damaged.

    >>> model, vocabulary, config = load_checkpoint(folder / "sentences")
    >>> config.model.task, len(vocabulary)
    ('sentence', 9)
    """
    return Checkpoint(*read_bundle(path, device, build_model))


def build_model(config: ModelConfig) -> Model:
    """Return a freshly initialised model.

    Args:
        config: what it is made of.

    Returns:
        A `PairClassifier`, `SentenceClassifier` or `SentenceParser`, as the task is.

    >>> type(build_model(config)).__name__
    'SentenceClassifier'
    """
    kinds: tuple[type[Model], ...] = (PairClassifier, SentenceClassifier, SentenceParser)
    return {kind.task: kind for kind in kinds}[config.task](config)


class _Classifier(PretrainedModel):
    """Encode sentences, and classify features made of their encodings."""

    n_encodings: ClassVar[int]  # that the features of an example are as wide as

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.encoder = SentenceEncoder(config.encoder)
        assert config.classifier is not None, "of this task, which ModelConfig checks"
        n_features, settings = self.n_encodings * self.encoder.output_dim, config.classifier
        self.mlp: Any = make_part("head", settings.head, {HEADS[0]: MLP}, n_features, settings)

    def forward(self, batch: Batch) -> Tensor:  # (n, n_classes), see `Outcome`
        """Return the logits of examples, or with `node_labels` of all nodes, in the order of the transitions."""
        logits = self.run(batch).logits
        assert logits is not None
        return logits

    def run(self, batch: Batch, noise: Tensor | None = None) -> Outcome:
        """Return the logits, and the parse of an encoder that parses, with noise (M,) as in `run_own`."""
        if not self.encoder.config.parses:
            return Outcome(self.classify(self.encoder(batch.sentences), batch), None)
        parse = self.encoder.parse(batch.sentences, noise)
        return Outcome(self.classify(parse.encodings, batch), parse)

    def classify(
        self,
        encodings: Tensor,  # (B, H) of the sentences of the batch, or of several samples of each
        batch: Batch,
    ) -> Tensor:  # (n, n_classes)
        """Return the logits of examples by the encodings of their sentences."""
        features, mask = self._features(encodings, batch), batch.row_mask
        if mask is not None:
            mask = mask.repeat(features.shape[0] // mask.shape[0])  # sample after sample
        return self._classify(features, mask)

    def _features(self, encodings: Tensor, batch: Batch) -> Tensor:
        return encodings

    def _classify(self, features: Tensor, row_mask: Tensor | None = None) -> Tensor:  # (n, n_classes)
        logits: Tensor = self.mlp(features, row_mask)
        if (name := self.config.own_classes.get("head")) is not None:
            expected = (features.shape[0], len(self.config.labels))
            if logits.shape != expected:
                raise ValueError(f"head: {name} made {tuple(logits.shape)}, expected {expected}")
        return logits


class PairClassifier(_Classifier):
    """Classify the relation of premise and hypothesis.

    Args:
        config: of task "pair".

    Raises:
        ConfigError: for a config of another task.

    >>> model = PairClassifier.from_pretrained(folder / "pairs")
    >>> corpus = Corpus.of_pairs(columns, columns, labels=np.array([0, 1]))
    >>> model(make_batch(corpus, model.encoder.table_kind)).shape
    torch.Size([2, 2])
    """

    task: ClassVar[str] = "pair"
    n_encodings = 4

    def _features(self, encodings: Tensor, batch: Batch) -> Tensor:
        n_pairs = batch.labels.shape[0]
        sides = rearrange(encodings, "(sample side b) d -> side (sample b) d", side=2, b=n_pairs)
        premise, hypothesis = sides.unbind(0)
        return torch.cat((premise, hypothesis, premise - hypothesis, premise * hypothesis), dim=1)


class SentenceClassifier(_Classifier):
    """Classify single sentences, or with `config.node_labels` every node of their trees: a root is its tree's last.

    Args:
        config: of task "sentence".

    Raises:
        ConfigError: for a config of another task.

    >>> model = SentenceClassifier(config)
    >>> model(make_batch(Corpus(columns, labels=np.array([0, 1])), model.encoder.table_kind)).shape
    torch.Size([2, 2])
    """

    task: ClassVar[str] = "sentence"
    n_encodings = 1

    def run(self, batch: Batch, noise: Tensor | None = None) -> Outcome:
        """Return the logits, of all nodes where the model was built with `node_labels`, and the parse."""
        if self.config.node_labels:
            return Outcome(self._classify(self.encoder.node_states(batch.sentences)), None)
        return super().run(batch, noise)

    def root_logits(self, batch: Batch) -> Tensor:  # (B, n_classes)
        """Return the logits of the whole sentences, whatever the model was trained on."""
        return self._classify(self.encoder(batch.sentences))


class SentenceParser(PretrainedModel):
    """Parse sentences: a SPINN taught by transitions alone.

    Args:
        config: of task "parse".

    Raises:
        ConfigError: for a config of another task.

    >>> model = SentenceParser(ModelConfig("parse", (), EncoderConfig(len(vocabulary), "spinn"), None))
    >>> model.encoder.parse(make_sentence_batch(columns, "own")).transitions.shape
    torch.Size([10])
    """

    task: ClassVar[str] = "parse"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.encoder = SentenceEncoder(config.encoder)

    def forward(self, batch: Batch) -> Tensor:  # (M, 2)
        """Return the logits of the transitions."""
        parse = self.run(batch).parse
        assert parse is not None
        return parse.logits

    def run(self, batch: Batch, noise: Tensor | None = None) -> Outcome:
        return Outcome(None, self.encoder.parse(batch.sentences, noise))


Model = PairClassifier | SentenceClassifier | SentenceParser


class MLP(nn.Module):
    """Apply batch norm and dropout to the features and after every ReLU layer, then a linear layer (section 4)."""

    def __init__(self, input_dim: int, config: ClassifierConfig) -> None:
        super().__init__()
        dims = [input_dim, *[config.mlp_dim] * config.mlp_layers]
        self.hidden = nn.ModuleList(he_linear(n_in, n_out) for n_in, n_out in pairwise(dims))
        self.norms = nn.ModuleList(MaskedBatchNorm(dim) for dim in dims if config.batch_norm)
        self.dropout = nn.Dropout(config.mlp_dropout)
        self.output = nn.Linear(dims[-1], config.n_classes)
        nn.init.uniform_(self.output.weight, -SOFTMAX_RANGE, SOFTMAX_RANGE)
        nn.init.zeros_(self.output.bias)

    def forward(
        self,
        features: Tensor,  # (n, input_dim)
        row_mask: Tensor | None = None,  # (n,) bool, True = real: what batch norm's statistics are taken over
    ) -> Tensor:  # (n, n_classes)
        x = self._regularise(features, 0, row_mask)
        for number, layer in enumerate(self.hidden, start=1):
            x = self._regularise(layer(x).relu().to(features.dtype), number, row_mask)
        return self.output(x).to(features.dtype)  # only products are narrower under autocast

    def _regularise(self, x: Tensor, number: int, row_mask: Tensor | None) -> Tensor:
        return self.dropout(self.norms[number](x, row_mask) if len(self.norms) else x)
