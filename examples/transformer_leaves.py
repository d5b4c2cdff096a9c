"""Take a transformer's states as the leaves of the trees.

    export PYTHONPATH=examples
    spinn train --corpus sst --data sst.zip --leaf-encoder transformer_leaves:Bert --no-train-embedding

A word's leaf is a projection of the state of its first piece, the transformer having read the whole sentence. It is
fixed under --no-train-embedding, and trained otherwise. Its weights are saved with the model; NAME is asked once more
for its sizes alone. Words that are not in the vocabulary are the unknown piece, whatever pieces they would have.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer

from spinn_tensor import EncoderConfig
from spinn_tensor.batch import SentenceBatch
from spinn_tensor.data_prep import Vocabulary

NONE = -1  # where a word has no further piece


class Bert(nn.Module):
    """Make leaves of a transformer's states. For another one: a subclass with its NAME."""

    NAME = "google-bert/bert-base-cased"  # on the hub, or a folder
    PIECES = 6  # of a word at most

    def __init__(self, config: EncoderConfig, output_dim: int) -> None:
        super().__init__()
        self.transformer = AutoModel.from_config(AutoConfig.from_pretrained(self.NAME))
        self.transformer.requires_grad_(config.train_embedding)
        self.projection = nn.Linear(self.transformer.config.hidden_size, output_dim)
        self.register_buffer("pieces", torch.full((config.vocabulary_size, self.PIECES), NONE))
        self.register_buffer("first_last_padding", torch.zeros(3, dtype=torch.int64))

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Look up the pieces of all words, and read the transformer's weights."""
        tokenizer = AutoTokenizer.from_pretrained(self.NAME)
        special = [tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id]
        self.first_last_padding.copy_(torch.tensor(special))
        found = tokenizer(list(vocabulary.tokens), add_special_tokens=False)["input_ids"]
        for row, pieces in zip(self.pieces, found, strict=True):
            kept = torch.tensor(pieces[: self.PIECES] or [tokenizer.unk_token_id])
            row[: len(kept)] = kept
        self.pieces[vocabulary.index["<unk>"], 0] = tokenizer.unk_token_id
        self.pieces[vocabulary.index["<unk>"], 1:] = NONE
        self.transformer.load_state_dict(AutoModel.from_pretrained(self.NAME).state_dict())

    def forward(self, batch: SentenceBatch) -> Tensor:  # (L, output_dim)
        pieces, sentence = self.pieces[batch.token_ids], batch.sequence.sentence_index  # (L, PIECES), (L,)
        is_piece = pieces != NONE
        n_pieces = is_piece.sum(1)
        n_sentences = batch.sequence.sorted_order.shape[0]
        lengths = n_pieces.new_zeros(n_sentences).index_add(0, sentence, n_pieces)
        # the place of each word's first piece, behind the one that begins its sentence
        place = 1 + n_pieces.cumsum(0) - n_pieces - (lengths.cumsum(0) - lengths)[sentence]
        first, last, padding = self.first_last_padding
        positions = torch.arange(int(lengths.max()) + 2, device=sentence.device)
        ids = torch.where(positions <= lengths.unsqueeze(1), first, padding).index_put(
            (torch.arange(n_sentences, device=sentence.device), lengths + 1), last
        )
        columns = place.unsqueeze(1) + torch.arange(self.PIECES, device=sentence.device)
        rows = sentence.unsqueeze(1).expand_as(columns)
        ids = ids.index_put((rows[is_piece], columns[is_piece]), pieces[is_piece])
        states = self.transformer(ids, attention_mask=positions < lengths.unsqueeze(1) + 2)
        return self.projection(states.last_hidden_state[sentence, place])
