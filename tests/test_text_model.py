"""Sentences as programs hold them, one or many, and what becomes of those that cannot be used."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from spinn_tensor import BatchEncoder, Pipeline, SpinnTransformer
from spinn_tensor.config import ConfigError
from spinn_tensor.data_prep.errors import DataError, DataWarning
from spinn_tensor.data_prep.trees import format_binary, parse_binary
from tests.closeness import assert_close
from tests.tiny_bundles import tiny_bundle, tiny_model

pytestmark = [pytest.mark.numerical, pytest.mark.filterwarnings("error")]

# all words are in the vocabulary
KNOWN = ["The dogs bark .", "cats", "the big old cat sings", "A dog sleep ."]
WORDS = [text.split() for text in KNOWN]


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(tiny_model("spinn", "sentence"))


@pytest.fixture(scope="module")
def pairs() -> Pipeline:
    return Pipeline(tiny_model("spinn", "pair"))


class Document:
    """What spaCy makes, as far as it is looked at: tokens over a vocabulary."""

    vocab = object()

    def __init__(self, text: str) -> None:
        self.text = text

    def __iter__(self) -> Iterator[Any]:
        return (SimpleNamespace(text=part) for part in self.text.split(" "))


def test_one_sentence_gives_one_result(pipeline, pairs) -> None:
    for number, text in enumerate(KNOWN):
        encoding = pipeline.encode(text)
        assert encoding.shape == (8,)
        assert_close(encoding, pipeline.encode(KNOWN)[number])
        assert pipeline.parse(text) == pipeline.parse(KNOWN)[number]
        assert pipeline.classify(text).label == pipeline.classify(KNOWN)[number].label
    (expected,) = pairs.classify(KNOWN[:1], KNOWN[2:3])
    assert pairs.classify(KNOWN[0], KNOWN[2]).label == expected.label


def test_what_strings_are_may_be_said() -> None:
    model, unsure = tiny_model("spinn", "sentence"), "( a dog ) barks"
    texts, parses = (Pipeline(model, notation=notation) for notation in ("text", "parses"))
    with pytest.warns(DataWarning):
        tree = texts.parse("( ( a dog ) barks )")
    assert parse_binary(tree).tokens == ("-LRB-", "-LRB-", "a", "dog", "-RRB-", "barks", "-RRB-")
    assert parse_binary(parses.parse("( ( a dog ) barks )")).tokens == ("a", "dog", "barks")
    with pytest.raises(DataError, match="example 0: sentences: token 5 'barks': after the end of the tree"):
        parses.encode([unsure])
    with pytest.raises(ConfigError, match="notation: expected one of auto, text, parses, got 'trees'"):
        Pipeline(model, notation="trees")


def test_one_sentence_beside_a_list_is_refused(pairs) -> None:
    for sides in ((KNOWN[0], KNOWN), (KNOWN[:1], KNOWN[0])):
        with pytest.raises(DataError, match=r"^premises and hypotheses: got one sentence and a list"):
            pairs.classify(*sides)


def test_words_are_taken_as_they_are(pipeline) -> None:
    expected = pipeline.encode(KNOWN)
    for words in (WORDS, list(map(tuple, WORDS)), [np.array(words, dtype=object) for words in WORDS]):
        assert_close(pipeline.encode(words), expected)
    assert pipeline.parse(WORDS) == pipeline.parse(KNOWN)


def test_the_tokenizer_sees_no_words(pipeline) -> None:
    words = ["don't", "(", "bark", ")", "[", "cats."]
    with pytest.warns(DataWarning, match="5 of 6 words"):
        tree = pipeline.parse([words])[0]
    assert parse_binary(tree).tokens == ("don't", "-LRB-", "bark", "-RRB-", "[", "cats.")
    with pytest.warns(DataWarning):
        (prediction,) = pipeline.classify([words])
    assert prediction.unknown == ("don't", "-LRB-", "-RRB-", "[", "cats.")


def test_documents_of_spacy_are_their_words(pipeline) -> None:
    documents = [Document(text.replace(" ", " \n ", 1)) for text in KNOWN]  # whitespace is a token to it
    assert_close(pipeline.encode(documents), pipeline.encode(KNOWN))
    assert pipeline.parse(documents[0]) == pipeline.parse(KNOWN[0])


def test_spacy_itself(pipeline) -> None:
    document = pytest.importorskip("spacy").blank("en")(KNOWN[0])
    assert pipeline.parse([document[:3], document]) == pipeline.parse(["The dogs bark", KNOWN[0]])


PENN = [
    "(ROOT (S (NP (DT The) (NNS dogs)) (VP (VBP bark)) (. .)))",
    "(S (NP (NNS cats)))",
    "( (S (NP-SBJ (DT the) (JJ big) (JJ old) (NN cat)) (VP (VBZ sings))))",
    "(X (X (X A) (X dog)) (X (X sleep) (X .)))",
]


@pytest.mark.parametrize("binarize", ["head", "right", "left"])
def test_trees_of_nltk_are_read_as_penn_trees_are(binarize) -> None:
    nltk = pytest.importorskip("nltk")
    pipeline = Pipeline(tiny_model("spinn-pi", "sentence"), binarize=binarize)
    trees = [nltk.Tree.fromstring(text) for text in PENN]
    assert pipeline.parse(trees) == pipeline.parse(PENN)
    assert pipeline.parse(trees[0]) == pipeline.parse(PENN[0])
    assert_close(pipeline.encode(trees), pipeline.encode(PENN))
    chunked = nltk.Tree("S", [nltk.Tree("NP", [("the", "DT"), ("cat", "NN")]), ("sings", "VBZ")])
    assert pipeline.parse(chunked) == "( ( the cat ) sings )"
    for tree, message in (
        (nltk.Tree("S", ["a", nltk.Tree("NP", [])]), "example 0: sentences: a phrase without a word, 'NP'"),
        (nltk.Tree("S", ["a", 7]), "token 2 '7': got int among words"),
        (nltk.Tree("S", [nltk.Tree("-NONE-", ["*T*"])]), "a tree of traces alone"),
    ):
        with pytest.raises(DataError, match=message):
            pipeline.parse(tree)


def test_trees_are_given_as_binary_parses_penn_trees_and_those_of_nltk(pipeline) -> None:
    nltk = pytest.importorskip("nltk")
    binary, penn, trees = (pipeline.parse(KNOWN, format=name) for name in ("binary", "penn", "nltk"))
    assert [" ".join(tree.pformat(margin=sys.maxsize).split()) for tree in trees] == penn
    assert [tree.leaves() for tree in trees] == WORDS
    given = Pipeline(tiny_model("spinn-pi", "sentence"))
    assert given.parse(binary) == given.parse(penn) == given.parse(trees) == binary
    assert isinstance(pipeline.parse(KNOWN[0], format="nltk"), nltk.Tree)
    # a tree that it is composed by comes out as it came in, of any other only the words' tags
    labelled = [nltk.Tree.fromstring(text) for text in PENN]
    assert given.parse(labelled, format="nltk")[0] == labelled[0]
    assert given.parse(PENN, format="penn")[0] == PENN[0]
    left = Pipeline(tiny_model("spinn-pi", "sentence"), branching="left")
    for other in (left, pipeline):
        made = other.parse(labelled[0], format="nltk")
        assert {node.label() for node in made.subtrees(lambda node: node.height() > 2)} == {"ROOT", "X"}
        assert made.pos() == labelled[0].pos()
    deep = nltk.Tree("X", ["a"])
    for _ in range(3000):
        deep = nltk.Tree("X", [deep, "a"])
    assert len(given.parse(deep).split()) == 3001 + 2 * 3000
    with pytest.raises(ConfigError, match="format: expected one of binary, penn, nltk, got 'svg'"):
        pipeline.parse(KNOWN, format="svg")


def test_without_nltk_it_says_what_is_missing(pipeline, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "nltk", None)
    with pytest.raises(ImportError, match="pip install nltk"):
        pipeline.parse(KNOWN, format="nltk")


def columns() -> dict[str, Any]:
    pandas, pyarrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    return {
        "pandas": pandas.Series(KNOWN, index=[7, 5, 3, 1]),
        "categories": pandas.Series(KNOWN, dtype="category"),
        "numpy": np.array(KNOWN),
        "objects": np.array(KNOWN, dtype=object),
        "tuple": tuple(KNOWN),
        "arrow": pyarrow.array(KNOWN),
        "chunks": pyarrow.chunked_array([KNOWN[:1], KNOWN[1:]]),
        "words in arrow": pyarrow.array(WORDS),
        "generator": (text for text in KNOWN),
    }


@pytest.mark.parametrize("name", list(columns()))
def test_columns_of_tables(name, pipeline) -> None:
    assert_close(pipeline.encode(columns()[name]), pipeline.encode(KNOWN))


def test_what_has_no_order_or_is_a_table_is_refused(pipeline) -> None:
    pandas, pyarrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    for given, message in (
        (pandas.DataFrame({"text": KNOWN}), "got a table .*, expected one of its columns"),
        (pyarrow.table({"text": KNOWN}), "got a table"),
        ({"text": KNOWN}, "got a table"),
        (set(KNOWN), "got a set, whose sentences have no order"),
        (b"a dog", "got bytes, expected a sentence or a list"),
        (np.array("a dog"), "got ndarray, expected"),
        (7, "got int, expected"),
    ):
        with pytest.raises(DataError, match=f"^sentences: {message}"):
            pipeline.encode(given)
    for missing in (None, float("nan")):  # one sentence, as `Series.apply` gives it
        with pytest.raises(DataError, match=r"got (NoneType|a missing value)"):
            pipeline.encode(missing)
        with pytest.warns(DataWarning, match="1 of 1 sentences cannot be used"):
            assert np.isnan(pipeline.encode(missing, on_error="nan")).all()


BAD = [KNOWN[0], "", KNOWN[1], float("nan"), None, "( ( a dog )", KNOWN[2]]
GOOD = [0, 2, 6]
TOLD = r"4 of 7 sentences cannot be used, the first: example 1: sentences: a sentence without words"


@pytest.mark.parametrize("on_error, rows", [("nan", range(7)), ("skip", GOOD)])
def test_bad_sentences_leave_their_place_or_are_skipped(on_error, rows, pipeline) -> None:
    good = [BAD[row] for row in GOOD]
    with pytest.warns(DataWarning, match=TOLD):
        encodings = pipeline.encode(BAD, on_error=on_error)
    is_bad = [row not in GOOD for row in rows]
    assert np.isnan(encodings).all(1).tolist() == is_bad
    assert_close(encodings[np.logical_not(is_bad)], pipeline.encode(good))
    for method in (
        pipeline.parse,
        lambda *given, **how: [x and x.label for x in pipeline.classify(*given, **how)],
    ):
        with pytest.warns(DataWarning, match=TOLD):
            results = method(BAD, on_error=on_error)
        assert [result is None for result in results] == is_bad
        assert [result for result in results if result is not None] == method(good)


def test_a_pair_is_bad_by_either_side(pairs) -> None:
    with pytest.warns(DataWarning, match=r"2 of 3 premises and hypotheses cannot be used"):
        results = pairs.classify([KNOWN[0], "", KNOWN[1]], ["", KNOWN[0], KNOWN[2]], on_error="nan")
    assert results[:2] == [None, None]
    assert results[2].label == pairs.classify(KNOWN[1], KNOWN[2]).label


@pytest.mark.parametrize("on_error", ["nan", "skip"])
def test_one_bad_sentence_or_nothing_but_bad_ones(on_error, pipeline) -> None:
    with pytest.warns(DataWarning, match="1 of 1 sentences cannot be used"):
        assert np.isnan(pipeline.encode("", on_error=on_error)).all()
    for method in (pipeline.parse, pipeline.classify):
        with pytest.warns(DataWarning):
            assert method("", on_error=on_error) is None
    with pytest.warns(DataWarning):
        assert pipeline.encode(["", ""], on_error=on_error).shape == (2 if on_error == "nan" else 0, 8)


def test_a_sentence_that_is_too_long_is_one_that_cannot_be_used() -> None:
    pipeline = Pipeline(tiny_model("spinn", "sentence"), max_words=3)
    with pytest.warns(DataWarning, match="2 of 4 sentences .*max_words= allows more"):
        assert len(pipeline.encode([*KNOWN[:2], "dogs", *KNOWN[3:]], on_error="skip")) == 2


def test_options_that_there_are_not(pipeline) -> None:
    with pytest.raises(ConfigError, match="on_error: expected one of raise, nan, skip, got 'ignore'"):
        pipeline.encode(KNOWN, on_error="ignore")
    for method in (pipeline.encode, pipeline.parse, pipeline.classify):
        for size in (0, 2.5, "2"):
            with pytest.raises(ConfigError, match=f"batch_size: expected an integer .* 1, got {size!r}"):
                method(KNOWN, batch_size=size)


def test_probabilities_are_the_softmax_of_logits_which_are_numbers() -> None:
    model = tiny_model("bow", "sentence")
    with torch.no_grad():
        model.encoder.embedding.weight[model.vocabulary.encode(["cats"])[0]] = 3e38
    pipeline = Pipeline(model)
    prediction = pipeline.classify(KNOWN[0])
    exponentials = np.exp(prediction.logits)
    assert_close(exponentials / exponentials.sum(), list(prediction.probabilities.values()))
    with pytest.raises(DataError, match="example 1: the model's logits are not numbers"):
        pipeline.classify([KNOWN[0], KNOWN[1]])


def test_embeddings_as_sentence_transformers_has_them(pipeline, capsys) -> None:
    plain = pipeline.encode(KNOWN)
    normal = pipeline.encode(KNOWN, normalize_embeddings=True, batch_size=1)
    assert normal.dtype == np.float32
    assert_close(normal, plain / np.linalg.norm(plain, axis=1, keepdims=True))
    tensor = pipeline.encode(KNOWN, convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor)
    assert_close(tensor.numpy(), plain)
    assert pipeline.encode(KNOWN[0], convert_to_tensor=True).shape == (8,)
    assert capsys.readouterr() == ("", "")
    for method in (pipeline.encode, pipeline.parse, pipeline.classify):
        method(KNOWN, show_progress_bar=True)
        shown = capsys.readouterr()
        assert "100%" in shown.err
        assert not shown.out


def test_results_do_not_depend_on_the_batch_size(pipeline, monkeypatch) -> None:
    sizes = []
    encode = type(pipeline.model.encoder).forward

    def spy(self: Any, batch: Any) -> Any:
        sizes.append(len(batch.sequence.sorted_order))
        return encode(self, batch)

    monkeypatch.setattr(type(pipeline.model.encoder), "forward", spy)
    assert_close(pipeline.encode(KNOWN, batch_size=3), pipeline.encode(KNOWN))
    assert sizes == [3, 1, 4]
    assert pipeline.parse(KNOWN, batch_size=1) == pipeline.parse(KNOWN)
    some, all_at_once = (pipeline.classify(KNOWN, batch_size=size) for size in (3, 1000))
    assert_close([one.logits for one in some], [one.logits for one in all_at_once])


def test_similarity_is_the_cosine(pipeline) -> None:
    encodings = pipeline.encode(KNOWN)
    normal = encodings / np.linalg.norm(encodings, axis=1, keepdims=True)
    assert_close(pipeline.similarity(KNOWN, KNOWN[:2]), normal @ normal[:2].T)
    assert_close(pipeline.similarity(KNOWN[0], KNOWN), normal[0] @ normal.T)
    assert_close(float(pipeline.similarity(KNOWN[0], KNOWN[0])), 1.0)
    # what encode gave will do, as an array or a tensor
    assert_close(pipeline.similarity(encodings, KNOWN[:2]), normal @ normal[:2].T)
    assert_close(pipeline.similarity(KNOWN, torch.from_numpy(encodings[1])), normal @ normal[1])
    half = torch.from_numpy(encodings).bfloat16().requires_grad_()
    assert_close(pipeline.similarity(half, KNOWN[:2]), normal @ normal[:2].T, bound=0.02)
    # whatever their type, as shards in half precision have it, and their size
    for scale, dtype in ((5_000, np.float16), (1e30, np.float32), (1e-30, np.float32), (1, np.float64)):
        given = (scale * encodings).astype(dtype)
        found = pipeline.similarity(given, given)
        assert found.dtype == np.float32
        assert_close(found, normal @ normal.T, bound=5e-3 if dtype == np.float16 else 1e-5)


def test_unknown_words_are_told(pipeline, pairs) -> None:
    text = f"{'the big old cat sings ' * 4}zebra"  # 1 of 21
    assert pipeline.classify(text).unknown == ("zebra",)
    assert [prediction.unknown for prediction in pipeline.classify(KNOWN)] == [()] * 4
    padded = " ".join(KNOWN * 3)
    found = pairs.classify([padded, "cats"], [f"{padded} axolotl", "dogs"])
    assert [prediction.unknown for prediction in found] == [("axolotl",), ()]
    pair = pairs.classify(f"{padded} okapi", f"{padded} axolotl okapi")
    assert pair.unknown == ("okapi", "axolotl")


def test_many_unknown_words_are_warned_of(pipeline) -> None:
    exactly_a_tenth = "the big old cat sings a dog do cats zebra"
    for method in (pipeline.encode, pipeline.parse, pipeline.classify):
        method(exactly_a_tenth)
        message = r"^2 of 10 words \(20%\) are unknown to the model's vocabulary: 'okapi', 'zebra'$"
        with pytest.warns(DataWarning, match=message) as caught:
            method(exactly_a_tenth.replace("a dog", "a okapi"))
        assert caught[0].filename == __file__
        method("the zebra")  # one word of a short sentence
        with pytest.warns(DataWarning, match="1 of 1 words"):
            method("zebra")


def test_a_batch_encoder_and_a_transformer_keep_their_rows(tmp_path) -> None:
    pytest.importorskip("sklearn")
    bundle = tiny_bundle(tmp_path / "bundle", "spinn", "sentence")
    expected = Pipeline.from_pretrained(bundle, device="cpu").encode(KNOWN[:1], normalize_embeddings=True)
    options: dict[str, Any] = {"device": "cpu", "normalize_embeddings": True, "on_error": "nan"}
    for encode in (
        lambda rows, **more: BatchEncoder(bundle, **{**options, **more})({"sentence": rows})["encoding"],
        lambda rows, **more: SpinnTransformer(bundle, **{**options, **more}).transform(rows),
    ):
        with pytest.warns(DataWarning, match="1 of 2 sentences"):
            made = encode([None, KNOWN[0]])
        assert np.isnan(made[0]).all()
        assert_close(made[1:], expected)
        with pytest.raises(DataError, match="got one sentence, expected a list or column"):
            encode(KNOWN[0])
        with pytest.raises(ConfigError, match="'skip' would leave rows out"):
            encode(KNOWN, on_error="skip")
        with pytest.raises(DataError, match="example 0"):
            encode([None], on_error="raise")


def test_what_was_read_is_taken_in_place_of_the_sentence() -> None:
    pipeline = Pipeline(tiny_model("spinn-pi", "sentence"), branching="left")
    sentences = [KNOWN[0], PENN[0], "( The ( dogs bark ) )", WORDS[0]]
    read = [pipeline.read(sentence) for sentence in sentences]
    assert pipeline.parse(read, format="penn") == pipeline.parse(sentences, format="penn")
    assert_close(pipeline.encode(read), pipeline.encode(sentences))
    for one, sentence in zip(read, sentences, strict=True):
        assert pipeline.parse(one) == pipeline.parse([sentence])[0]
        assert pipeline.encode(one).shape == (pipeline.encode(sentences).shape[1],)
    with pytest.raises(DataError, match=r"^inputs: a sentence without words"):
        pipeline.read(" ", "inputs")
    pipeline.max_words = 3
    assert pipeline.read(KNOWN[0], truncate=True).tokens == ("The", "dogs", "bark")
    for sentence, truncate in ((KNOWN[0], False), ("( ( ( a b ) c ) d )", True)):
        with pytest.raises(DataError, match="a sentence of more than 3 words"):
            pipeline.read(sentence, truncate=truncate)


def test_a_model_that_parses_says_how_probable_each_transition_is(pipeline) -> None:
    parsed = pipeline.parses(KNOWN)
    assert [format_binary(one.tree) for one in parsed] == pipeline.parse(KNOWN)
    for one in parsed:
        steps = one.step_log_probabilities
        assert steps.shape == one.tree.transitions.shape
        assert (steps <= 0).all()
        assert (steps[:2] == 0).all()  # there is no choice
        assert one.log_probability == pytest.approx(steps.sum())
    given = Pipeline(tiny_model("spinn-pi", "sentence"))
    assert given.parses("( The dogs )").log_probability is None
