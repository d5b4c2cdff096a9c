"""A model that is served: texts to sentences, and sentences to what it says of them, any number and kind at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.folders import readable
from spinn_tensor.data_prep.limits import LongSentence
from spinn_tensor.data_prep.paths import expanded
from spinn_tensor.data_prep.text import PACKAGED, PACKAGED_NLI, Words, notation_of
from spinn_tensor.data_prep.trees import Tree, right_branching
from spinn_tensor.data_prep.vocabulary import UNKNOWN_ID
from spinn_tensor.export.artefact import ARTEFACTS, EXPORT, PRECISIONS
from spinn_tensor.export.predictor import OnnxPredictor
from spinn_tensor.export.serve.errors import empty, untokenized
from spinn_tensor.export.serve.settings import ServeSettings
from spinn_tensor.text_model import TextModel

Sentence = Tree | Words
Example = tuple[Sentence, ...]  # a sentence, or a pair

# Characters of a sentence, for each word that it may have. Words are 6 long; splitting a megabyte of anything else
# would keep all other requests from being read meanwhile.
LONGEST_WORD = 100


class Engine:
    """Hold a model. `read` and `run` may be called from different threads."""

    def __init__(self, model: TextModel, name: str, dtype: str = "float32", device: str = "cpu") -> None:
        self.model, self.name, self.dtype, self.device = model, name, dtype, device
        self.max_length = min(model.max_words, model.max_length or model.max_words)
        self.most_characters = LONGEST_WORD * self.max_length
        self.n_sides = 2 if model.task == "pair" else 1
        self.kinds = ["encode"]
        if model.labels:
            self.kinds.append("classify")
        if model.composes_by != "none":
            self.kinds.append("parse")

    @classmethod
    def find(cls, settings: ServeSettings) -> Engine | None:
        """Return the model of an export; None where there is a checkpoint, which takes torch. The hub's is downloaded.

        Raises as `OnnxPredictor`, and CheckpointError where there is no such checkpoint.
        """
        if settings.folder in (PACKAGED, PACKAGED_NLI):
            return None
        if _is_export(expanded(settings.folder)):
            return cls.open(settings)
        from spinn_tensor.hub import HubOptions, bundle_folder, checkpoint_folder

        checkpoint_folder(bundle_folder(settings.folder, HubOptions(None, None, False, False, None)))
        return None

    @classmethod
    def open(cls, settings: ServeSettings) -> Engine:
        """Read an export, without torch, or a checkpoint. Raises as `OnnxPredictor` and `Pipeline.from_pretrained`."""
        folder = expanded(settings.folder)
        options: dict[str, Any] = {"trees": settings.trees, "max_words": settings.max_length}
        if _is_export(folder):
            predictor = OnnxPredictor(folder, settings.device, settings.threads, **options)
            dtype = PRECISIONS.get(predictor.exported.format, "float32")
            return cls(predictor, folder.resolve().name, dtype, predictor.provider)
        import torch

        from spinn_tensor.pipeline import Pipeline

        torch.set_num_threads(settings.threads)
        options |= {"device": settings.device, "allow_custom_code": settings.allow_custom_code}
        pipeline = Pipeline.from_pretrained(settings.folder, **options)
        return cls(pipeline, folder.resolve().name, device=next(pipeline.model.parameters()).device.type)

    def read(self, text: str, name: str, truncate: bool = False) -> Sentence:
        """Return the sentence of a text. Raises Refused naming it."""
        if truncate and len(text) > self.most_characters and notation_of(text) == "text":
            text = text[: self.most_characters]
        self._check(text, name)
        try:
            return self.model.read(text, name, truncate)
        except LongSentence:
            reason = f"{name}: more than {self.max_length:,} tokens"
            cut = "" if truncate else '; "truncate": true cuts text'
            raise untokenized(reason + cut) from None
        except DataError as error:
            raise untokenized(str(error)) from None

    def encoding(self, text: str, name: str) -> Any:  # of HF tokenizers
        """Return a text's ids and their places, whatever it looks like. Raises Refused naming it."""
        self._check(text, name)
        encoding = self.model.tokenizer.backend.encode(text)
        if not encoding.ids:
            raise untokenized(f"{name}: a sentence without words")
        if len(encoding.ids) > self.max_length:
            raise untokenized(f"{name}: more than {self.max_length:,} tokens")
        return encoding

    def _check(self, text: str, name: str) -> None:
        if not text or text.isspace():
            raise empty(name)
        if len(text) > self.most_characters:
            raise untokenized(f"{name}: {len(text):,} characters, at most {self.most_characters:,} are taken")

    def n_unknown(self, sentence: Sentence) -> int:
        """Count the tokens that the model does not know, which are all one to it."""
        return int((self.model.tokenizer.vocabulary.encode(sentence.tokens) == UNKNOWN_ID).sum())

    def run(self, kind: str, examples: Sequence[Example]) -> Sequence[Any]:
        """Return for each example its encoding (D,), its `Prediction` or its `Parsed`."""
        sides = [list(side) for side in zip(*examples, strict=True)]
        if kind == "classify":
            predictions: list[Any] = self.model.classify(*sides)
            return predictions
        results: Sequence[Any] = self.model.encode(*sides) if kind == "encode" else self.model.parses(*sides)
        return results

    def warm_up(self) -> None:
        """Run everything once, so that no client waits for what is done at the first time only."""
        words = self.model.tokenizer.vocabulary.tokens[2:] or ("a",)
        sentences = [right_branching([words[i % len(words)] for i in range(n)]) for n in (1, 7, 30)]
        self.read("( A dog )", "warm-up")
        self.encoding("A dog", "warm-up")
        for kind in self.kinds:
            n_sides = self.n_sides if kind == "classify" else 1
            for some in (sentences, sentences[:1]):
                self.run(kind, [(sentence,) * n_sides for sentence in some])


def _is_export(folder: Path) -> bool:
    """Tell whether a folder is of `spinn export`, whatever of it is missing or damaged."""
    return any((readable(folder) / name).is_file() for name in (EXPORT, ARTEFACTS["onnx"]))
