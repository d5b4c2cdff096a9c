"""The predictor without torch: what the pipeline gives of the checkpoint, from the exported folder alone."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from spinn_tensor import Pipeline
from spinn_tensor.data_prep.errors import DataError
from tests.processes import run_program
from tests.tiny_bundles import PARSES, TEXTS, WORDS

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from spinn_tensor.export import session  # noqa: E402
from spinn_tensor.export.artefact import ArtefactError  # noqa: E402
from spinn_tensor.export.predictor import OnnxPredictor  # noqa: E402
from spinn_tensor.export.session import ProviderError, open_session  # noqa: E402
from tests.closeness import assert_close  # noqa: E402

pytestmark = pytest.mark.numerical

KINDS = {
    "own": ("spinn", "pair"),
    "given": ("spinn-pi", "pair"),
    "forest": ("spinn-pi-nt", "sentence"),
    "lstm": ("lstm", "pair"),
    "bow": ("bow", "sentence"),
    "bilstm": ("bilstm", "sentence"),
}
WITHOUT_TREES = ("lstm", "bow", "bilstm")
# the BiLSTM is in test_onnx, and here like the LSTM
ALL = [*(tables for tables in KINDS if tables != "bilstm"), pytest.param("bilstm", marks=pytest.mark.slow)]
MIXED = [*TEXTS, *PARSES, *TEXTS[::-1]]  # unlike lengths and orders, one of one word, an odd number


Folders = Callable[[str], tuple[Path, Path]]


@pytest.fixture(scope="module")
def folders(made: Callable[[str, str], tuple[Path, Path]]) -> Folders:
    """Return what gives a bundle and its export for a kind of tables."""
    return lambda tables: made(*KINDS[tables])


@pytest.fixture
def exported(folders: Folders, tmp_path: Path) -> Path:
    """An exported folder to damage."""
    return Path(shutil.copytree(folders("own")[1], tmp_path / "exported"))


def both(folders: Folders, tables: str, trees: str | None = None) -> tuple[Pipeline, OnnxPredictor]:
    bundle, folder = folders(tables)
    pipeline = Pipeline.from_pretrained(bundle, device="cpu", trees=trees)
    return pipeline, OnnxPredictor(folder, "cpu", threads=1, trees=trees)


def sides(predictor: OnnxPredictor, sentences: list[str]) -> tuple[list[str], ...]:
    """A pair is a sentence and the next one."""
    following = [*sentences[1:], *sentences[:1]]
    return (sentences, following) if predictor.exported.task == "pair" else (sentences,)


@pytest.mark.parametrize(
    "tables, trees",
    [
        ("own", None),
        ("given", "left"),
        ("given", "balanced"),
        ("forest", "right"),
        ("lstm", None),
        ("bow", None),
        pytest.param("bilstm", None, marks=pytest.mark.slow),
    ],
)
def test_it_gives_what_the_pipeline_gives(tables, trees, folders) -> None:
    pipeline, predictor = both(folders, tables, trees)
    assert predictor.labels == pipeline.labels
    encodings = predictor.encode(MIXED)
    assert encodings.dtype == np.float32
    assert len(np.unique(encodings.round(4), axis=0)) > 5
    assert_close(encodings, pipeline.encode(MIXED))
    if tables in WITHOUT_TREES:
        for each in (predictor, pipeline):
            with pytest.raises(TypeError, match=f"a model of kind '{tables}' looks at no tree"):
                each.parse(MIXED)
    else:
        assert predictor.parse(MIXED) == pipeline.parse(MIXED)
    expected = pipeline.classify(*sides(predictor, MIXED))
    got = predictor.classify(*sides(predictor, MIXED), batch_size=4)
    assert [prediction.label for prediction in got] == [prediction.label for prediction in expected]
    for prediction, other in zip(got, expected, strict=True):
        assert prediction.probabilities.keys() == other.probabilities.keys()
        assert_close(list(prediction.probabilities.values()), list(other.probabilities.values()))


@pytest.mark.parametrize("tables", ALL)
def test_parses_are_composed_as_given_and_one_sentence_does_not_see_another(tables, folders) -> None:
    pipeline, predictor = both(folders, tables)
    together = predictor.encode(PARSES)
    assert_close(together, pipeline.encode(PARSES))
    for row, parse in enumerate(PARSES):
        assert_close(predictor.encode([parse])[0], together[row])
    if tables not in WITHOUT_TREES:
        assert predictor.parse(PARSES) == pipeline.parse(PARSES)
    if tables in ("given", "forest"):
        assert predictor.parse(PARSES) == PARSES


@pytest.mark.parametrize("tables", ["own", "given"])
def test_either_sentence_of_a_pair_may_be_the_longer_one(tables, folders) -> None:
    pipeline, predictor = both(folders, tables, None if tables == "own" else "right")
    for pair in ("cats", TEXTS[2]), (TEXTS[2], "cats"):
        (got,), (expected,) = (each.classify(pair[:1], pair[1:]) for each in (predictor, pipeline))
        assert_close(list(got.probabilities.values()), list(expected.probabilities.values()))


def test_trees_and_their_steps_are_as_probable_as_to_the_pipeline(folders) -> None:
    pipeline, predictor = both(folders, "own")
    rng = np.random.default_rng(0)
    sentences = [rng.choice(WORDS, n).tolist() for n in (1, 2, 23, 1, 9, 2, 14)]
    found = predictor.parses(sentences)
    for got, expected in zip(found, pipeline.parses(sentences), strict=True):
        steps = got.step_log_probabilities
        assert_close(steps, expected.step_log_probabilities)
        assert got.log_probability == pytest.approx(expected.log_probability, rel=1e-5, abs=5e-6)
    assert [one.log_probability < 0 for one in found] == [len(words) > 2 for words in sentences]


def test_many_sentences_are_cut_by_tokens_and_keep_their_order(folders, monkeypatch) -> None:
    _, predictor = both(folders, "own")
    expected = predictor.encode(MIXED)
    monkeypatch.setattr("spinn_tensor.export.predictor.TOKENS", 24)
    assert_close(predictor.encode(MIXED), expected)


@pytest.mark.parametrize("tables", ALL)
def test_nothing_gives_nothing(tables, folders) -> None:
    _, predictor = both(folders, tables)
    assert predictor.encode([]).shape == (0, 16 if tables == "bilstm" else 8)
    assert tables in WITHOUT_TREES or predictor.parse([]) == []
    assert predictor.classify(*sides(predictor, [])) == []


def test_threads_share_a_predictor(folders) -> None:
    _, predictor = both(folders, "own")
    expected = predictor.encode(MIXED)
    with ThreadPoolExecutor(4) as pool:
        for encodings in pool.map(predictor.encode, [MIXED] * 8):
            assert np.array_equal(encodings, expected)


def test_another_predictor_parses_text(folders) -> None:
    parser = OnnxPredictor(folders("own")[1], "cpu")
    predictor = OnnxPredictor(folders("forest")[1], "cpu", parser=parser)
    pipeline = Pipeline.from_pretrained(folders("forest")[0], device="cpu", trees=folders("own")[0])
    assert predictor.parse(MIXED) == pipeline.parse(MIXED)
    assert predictor.parse(TEXTS) == parser.parse(TEXTS)
    assert predictor.parse(PARSES) == PARSES
    assert_close(predictor.encode(MIXED), pipeline.encode(MIXED))


def test_a_parser_s_limit_is_kept_where_it_parses_for_another(folders, exported) -> None:
    edit(max_length=3)(exported)
    metadata(max_length="3")(exported)
    predictor = OnnxPredictor(folders("forest")[1], "cpu", parser=OnnxPredictor(exported, "cpu"))
    assert len(predictor.encode(["A dog sings"])) == 1
    with pytest.raises(DataError, match="4 tokens; this model was exported for at most 3"):
        predictor.encode(["A dog sings ."])


def test_a_model_trained_with_branching_reads_text_so(folders, tmp_path) -> None:
    folder = Path(shutil.copytree(folders("forest")[1], tmp_path / "exported"))
    edit(branching="left")(folder)
    assert OnnxPredictor(folder, "cpu").parse(["A dog sings ."]) == ["( ( ( A dog ) sings ) . )"]


def test_a_model_without_trees_has_no_use_for_a_branching(folders, tmp_path) -> None:
    """What it was trained with says nothing to it."""
    folder = Path(shutil.copytree(folders("lstm")[1], tmp_path / "exported"))
    edit(branching="left")(folder)
    expected = OnnxPredictor(folders("lstm")[1], "cpu").encode(MIXED)
    assert np.array_equal(OnnxPredictor(folder, "cpu").encode(MIXED), expected)


def test_a_home_is_found_and_a_line_says_what_it_is(exported, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(exported.parent))
    predictor = OnnxPredictor("~/exported", "cpu")
    said = "OnnxPredictor(spinn, pair, labels entailment, neutral, contradiction, 20 words, trees: its own)"
    assert repr(predictor) == said


def test_its_methods_are_the_pipelines() -> None:
    for name in ("classify", "encode", "parse", "similarity"):  # what they refuse is tested there
        assert getattr(OnnxPredictor, name) is getattr(Pipeline, name)


def test_text_without_a_parse_is_refused_where_trees_are_given(folders) -> None:
    with pytest.raises(DataError, match="example 0: sentences: text without a parse; this"):
        both(folders, "given")[1].encode(["A dog"])


def test_options_that_there_are_not_or_that_would_do_nothing(folders) -> None:
    own, given = folders("own")[1], folders("given")[1]
    parser, no_parser = OnnxPredictor(own, "cpu"), OnnxPredictor(given, "cpu")
    for kind in ("lstm", "bow"):
        with pytest.raises(ValueError, match=f"a model of kind '{kind}' has no use for given trees"):
            OnnxPredictor(folders(kind)[1], "cpu", trees="left")
    with pytest.raises(ValueError, match="k: an exported model finds its best tree alone"):
        parser.parse(["A dog"], k=2)
    for folder, options, message in (
        (own, {"trees": "left"}, "a model of kind 'spinn' has no use for given trees"),
        (given, {"trees": "up"}, "trees: expected one of left, right, balanced, random, got 'up'"),
        (given, {"trees": "left", "parser": parser}, "give one of them"),
        (given, {"parser": no_parser}, "a model of kind 'spinn-pi' makes no trees"),
        (own, {"provider": "gpu"}, "unknown provider 'gpu', expected auto, cpu, cuda, tensorrt"),
        (own, {"threads": 0}, "threads: expected at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            OnnxPredictor(folder, **{"provider": "cpu", **options})


def test_a_longer_sentence_is_refused_only_by_a_model_with_a_limit(exported) -> None:
    words = " ".join(["dogs"] * 300)
    assert OnnxPredictor(exported, "cpu").encode([words]).shape == (1, 8)
    edit(max_length=299)(exported)
    metadata(max_length="299")(exported)
    with pytest.raises(
        DataError, match="example 1: sentences: 300 tokens; this model was exported for at most"
    ):
        OnnxPredictor(exported, "cpu").encode(["dogs", words])


def edit(**changes: object) -> Callable[[Path], None]:
    """Changes values of export.json; `...` removes the key."""

    def change(folder: Path) -> None:
        path = folder / "export.json"
        values = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))

    return change


def cut_model(folder: Path) -> None:
    whole = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(whole[: len(whole) // 2])


def metadata(**changes: str) -> Callable[[Path], None]:
    """Changes what the ONNX file says of itself; "" removes the key."""

    def change(folder: Path) -> None:
        import onnx

        model = onnx.load(folder / "model.onnx")
        kept = {item.key: item.value for item in model.metadata_props} | changes
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, {key: value for key, value in kept.items() if value})
        onnx.save(model, folder / "model.onnx")

    return change


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "exported: no such folder"),
    "no export.json": (lambda f: (f / "export.json").unlink(), "no exported model here"),
    "no JSON": (lambda f: (f / "export.json").write_text("{"), "export.json: not JSON"),
    "no object": (lambda f: (f / "export.json").write_text("[]"), "got a JSON list, expected an object"),
    "newer": (edit(format_version=2), "format version 2; this program reads 1: update spinn_tensor"),
    "no version": (edit(format_version="1"), "format_version is '1', expected a number"),
    "unknown key": (edit(color="red"), "unknown key 'color'"),
    "missing key": (edit(kind=...), "key 'kind' is missing"),
    "wrong type": (edit(labels=[1, 2]), r"labels: expected a list of names, got \[1, 2\]"),
    "negative": (edit(max_length=-1), "max_length: expected 0 or more, got -1"),
    "unknown format": (edit(format="../x"), "format: expected one of onnx, "),
    "unknown tables": (
        edit(tables="lane"),
        "tables: expected one of own, given, forest, sequence, got 'lane'",
    ),
    "another format": (edit(format="torchscript"), "model.ts: a torchscript artefact, expected ONNX"),
    "another vocabulary": (edit(vocabulary_sha256="0" * 64), "not the vocabulary of the exported model"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json: no such file"),
    "no model": (lambda f: (f / "model.onnx").unlink(), "model.onnx: no such file"),
    "half a model": (cut_model, r"model.onnx: onnxruntime cannot run it \(Protobuf parsing failed\)"),
    "another's model": (metadata(vocabulary_sha256="1" * 64), "vocabulary_sha256 is '111"),
    "a newer model": (metadata(spinn_format_version="2"), "format version 2; this program reads 1"),
    "no model of ours": (metadata(spinn_format_version=""), "not an ONNX file of spinn export"),
    "other labels": (edit(labels=["b", "a", "c"]), "labels is "),
    "other width": (edit(hidden_dim=9), "hidden_dim is '8', export.json says '9'"),
    "other leaves": (edit(folded=True), "folded is 'false', export.json says 'true'"),
    "other precision": (metadata(precision="int8"), "precision is 'int8', export.json says 'float32'"),
    "other tables": (metadata(tables="given"), "tables is 'given', export.json says 'own'"),
}


@pytest.mark.once
@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_folder_is_one_line(name, exported) -> None:
    damage, message = DAMAGE[name]
    damage(exported)
    with pytest.raises(ArtefactError, match=message) as raised:
        OnnxPredictor(exported, "cpu")
    assert len(str(raised.value).splitlines()) == 1


def test_a_predictor_says_which_provider_it_has(exported, caplog, monkeypatch) -> None:
    monkeypatch.setattr(session, "has_nvidia_driver", lambda: False)
    with caplog.at_level("INFO"):
        assert OnnxPredictor(exported).provider == "cpu"
    assert caplog.messages == [f"{exported / 'model.onnx'}: provider auto took cpu"]
    assert OnnxPredictor(exported, "cpu", threads=2).provider == "cpu"
    with pytest.raises(ProviderError, match="provider cuda: "):
        OnnxPredictor(exported, "cuda")


class Session:
    """Of an onnxruntime that falls back silently, or does not."""

    def __init__(self, granted: list[str], asked: list[tuple[str, dict[str, str]]]) -> None:
        self.asked = asked
        self.get_providers = lambda: granted
        self.disable_fallback = lambda: None


@pytest.fixture
def granting(exported: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """Opens the exported model where onnxruntime has CUDA, there is a driver, and sessions get these providers."""

    def open_it(provider: str, granted: list[str], offered: list[str] | None = None) -> object:
        offered = ["CUDAExecutionProvider", "CPUExecutionProvider"] if offered is None else offered
        monkeypatch.setattr(session, "has_nvidia_driver", lambda: True)
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offered)
        monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
        monkeypatch.setattr(
            onnxruntime, "InferenceSession", lambda *_, providers: Session(granted, providers)
        )
        return open_session(exported / "model.onnx", provider)

    return open_it


def test_cuda_asked_for_and_not_granted_is_an_error(granting, caplog) -> None:
    both_granted = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert granting("cuda", both_granted).provider == "cuda"
    assert granting("auto", both_granted).provider == "cuda"
    with pytest.raises(
        ProviderError, match=r"did not grant it \(the session has CPUExecutionProvider\): a CUDA library"
    ):
        granting("cuda", ["CPUExecutionProvider"])
    with pytest.raises(
        ProviderError, match="this onnxruntime has only CPUExecutionProvider; it takes onnxruntime-gpu"
    ):
        granting("cuda", [], ["CPUExecutionProvider"])
    with pytest.raises(ProviderError, match="provider tensorrt: this onnxruntime has only"):
        granting("tensorrt", [])
    assert granting("auto", ["CPUExecutionProvider"]).provider == "cpu"
    assert "provider auto took cpu, cuda was not granted: a CUDA library is missing" in caplog.text


def test_products_on_cuda_are_in_float32(granting) -> None:
    """As in torch; onnxruntime's own choice is TF32, which no parity was ever looked at in."""
    asked = granting("cuda", ["CUDAExecutionProvider"]).session.asked
    assert asked == [("CUDAExecutionProvider", {"use_tf32": "0"}), ("CPUExecutionProvider", {})]


def test_a_missing_onnxruntime_says_what_to_install(exported, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        ProviderError, match=r"onnxruntime cannot be imported .*pip install 'spinn_tensor\[export\]'"
    ):
        OnnxPredictor(exported)
    monkeypatch.setitem(sys.modules, "onnxruntime", json)  # whatever has no InferenceSession
    with pytest.raises(ProviderError, match="onnxruntime is broken, as where two packages"):
        OnnxPredictor(exported)


PROGRAM = """
import sys
from spinn_tensor.export.predictor import OnnxPredictor
print(OnnxPredictor(sys.argv[1], "cpu").classify(["A dog barks ."], ["dogs sing"])[0].label)
unwanted = {"torch", "spinn_tensor.training", "spinn_tensor.model", "onnx", "datasets", "pyarrow", "rich"}
loaded = unwanted & set(sys.modules)
assert not loaded, loaded
"""


@pytest.mark.once
def test_its_process_loads_nothing_of_training(folders) -> None:
    said = run_program(PROGRAM, folders("own")[1], OMP_NUM_THREADS="1")
    assert said.strip() in ("entailment", "neutral", "contradiction")
