"""Trees found by a policy that shares nothing with what composes (Havrylov et al. 2019).

A step of training samples S parses of each of E examples beside the greedy one, trains the composer and the classifier
on them, and then takes several steps of the policy alone on what these parses were worth. With r the reward, the
log-probability of the label, ρ = π / π_before of what is credited, and clip(ρ) within 1 ± ε,

    "sentence"     L = -1/(S E) Σ min(ρ A, clip(ρ) A) - w_H H,          A = (r(sample) - baseline) / max(1, σ)
                   of all choices of a sample, as PPO has it (Schulman et al. 2017)
    "deviation"    L = -1/(S E) Σ n π_before min(ρ A, clip(ρ) A) - w_H H,       A = (r(sample) - r(greedy)) / max(1, σ)
                   of one choice: a sample is the greedy parse but for one of its n choices, which is forced to be the
                   other, and is credited with what that changes; its noise does not grow with the length

σ is the running deviation of the rewards, which are therefore only ever scaled down. Before the first of these steps
ρ = 1, and the gradient is that of the expected reward, times 1 / max(1, σ): with "sentence" REINFORCE's, with
"deviation" where any one choice is drawn from the policy and the others are greedy. Both need a policy that is nearly
right already, which `rule_search` finds: where a structure pays only when all of it is right, what one choice is worth,
on average over all that the others do, may have the wrong sign.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spinn_tensor.batch import Batch, SentenceBatch, TableKind, make_sentence_batch
from spinn_tensor.data_prep.columns import SentenceColumns, n_sentences, take
from spinn_tensor.machine import Parse, forcing_noise, logistic_noise
from spinn_tensor.model.classifiers import PairClassifier, SentenceClassifier
from spinn_tensor.model.encoder import SentenceEncoder
from spinn_tensor.training.reinforce import Moments, advantages, label_rewards, mean_entropy

Classifier = PairClassifier | SentenceClassifier


class Sampled(NamedTuple):
    """Hold the parses of a batch: the greedy one of each sentence, then its samples. M transitions each."""

    transitions: Tensor  # (1 + S, M) int64
    # (S, M) bool, the choice that each sample was forced to change; None: all are its own
    flips: Tensor | None = None


class Experience(NamedTuple):
    """Hold what the policy learns from until there is another batch. T terms are credited for n transitions in all."""

    batch: SentenceBatch  # parses, under lane tables
    place_index: Tensor  # (n,) int64, which transition of the parses
    credited: Tensor  # (n,) int64, SHIFT or REDUCE, what is credited there
    term_index: Tensor  # (n,) int64, the term that it is of
    advantages: Tensor  # (T,)
    weights: Tensor  # (T,)
    before: Tensor  # (T,) log-probability of what is credited, by the policy that sampled
    n_examples: int


def columns_of(batch: SentenceBatch) -> SentenceColumns:
    """Return the sentences that a batch was made of, under the same trees."""
    token_ids = batch.token_ids
    if batch.shared is not None and batch.shared.token_index is not None:
        token_ids = token_ids.index_select(0, batch.shared.token_index)
    n_tokens = torch.bincount(batch.sequence.sentence_index).cpu().numpy()
    offsets = np.concatenate(([0], np.cumsum(n_tokens)))
    transitions = batch.transitions.cpu().numpy().astype(np.int8)
    return SentenceColumns(token_ids.cpu().numpy().astype(np.int32), offsets, transitions, None)


def under(
    columns: SentenceColumns,
    transitions: Tensor,  # (k, M)
) -> SentenceColumns:
    """Return the sentences k times, under these trees."""
    many = take(columns, np.tile(np.arange(n_sentences(columns)), transitions.shape[0]))
    return many._replace(transitions=transitions.flatten().cpu().numpy().astype(np.int8))


def batch_of(
    encoder: SentenceEncoder,
    columns: SentenceColumns,
    table_kind: TableKind,
    n_samples: int = 1,
) -> SentenceBatch:
    """Compile sentences for an encoder, on its device, with as much shared as may be."""
    share = encoder.sharing(table_kind)
    batch = make_sentence_batch(columns, table_kind, n_samples=n_samples, share=share)
    return batch.to(encoder.embedding.weight.device)


def parses_of(
    policy: SentenceEncoder,
    columns: SentenceColumns,
    noise: Tensor | None,  # (k, M), of k parses of each sentence; None: one, the greedy parse
) -> Parse:
    """Parse by the policy as it is."""
    with torch.no_grad():
        if noise is None:
            return policy.parse(batch_of(policy, columns, "own"))
        return policy.parse(batch_of(policy, columns, "own", len(noise)), noise.flatten())


def random_trees(policy: SentenceEncoder, columns: SentenceColumns, n_samples: int) -> Sampled:
    """Draw trees by a coin at every choice, whatever the policy thinks."""
    shape = 1 + n_samples, len(columns.transitions)
    coins = torch.rand(shape, device=policy.embedding.weight.device) < 0.5
    return Sampled(parses_of(policy, columns, forcing_noise(coins)).transitions.view(shape))


def sample_parses(policy: SentenceEncoder, columns: SentenceColumns, n_samples: int) -> Sampled:
    """Parse greedily, and then by drawing every choice from the policy."""
    shape = 1 + n_samples, len(columns.transitions)
    noise = logistic_noise(torch.rand(shape, device=policy.embedding.weight.device))
    noise[0] = 0
    return Sampled(parses_of(policy, columns, noise).transitions.view(shape))


def sample_deviations(
    policy: SentenceEncoder, columns: SentenceColumns, n_samples: int, n_examples: int
) -> Sampled:
    """Parse greedily, and then with one choice of each example changed, in none of its samples the same one.

    Where an example has fewer choices than that, the other samples are its greedy parse.
    """
    greedy = parses_of(policy, columns, None)
    example = example_of(policy.embedding.weight.device, columns, n_examples)
    flips = _without_replacement(greedy.free_mask, example, n_samples)
    noise = torch.where(flips, forcing_noise(1 - greedy.transitions), 0.0)
    samples = parses_of(policy, columns, noise).transitions.view(noise.shape)
    return Sampled(torch.cat((greedy.transitions.unsqueeze(0), samples)), flips)


def example_of(
    device: torch.device, columns: SentenceColumns, n_examples: int
) -> Tensor:  # (M,) int64, the example of each transition; of pairs both sides are one
    n_transitions = 2 * np.diff(columns.token_offsets) - 1
    sentence = np.repeat(np.arange(n_sentences(columns)), n_transitions)
    return torch.from_numpy(sentence % n_examples).to(device)


def _without_replacement(
    free_mask: Tensor,  # (M,) bool, the choices
    example: Tensor,  # (M,) int64
    n_samples: int,
) -> Tensor:  # (S, M) bool
    """Draw for each sample one choice of every example, as long as there are any left."""
    key = torch.rand(free_mask.shape, dtype=torch.float64, device=free_mask.device)
    order = torch.argsort(2 * example + ~free_mask + key)  # those of an example together, its choices first
    count = torch.bincount(example)
    n_free = torch.zeros_like(count).index_add(0, example, free_mask.to(count.dtype))
    first = count.cumsum(0) - count
    flips = torch.zeros(n_samples, *free_mask.shape, dtype=torch.bool, device=free_mask.device)
    for number, row in enumerate(flips):
        row[order[(first + number)[number < n_free]]] = True
    return flips


def composed_rewards(
    model: Classifier,
    columns: SentenceColumns,
    transitions: Tensor,  # (k, M)
    labels: Tensor,  # (E,) int64
    class_weights: Tensor | None = None,  # (C,) float, None = all 1
) -> Tensor:  # (k, E) float
    """Compose and classify the sentences under these trees; return their `label_rewards`."""
    sentences = batch_of(model.encoder, under(columns, transitions), "forest")
    logits = model.classify(model.encoder(sentences), Batch(sentences, labels))
    return label_rewards(logits, labels, class_weights)


def better_than(
    rewards: Tensor,  # (1 + S, E), the greedy parse first
    moments: Moments,
    baseline: str,
) -> Tensor:  # (S, E)
    """Return by how much each sample is better than was to be expected, only ever scaled down."""
    chosen = rewards if baseline == "greedy" else rewards[1:]
    return advantages(chosen, moments, baseline, normalise=False) / moments.deviation().clamp(min=1)


def experience_of(
    policy: SentenceEncoder,
    columns: SentenceColumns,
    sampled: Sampled,
    rewards: Tensor,  # (1 + S, E)
    better: Tensor,  # (S, E) of the samples, `better_than`
) -> Experience:
    """Say what is credited with how much."""
    n_examples, device = rewards.shape[1], rewards.device
    example = example_of(device, columns, n_examples)
    if sampled.flips is not None:
        n_samples = len(sampled.flips)
        sample, place = sampled.flips.nonzero(as_tuple=True)
        batch = batch_of(policy, under(columns, sampled.transitions[:1]), "lanes")
        credited, credits = 1 - sampled.transitions[0, place], better[sample, example[place]]
        with torch.no_grad():
            n_free = torch.zeros_like(rewards[0]).index_add(
                0, example, policy.parse(batch).free_mask.to(rewards)
            )
        weights = (n_free / n_free.clamp(max=n_samples))[example[place]]
        term = torch.arange(len(place), device=device)
    else:
        transitions = sampled.transitions[1:]
        weights = torch.full_like(better, 1 / len(transitions)).flatten()
        credits = better.flatten()
        batch = batch_of(policy, under(columns, transitions), "lanes")
        credited = transitions.flatten()
        place = torch.arange(len(credited), device=device)
        samples = torch.arange(len(transitions), device=device).unsqueeze(1)
        term = (samples * n_examples + example).flatten()
    new = Experience(batch, place, credited, term, credits, weights, credits, n_examples)
    with torch.no_grad():
        before = credited_log_probabilities(policy.parse(batch), new)
    return new._replace(before=before, weights=weights if sampled.flips is None else weights * before.exp())


def credited_log_probabilities(parse: Parse, experience: Experience) -> Tensor:  # (T,)
    """Return how probable the policy finds what is credited, as log."""
    of_transitions = F.log_softmax(parse.logits, 1)[experience.place_index, experience.credited]
    return torch.zeros_like(experience.advantages).index_add(0, experience.term_index, of_transitions)


def policy_loss(
    policy: SentenceEncoder,
    experience: Experience,
    clip_ratio: float,  # ε
    entropy_weight: Tensor,  # () float
) -> tuple[Tensor, Tensor]:  # () loss, summed over the examples; (2,) entropy and mean |ρ - 1|, detached
    """Return the loss described above, times the number of examples."""
    parse = policy.parse(experience.batch)
    ratio = (credited_log_probabilities(parse, experience) - experience.before).exp()
    credit, clipped = experience.advantages, ratio.clamp(1 - clip_ratio, 1 + clip_ratio)
    terms = experience.weights * torch.minimum(ratio * credit, clipped * credit)
    entropy = mean_entropy(parse)
    told = torch.stack((entropy, (ratio - 1).abs().mean())).detach()
    return -terms.sum() - entropy_weight * entropy * experience.n_examples, told
