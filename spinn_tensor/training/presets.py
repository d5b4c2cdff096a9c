"""Named settings: with the values that the paper and its PyTorch version published, and small ones.

    name                    published                                               chosen here
    spinn-pi-nt, spinn-pi   Bowman et al., ACL 2016: RMSProp, learning rate, L2,    epochs, patience, evaluate_every,
                            both keep rates, ×0.75 every 10k steps, batches of 32,  save_every, clip norm, alpha and
                            300 wide, MLP 1024 wide, tracker 61 (spinn-pi)          epsilon of RMSProp
    spinn                   the same; tracker 79, transition loss weight 3.9        the same
    …-2017                  the PyTorch version: lr 2e-3, alpha .9, eps 1e-6,       all else: both dropouts, L2, …
                            ×.75 an epoch, batches of 128, tracker 64
    lstm, bilstm, bow       nothing                                                 all
    sst-spinn-pi            nothing                                                 all: labels of nodes, from scratch
    parser                  nothing                                                 all: trees alone, from scratch
    logic-…                 nothing                                                 all: 100 wide, minutes on two cores
    listops-…               nothing                                                 all: 128 wide, tuned for spinn-pi-nt

That the paper's MLP has two layers, and SPINN's one, is not written there; it follows from the published numbers of
parameters.
The paper's "keep" rates appear as dropout rates, 1 - keep. Its word vectors are fixed
(`train_embedding=False`); where a run has no --vectors there is nothing to fix, and the embedding is
trained.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from spinn_tensor.config import ConfigError
from spinn_tensor.training.config import DataConfig, ParsingConfig, RunConfig, TrainingConfig


class Preset(NamedTuple):
    """A named starting point; every value can still be changed on the command line."""

    summary: str  # one line for `spinn presets`
    encoder: dict[str, Any]
    classifier: dict[str, Any]
    training: TrainingConfig
    parsing: ParsingConfig = ParsingConfig()  # of SPINNs that parse
    corpus: str | None = None  # the only one that it is made for


# without any parse
_LOGIC_REINFORCE = ParsingConfig(
    learning="reinforce",
    n_samples=8,
    baseline="leave-one-out",
    policy_weight=0.3,
    entropy_weight=0.05,
    entropy_steps=1200,
)
# half an epoch of parses first
_LISTOPS_REINFORCE = ParsingConfig(
    learning="reinforce", n_samples=1, baseline="mean", entropy_weight=0.0, warmup_steps=700
)


def _paper(kind: str, rate: float, decay: float, keep: float, mlp_keep: float) -> Preset:
    return Preset(
        "published: rate, L2, dropout, batch, decay",
        {
            "kind": kind,
            "embedding_dim": 300,
            "hidden_dim": 300,
            "tracker_dim": 61,
            "train_embedding": False,
            "embedding_dropout": round(1 - keep, 4),
        },
        {"mlp_dim": 1024, "mlp_layers": 2, "mlp_dropout": round(1 - mlp_keep, 4)},
        TrainingConfig(
            epochs=20,
            batch_size=32,
            learning_rate=rate,
            weight_decay=decay,
            decay_every=10_000,
            decay_unit="step",
            patience=10,
            evaluate_every=5_000,
            save_every=1_000,
        ),
    )


def _baseline(kind: str) -> Preset:
    """An encoder to compare with, around which all is as for the paper's; its values are chosen here."""
    return _paper(kind, 5e-3, 4e-6, 0.90, 0.94)._replace(summary="to compare; all values chosen here")


def _pytorch(kind: str) -> Preset:
    return Preset(
        "published, PyTorch version: lr, batch, decay",
        {
            "kind": kind,
            "embedding_dim": 300,
            "hidden_dim": 300,
            "tracker_dim": 64,
            "train_embedding": False,
            "embedding_dropout": 0.08,
        },
        {"mlp_dim": 1024, "mlp_layers": 2, "mlp_dropout": 0.07},
        TrainingConfig(epochs=20, batch_size=128, learning_rate=2e-3, evaluate_every=1_000, patience=10),
    )


def _logic(kind: str, rate: float, factor: float) -> Preset:
    return Preset(
        "generated corpus: 100 wide, from scratch",
        {
            "kind": kind,
            "embedding_dim": 100,
            "hidden_dim": 100,
            "tracker_dim": 32,
            "train_embedding": True,
            "embedding_dropout": 0.0,
        },
        {"mlp_dim": 200, "mlp_layers": 1, "mlp_dropout": 0.0},
        TrainingConfig(epochs=6, batch_size=64, learning_rate=rate, decay_factor=factor),
        corpus="logic",
    )


_SST = Preset(
    "SST with --node-labels: 150 wide, from scratch",
    {
        "kind": "spinn-pi",
        "embedding_dim": 150,
        "hidden_dim": 150,
        "tracker_dim": 32,
        "train_embedding": True,
        "embedding_dropout": 0.3,
    },
    {"mlp_dim": 150, "mlp_layers": 1, "mlp_dropout": 0.3},
    TrainingConfig(epochs=10, batch_size=64, learning_rate=1e-3, weight_decay=1e-5, patience=4),
    corpus="sst",
)


def _listops(kind: str) -> Preset:
    return Preset(
        "ListOps: 128 wide",
        {
            "kind": kind,
            "embedding_dim": 32,
            "hidden_dim": 128,
            "tracker_dim": 32,
            "train_embedding": True,
            "embedding_dropout": 0.0,
        },
        {"mlp_dim": 128, "mlp_layers": 1, "mlp_dropout": 0.0},
        TrainingConfig(epochs=13, batch_size=64, learning_rate=2e-3, decay_factor=0.3, decay_every=8),
        corpus="listops",
    )


def _spinn() -> Preset:
    """The paper's, which differs from its others in the tracker's width and the depth of the MLP, too."""
    preset = _paper("spinn", 2e-3, 3e-5, 0.86, 0.94)
    return preset._replace(
        encoder={**preset.encoder, "tracker_dim": 79},
        classifier={**preset.classifier, "mlp_layers": 1},
        parsing=ParsingConfig(transition_weight=3.9),
    )


_PARSER = Preset(
    "trees alone, from scratch: 100 wide",
    {
        "kind": "spinn",
        "embedding_dim": 64,
        "hidden_dim": 100,
        "tracker_dim": 64,
        "leaf_encoder": "bilstm",
        "train_embedding": True,
        "embedding_dropout": 0.3,
    },
    {},
    TrainingConfig(epochs=6, batch_size=32, learning_rate=2e-3, decay_factor=0.6, select_by="f1"),
    ParsingConfig(transition_weight=1.0),
    corpus="trees",
)


PRESETS: dict[str, Preset] = {
    "spinn-pi-nt": _paper("spinn-pi-nt", 3e-4, 3e-6, 0.83, 0.94),
    "spinn-pi": _paper("spinn-pi", 7e-3, 2e-5, 0.92, 0.93),
    "spinn": _spinn(),
    "lstm": _baseline("lstm"),
    "bilstm": _baseline("bilstm"),
    "bow": _baseline("bow"),
    "spinn-pi-nt-2017": _pytorch("spinn-pi-nt"),
    "spinn-pi-2017": _pytorch("spinn-pi"),
    "sst-spinn-pi": _SST,
    "parser": _PARSER,
    "logic-spinn-pi-nt": _logic("spinn-pi-nt", 3e-3, 0.6),
    "logic-spinn-pi": _logic("spinn-pi", 3e-3, 0.6),
    "logic-spinn": _logic("spinn", 3e-3, 0.6)._replace(parsing=ParsingConfig(transition_weight=1.0)),
    "logic-rl-spinn": _logic("spinn", 3e-3, 0.6)._replace(parsing=_LOGIC_REINFORCE),
    "logic-lstm": _logic("lstm", 2e-3, 0.8),
    "logic-bilstm": _logic("bilstm", 2e-3, 0.8),
    "logic-bow": _logic("bow", 2e-3, 0.8),
    "listops-spinn-pi-nt": _listops("spinn-pi-nt"),
    "listops-spinn-pi": _listops("spinn-pi"),
    "listops-spinn": _listops("spinn"),
    "listops-rl-spinn": _listops("spinn")._replace(parsing=_LISTOPS_REINFORCE),
    "listops-lstm": _listops("lstm"),
}

DEFAULT_PRESETS = {
    "logic": "logic-spinn-pi",
    "snli": "spinn-pi-2017",
    "multinli": "spinn-pi-2017",
    "pairs": "spinn-pi-2017",
    "sst": "sst-spinn-pi",
    "listops": "listops-spinn-pi-nt",
    "trees": "parser",
}


def run_config(preset: str, data: DataConfig) -> RunConfig:
    """The run that a preset describes on the given data. Raises ConfigError for an unknown name."""
    if preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r}; known are {', '.join(PRESETS)}")
    chosen = PRESETS[preset]
    return RunConfig(
        preset, data, dict(chosen.encoder), dict(chosen.classifier), chosen.training, chosen.parsing
    )


def corpus_of(preset: str | None) -> str:
    """The corpus that a preset is made for; "logic" for those made for any, and for none."""
    return (PRESETS[preset].corpus if preset in PRESETS else None) or "logic"


def preset_table() -> str:
    """All presets as lines of text: name, learning rate, batch, decay, dropout, tracker, and what it is."""
    lines = [f"{'preset':<19} {'lr':>6} {'L2':>6} {'batch':>5}  {'lr decay':<18} {'dropout':<11} what it is"]
    for name, preset in PRESETS.items():
        training = preset.training
        decay = f"×{training.decay_factor:g} / {training.decay_every:,} {training.decay_unit}"
        dropout = f"{preset.encoder['embedding_dropout']:g}"
        if preset.classifier:
            dropout += f" / {preset.classifier['mlp_dropout']:g}"
        lines.append(
            f"{name:<19} {training.learning_rate:>6.0e} {training.weight_decay:>6.0g} "
            f"{training.batch_size:>5}  {decay:<18} {dropout:<11} {preset.summary}"
        )
    return "\n".join(lines)
