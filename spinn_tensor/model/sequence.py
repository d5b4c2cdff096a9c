"""An LSTM over the words of every sentence of a batch, without padding.

The words lie by time, those of the longest sentence first (`SequenceTables`), and cuDNN takes them so. torch's own
kernel for the CPU does, too, but where lengths differ its backward makes for every time a gradient of all words, which
is zero but for those of that time: quadratic in the words (docs/decisions.md). There the times are cut where sentences
end, so that in a span all times have the same sentences: a plain tensor (n, b, D). States go from span to span.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from spinn_tensor.bundles import SequenceTables
from spinn_tensor.model.own_classes import is_plain

Span = tuple[int, int]  # times, and sentences that have a word at each of them


def run_lstm(
    lstm: nn.LSTM,
    x: Tensor,  # (L, D) words of all sentences, one after another
    tables: SequenceTables,
) -> tuple[Tensor, Tensor]:
    # (L, directions * H) in packed order; the last h of each layer and direction, (n, B, H)
    """Run an LSTM over the words of each sentence, in the type of its weights.

    Autocast is off inside: on CUDA it would have cuDNN compute in float16, whatever type was asked for.
    """
    with torch.autocast(x.device.type, enabled=False):
        words = x.index_select(0, tables.packed_order)
        if x.device.type != "cpu" or not _is_one_layer(lstm):
            packed = PackedSequence(
                words, tables.batch_sizes.tensor, tables.sorted_order, tables.unsorted_order
            )
            outputs, (h, _) = lstm(packed)
            return outputs.data, h
        sizes, counts = torch.unique_consecutive(tables.batch_sizes.tensor, return_counts=True)
        spans = list(zip(counts.tolist(), sizes.tolist(), strict=True))
        suffixes = ("", "_reverse") if lstm.bidirectional else ("",)
        outputs, h = zip(*(_run_spans(lstm, words, spans, suffix) for suffix in suffixes), strict=True)
        return torch.cat(outputs, 1), torch.cat(h).index_select(1, tables.unsorted_order)


def _is_one_layer(lstm: nn.LSTM) -> bool:
    """Tell whether spans do what a call would: not where layers, hooks or a class of somebody's own do more."""
    is_torchs = type(lstm).forward is nn.LSTM.forward and is_plain(lstm)
    return is_torchs and lstm.num_layers == 1 and lstm.bias and not lstm.proj_size


def _run_spans(
    lstm: nn.LSTM,
    words: Tensor,  # (L, D) in packed order
    spans: list[Span],
    suffix: str,  # of the weights' names: "" of those that read forth, "_reverse" of those that read back
) -> tuple[Tensor, Tensor]:  # (L, H), (1, B, H) longest sentence first
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    weights = [getattr(lstm, f"{name}_l0{suffix}") for name in names]
    parts = words.split([n_times * n_sentences for n_times, n_sentences in spans])
    steps = list(zip(spans, parts, strict=True))
    h = c = words.new_zeros(1, 0, lstm.hidden_size)
    outputs: list[Tensor] = []
    ended: list[Tensor] = []  # the last h of sentences that ended, shortest first
    for (n_times, n_sentences), part in reversed(steps) if suffix else steps:
        ended.append(h[:, n_sentences:])
        # states of sentences that begin are zero, those of sentences that ended are cut off
        h, c = (F.pad(state, (0, 0, 0, n_sentences - state.shape[1])) for state in (h, c))
        x = part.view(n_times, n_sentences, -1)
        output, h, c = torch.lstm(
            x.flip(0) if suffix else x, (h, c), weights, True, 1, 0.0, lstm.training, False, False
        )
        outputs.append((output.flip(0) if suffix else output).flatten(0, 1))
    return torch.cat(outputs[::-1] if suffix else outputs), torch.cat((h, *ended[::-1]), 1)
