"""Settings: the presets' published values, checks, the trip through JSON, and changes by name."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from spinn_tensor import ConfigError, EncoderConfig
from spinn_tensor.cli.main import build_parser
from spinn_tensor.cli.train import MANIFEST, new_run, resumed_run
from spinn_tensor.data_prep.corpora.kinds import KINDS
from spinn_tensor.training.config import (
    DataConfig,
    RunConfig,
    TrainingConfig,
    differences,
    parse_setting,
    settable,
)
from spinn_tensor.training.presets import (
    DEFAULT_PRESETS,
    PRESETS,
    find_preset,
    preset_table,
    preset_toml,
    run_config,
    without_vectors,
)
from tests.command_line import Spinn
from tests.tiny_runs import pair_arguments
from tests.tiny_training import run_of

WITH_VECTORS = DataConfig(vectors="glove.txt")


@pytest.mark.parametrize(
    "name, rate, decay, embedding_keep, mlp_keep",
    [("spinn-pi-nt", 3e-4, 3e-6, 0.83, 0.94), ("spinn-pi", 7e-3, 2e-5, 0.92, 0.93)],
)
def test_presets_of_the_paper(
    name: str, rate: float, decay: float, embedding_keep: float, mlp_keep: float
) -> None:
    run = run_config(name, WITH_VECTORS)
    training = run.training
    assert (training.learning_rate, training.weight_decay) == (rate, decay)
    assert (training.batch_size, training.decay_factor) == (32, 0.75)
    assert (training.decay_every, training.decay_unit) == (10_000, "step")
    assert run.encoder["kind"] == name
    assert run.encoder["tracker_dim"] == 61
    assert run.encoder["embedding_dropout"] == pytest.approx(1 - embedding_keep)
    assert run.classifier["mlp_dropout"] == pytest.approx(1 - mlp_keep)
    assert (run.classifier["mlp_dim"], run.classifier["mlp_layers"]) == (1024, 2)
    assert not run.encoder["train_embedding"]


def test_the_paper_spinn() -> None:
    """Its learning rate, L2, keep rates, tracker and weight of the transition loss; the rest as for the others."""
    run, other = run_config("spinn", WITH_VECTORS), run_config("spinn-pi", WITH_VECTORS)
    assert (run.training.learning_rate, run.training.weight_decay) == (2e-3, 3e-5)
    assert run.training == replace(other.training, learning_rate=2e-3, weight_decay=3e-5)
    assert run.encoder == {**other.encoder, "kind": "spinn", "tracker_dim": 79, "embedding_dropout": 0.14}
    assert run.classifier == {"mlp_dim": 1024, "mlp_layers": 1, "mlp_dropout": 0.06}
    assert (run.parsing.learning, run.parsing.transition_weight) == ("supervised", 3.9)


@pytest.mark.parametrize("corpus", ["logic", "listops"])
def test_presets_of_spinns_that_learn_to_parse(corpus: str) -> None:
    spinn, reinforced = (
        run_config(f"{corpus}-{name}", DataConfig(corpus=corpus)) for name in ("spinn", "rl-spinn")
    )
    assert spinn.encoder["kind"] == reinforced.encoder["kind"] == "spinn"
    assert (spinn.parsing.learning, reinforced.parsing.learning) == ("supervised", "reinforce")
    parser = run_config(DEFAULT_PRESETS["trees"], DataConfig(corpus="trees"))
    assert (parser.encoder["kind"], parser.training.select_by) == ("spinn", "f1")


@pytest.mark.parametrize("name", ["spinn-pi-nt-2017", "spinn-pi-2017"])
def test_presets_of_the_pytorch_version(name: str) -> None:
    run = run_config(name, WITH_VECTORS)
    training = run.training
    assert (training.learning_rate, training.rms_decay, training.rms_epsilon) == (2e-3, 0.9, 1e-6)
    assert (training.decay_factor, training.decay_every, training.decay_unit) == (0.75, 1, "epoch")
    assert (training.batch_size, run.encoder["tracker_dim"]) == (128, 64)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid_and_survives_json(name: str) -> None:
    run = run_config(name, DataConfig(extra=("long=x.jsonl",)))
    assert RunConfig.from_dict(json.loads(json.dumps(run.to_dict()))) == run
    line = next(line for line in preset_table().splitlines() if line.startswith(f"{name} "))
    schedule = PRESETS[name].run.training.lr_schedule
    assert (" ×" if schedule == "step" else f" {schedule} ") in line


def test_default_presets_exist() -> None:
    assert set(DEFAULT_PRESETS) == set(KINDS)
    assert set(DEFAULT_PRESETS.values()) <= set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_file_to_copy(name: str, tmp_path: Path) -> None:
    """What is printed of it gives the same run; and no value is left to a default."""
    copy = tmp_path / "copy.toml"
    copy.write_text(preset_toml(name), encoding="utf-8")
    data = DataConfig(corpus=PRESETS[name].corpus or "snli")
    original, again = run_config(name, data), run_config(str(copy), data)
    assert again.preset == str(copy)
    for section in ("encoder", "classifier"):
        written = getattr(again, section)
        assert set(written) == set(settable(section))
        assert written == {**written, **getattr(original, section)}
    assert (again.training, again.parsing) == (original.training, original.parsing)
    assert PRESETS[name].summary in copy.read_text(encoding="utf-8")


def test_a_summary_may_have_any_character(tmp_path: Path) -> None:
    own, copy = tmp_path / "own.toml", tmp_path / "copy.toml"
    own.write_text(
        """base = "logic-lstm"\nsummary = "déjà \U0001f600 \\u007f \\n \\" \\\\ " """, encoding="utf-8"
    )
    copy.write_text(preset_toml(str(own)), encoding="utf-8")
    assert find_preset(str(copy)).summary == find_preset(str(own)).summary == 'déjà \U0001f600 \x7f \n " \\ '


def test_a_file_may_change_another_preset(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('base = "logic-lstm"\n[training]\nepochs = 2\n[encoder]\nhidden_dim = 7\n')
    base, changed = (run_config(name, DataConfig()) for name in ("logic-lstm", str(own)))
    assert changed == replace(base.changed(epochs=2, hidden_dim=7), preset=str(own))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_file_may_be_written_on_windows(encoding: str, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_bytes('base = "logic-lstm"\r\nsummary = "é"\r\n'.encode(encoding))
    assert find_preset(str(own)).summary == "é"


def test_a_file_without_a_base_has_the_defaults(tmp_path: Path, spinn: Spinn) -> None:
    own = tmp_path / "own.toml"
    own.write_text("[training]\nbatch_size = 7\n")
    printed = spinn("inspect", *pair_arguments(tmp_path)[1:7], "--preset", own).out
    assert "batches of 7 examples" in printed


@pytest.mark.parametrize(
    "content, message",
    [
        ("[training]\nepoch = 2", r"own.toml: training: unknown key 'epoch' \(did you mean epochs\?\)"),
        ("[trainin]\nepochs = 2", r"own.toml: unknown key 'trainin' \(did you mean training\?\)"),
        ("[encoder]\nlearning_rate = 1", "own.toml: encoder: .*; it is in training"),
        ("[whithout_vectors]\nepochs = 1", r"own.toml: .*did you mean without_vectors\?"),
        ("[without_vectors]\nbatch_norm = true", "own.toml: .*ambiguous"),
        ("[without_vectors]\nepochs = 0", "own.toml: epochs: expected at least 1"),
        ('[without_vectors]\nepochs = "2"', r"own.toml: .*epochs: expected int, got '2'"),
        ("[training]\nclass_weights = 3", "own.toml: class_weights: expected balanced alone or .*, got 3"),
        ("[without_vectors]\nepoch = 1", r"own.toml: .*did you mean epochs\?"),
        ('base = "logic-lst"', r"own.toml: base: unknown preset 'logic-lst' \(did you mean logic-lstm\?\)"),
        ("training = 3", "own.toml: training: expected a table, got 3"),
        ("base = 3", "own.toml: base: "),
        ('base = "FOLDER/own"', "own.toml: base: unknown preset"),
        ("[training]\nlearning_rate = inf", "own.toml: learning_rate: expected a finite number, got inf"),
        ('[training]\nepochs = "2"', r"own.toml: .*epochs: expected int, got '2'"),
        ("[training]\nepochs = 0", "own.toml: epochs: expected at least 1, got 0"),
        ('[encoder]\nkind = "gru"', "own.toml: kind: expected one of spinn"),
        ("[encoder]\nvocabulary_size = 9", "own.toml: encoder: unknown key 'vocabulary_size'"),
        ("[training\nepochs = 2", r"own.toml: .*line 1"),
        ('corpus = "wiki"', "own.toml: corpus: expected one of logic"),
        ("a = " + "[" * 10_000, "own.toml: "),
        (None, "own.toml: no such file"),
    ],
)
def test_a_bad_file_is_named_with_the_key(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "own.toml").write_text(content.replace("FOLDER", str(tmp_path)))
    with pytest.raises(ConfigError, match=message):
        run_config(str(tmp_path / "own.toml"), DataConfig())


@pytest.mark.parametrize(
    "text, key, value",
    [
        ("hidden_dim=7", "encoder__hidden_dim", 7),
        ("learning_rate=1e-3", "training__learning_rate", 1e-3),
        ("compile=true", "training__compile", True),
        ("encoder.batch_norm=no", "encoder__batch_norm", False),
        ("classifier.batch_norm=yes", "classifier__batch_norm", True),
        ("vectors=none", "data__vectors", None),
        ("extra=a=1,b=2", "data__extra", ("a=1", "b=2")),
        ("leaf_encoder=bilstm", "encoder__leaf_encoder", "bilstm"),
        ("branching=left", "data__branching", "left"),
        ("branching=none", "data__branching", None),
    ],
)
def test_settings_are_typed_by_their_field(text: str, key: str, value: object) -> None:
    assert parse_setting(text) == (key, value)
    changed = run_config("logic-bow", DataConfig()).changed(**{key: value}).to_dict()
    section, name = key.split("__")
    assert changed[section][name] == (list(value) if isinstance(value, tuple) else value)


@pytest.mark.parametrize(
    "key, value",
    [
        ("epochs", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("clip_norm", -1.0),
        ("rms_decay", 1.0),
        ("hidden_dim", 0),
        ("embedding_dropout", 1.0),
        ("kind", "gru"),
        ("corpus", "wikipedia"),
        ("node_labels", True),
        ("extra", ("long",)),
        ("train", "a.jsonl"),
        ("branching", "up"),
        ("limit", -1),
        ("seed", -1),
        ("seed", 2**70),
    ],
)
def test_bad_values_name_their_key(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key):
        run_config("logic-spinn-pi", DataConfig()).changed(**{key: value})


@pytest.mark.parametrize(
    "key, value",
    [
        ("train", "a.txt"),
        ("labels", {"a": 1}),
        ("fields", [1]),
        ("extra", [["a", "b"]]),
        ("data", 5),
        ("vectors", ["glove.txt"]),
        ("tokenizer", True),
        ("branching", 0),
        ("limit", None),
    ],
)
def test_values_of_another_type_are_one_error(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"(^|\.){key}: expected .*, got "):
        DataConfig.from_dict({key: value})
    assert DataConfig.from_dict({"data": None, "train": ["a"]}) == DataConfig(train=("a",))


@pytest.mark.parametrize("section", [None, "data", "encoder", "classifier", "training"])
def test_unknown_keys_are_refused(section: str | None) -> None:
    values = run_config("logic-bow", DataConfig()).to_dict()
    (values if section is None else values[section])["surprise"] = 1
    with pytest.raises(ConfigError, match="surprise"):
        RunConfig.from_dict(values)


@pytest.mark.parametrize("change", [{"kind": "lstm"}, {"kind": "bilstm"}, {"leaf_encoder": "bilstm"}])
def test_lstms_are_not_compiled(change: dict[str, str]) -> None:
    run = run_config("logic-spinn-pi", DataConfig()).changed(**change)
    with pytest.raises(
        ConfigError, match=r"^compile: torch.compile cannot take an LSTM whole; .* is 'b?i?lstm'$"
    ):
        run.changed(compile=True)
    assert run.changed(compile=True, kind="bow", leaf_encoder="projection").training.compile


def test_only_what_is_published_is_called_so() -> None:
    published = {name for name, preset in PRESETS.items() if "published" in preset.summary}
    assert published == {"spinn-pi-nt", "spinn-pi", "spinn", "spinn-pi-nt-2017", "spinn-pi-2017"}
    assert all("chosen here" in PRESETS[name].summary for name in ("lstm", "bilstm", "bow"))


def test_paths_become_absolute() -> None:
    data = DataConfig(data="a", dev=("/b/../c", "d"), extra=("long=x=y.jsonl",)).with_absolute_paths()
    assert (data.data, data.dev, data.train) == (os.path.abspath("a"), ("/c", os.path.abspath("d")), ())
    assert data.extra == (f"long={os.path.abspath('x=y.jsonl')}",)


def test_differences_name_keys() -> None:
    old = run_config("logic-bow", DataConfig())
    new = old.changed(seed=5, hidden_dim=9)
    assert differences(old, new) == [
        ("encoder.hidden_dim", old.encoder["hidden_dim"], 9),
        ("training.seed", old.training.seed, 5),
    ]
    assert "leaf_encoder" not in old.encoder
    assert differences(old, old.changed(leaf_encoder="projection")) == []  # which is the default


def test_the_want_of_word_vectors_is_known_of_a_preset_in_a_file_too(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('base = "spinn-pi-2017"')
    for preset, lacks in (("spinn-pi-2017", True), (str(own), True), ("logic-bow", False)):
        run = run_config(preset, DataConfig()).changed(train_embedding=True)
        assert (without_vectors(run) is not None) == lacks
        assert without_vectors(run.changed(vectors="glove.txt")) is None
    assert without_vectors(replace(run, preset="a program's own")) is None


def test_what_a_file_says_now_is_told_where_a_run_goes_on(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('base = "spinn-pi"\n[training]\nlearning_rate = 0.01')
    command = ["train", "--device", "cpu", "--preset", str(own), "--epochs", "3"]
    args, notes = build_parser().parse_args(command), []
    saved = new_run(args)
    assert resumed_run(args, saved, notes.append) == saved
    assert notes == []
    for content, message in (
        ('base = "spinn-pi"\n[training]\nlearning_rate = 0.02', "training.learning_rate: 0.01, there 0.02"),
        ("[training", "own.toml: "),
        (None, "own.toml: no such file"),
    ):
        own.unlink() if content is None else own.write_text(content)
        assert resumed_run(args, saved, notes.append) == saved
        assert message in notes.pop()
        assert notes == []


def test_a_preset_for_one_corpus_is_not_trained_on_another_by_default(tmp_path: Path) -> None:
    def corpus(*options: str) -> str:
        return run_of(*options).data.corpus

    assert corpus() == corpus("--preset", "logic-lstm") == corpus("--preset", "spinn-pi") == "logic"
    assert corpus("--preset", "listops-rl-spinn") == "listops"
    assert corpus("--preset", "parser") == "trees"
    assert corpus("--preset", "sst-spinn-pi") == "sst"
    assert corpus("--preset", "logic-lstm", "--corpus", "snli") == "snli"
    (tmp_path / "own.toml").write_text('base = "parser"')
    assert corpus("--preset", str(tmp_path / "own.toml")) == "trees"
    assert {name.split("-")[0] for name in PRESETS if PRESETS[name].corpus == "logic"} == {"logic"}


@pytest.mark.parametrize("name", ["spinn-pi", "bow", "lstm", "bilstm"])
def test_a_preset_that_does_not_learn_without_vectors_sets_what_does(name: str) -> None:
    run, published = run_config(name, DataConfig()), run_config(name, WITH_VECTORS)
    assert run.encoder["train_embedding"]
    assert run.training.learning_rate == 1e-3
    assert published.training.learning_rate >= 5e-3
    assert f"learning_rate is 0.001, since {published.training.learning_rate} is for" in without_vectors(run)
    assert without_vectors(published) is None
    own = without_vectors(run.changed(learning_rate=2e-3))  # one's own rate is not told
    assert own is not None
    assert "learning_rate" not in own
    options = "--corpus", "snli", "--preset", name
    assert run_of(*options, "--lr", "0.004").training.learning_rate == 0.004
    assert run_of(*options, "--set", "vectors=glove.txt").training == published.training


def test_what_a_file_says_of_all_runs_holds_without_vectors_too(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text('base = "spinn-pi"\n[training]\nlearning_rate = 0.25\n')
    assert run_config(str(file), DataConfig()).training.learning_rate == 0.25
    file.write_text('base = "spinn-pi"\n[without_vectors]\nepochs = 3\n"encoder.batch_norm" = false\n')
    run = run_config(str(file), DataConfig())
    assert (run.training.learning_rate, run.training.epochs, run.encoder["batch_norm"]) == (1e-3, 3, False)
    assert "preset is" not in str(without_vectors(run))
    assert run_config(str(file), WITH_VECTORS).training.epochs == 20
    (tmp_path / "copy.toml").write_text(preset_toml(str(file)))
    copy = run_config(str(tmp_path / "copy.toml"), DataConfig())
    assert (copy.training, copy.encoder["batch_norm"]) == (run.training, False)


@pytest.mark.parametrize(
    "give, said",
    [
        (lambda: run_config("spin", DataConfig()), "unknown preset 'spin' (did you mean spinn?)"),
        (lambda: run_config("x", DataConfig()), f"unknown preset 'x'; known are {', '.join(PRESETS)}"),
        (
            lambda: parse_setting("batch_norm=true"),
            "ambiguous: encoder.batch_norm or classifier.batch_norm",
        ),
        (lambda: parse_setting("vocabulary_size=7"), "unknown key"),
        (lambda: parse_setting("hidden_dim=seven"), "hidden_dim=seven: expected int"),
        (lambda: parse_setting("compile=maybe"), "expected true or false"),
        (lambda: parse_setting("hidden_dim"), "a setting is key=value"),
        (lambda: parse_setting("lr=1"), "did you mean learning_rate?"),
        (lambda: parse_setting("hiden_dim=1"), "did you mean hidden_dim?"),
        (lambda: parse_setting("classifier_batch_norm=no"), "did you mean classifier.batch_norm?"),
        (lambda: run_config("lstm", DataConfig()).changed(mlp_dims=1), "did you mean mlp_dim?"),
        (lambda: TrainingConfig(learning_rte=1), "did you mean learning_rate?"),
        (lambda: EncoderConfig(9, hiden_dim=1), "did you mean hidden_dim?"),
        (lambda: EncoderConfig(9, kind="spin-pi"), "did you mean spinn-pi?"),
        (lambda: DataConfig(corpus="multnli"), "did you mean multinli?"),
        (lambda: TrainingConfig.from_dict({"sed": 1}), "did you mean seed?"),
    ],
)
def test_a_wrong_setting_is_told_with_what_was_meant_however_it_is_given(give, said) -> None:
    with pytest.raises((ConfigError, TypeError)) as caught:
        give()
    assert said in str(caught.value)


def test_a_generated_corpus_says_what_a_run_to_resume_begins_with(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text("{}")
    assert run_of("--data", str(tmp_path), "--resume").data.corpus == "logic"
