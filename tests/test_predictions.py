"""`spinn evaluate --predictions`: a record an example, in the order of its file."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from spinn_tensor.cli.main import main
from spinn_tensor.data_prep.files import open_text
from tests.command_line import Spinn
from tests.tiny_runs import PRESET, pair_arguments, write_pairs, write_trees

pytest.importorskip("datasets")
LABELS = ("entailment", "neutral", "contradiction")
CPU = ["--device", "cpu", "--threads", "1"]


def words_of(parse: str) -> str:
    return " ".join(word for word in parse.split() if word not in "()")


def predicted(run: Path, folder: Path, *options: str) -> list[dict[str, Any]]:
    file = folder / "predictions.jsonl"
    assert main(["evaluate", str(run), "--predictions", str(file), *options, *CPU]) == 0
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_record_says_where_it_is_from_and_what_is_said_of_it(
    pair_run: Path, tmp_path: Path, spinn: Spinn
) -> None:
    data = write_pairs(tmp_path / "data.jsonl", 30, seed=4)
    lines = data.read_text().splitlines()
    lines[0] = json.dumps({**json.loads(lines[0]), "gold_label": "-"})
    lines[5] = json.dumps({**json.loads(lines[5]), "sentence1_binary_parse": "( zebras bark )"})
    lines.insert(3, "")
    lines.insert(9, "no record")
    data.write_text("\n".join(lines) + "\n")
    records = predicted(pair_run, tmp_path, "--data", str(data), "--skip-bad")
    expected = [n for n, line in enumerate(lines, start=1) if n not in (1, 4, 10)]
    assert [record["line"] for record in records] == expected
    for record in records:
        of_file = json.loads(lines[record["line"] - 1])
        assert record["file"] == str(data)
        assert (record["id"], record["gold"]) == (of_file["pairID"], of_file["gold_label"])
        for prefix, field in (
            ("premise", "sentence1_binary_parse"),
            ("hypothesis", "sentence2_binary_parse"),
        ):
            assert record[f"{prefix}_tree"] == of_file[field]
            assert record[f"{prefix}_text"] == words_of(of_file[field])
        shares = record["probabilities"]
        assert record["label"] == max(shares, key=shares.get)
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
    assert any("zebras" in record["premise_text"] for record in records)  # as it is written, known or not
    output = tmp_path / "predict.jsonl"
    arguments = ["--input", str(data), "--output", str(output), "--skip-bad", *CPU]
    spinn("predict", pair_run, *arguments)
    said = {line["id"]: line["label"] for line in map(json.loads, output.read_text().splitlines())}
    assert all(said[record["id"]] == record["label"] for record in records)


def test_a_table_has_a_column_of_each_label(pair_run: Path, tmp_path: Path, spinn: Spinn) -> None:
    data = write_pairs(tmp_path / "data.jsonl", 5, seed=4)
    lines = data.read_text().splitlines()
    data.write_text("\n".join([*lines, ""]) + "\n")
    for command in (
        ["predict", str(pair_run), "--input", str(data), "--output"],
        ["evaluate", str(pair_run), "--data", str(data), "--predictions"],
    ):
        for ending, delimiter in ((".csv", ","), (".tsv.gz", "\t")):
            spinn(*command, tmp_path / "out.jsonl", *CPU)
            spinn(*command, tmp_path / f"out{ending}", *CPU)
            records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
            with open_text(tmp_path / f"out{ending}") as file:
                table = list(csv.DictReader(file, delimiter=delimiter))
            assert len(table) == len(records)
            for row, record in zip(table, records, strict=True):
                shares = record.pop("probabilities") or dict.fromkeys(LABELS)
                record |= {f"p({label})": share for label, share in shares.items()}
                assert row == {name: "" if value is None else str(value) for name, value in record.items()}
        printed = spinn.fails(*command, tmp_path / "out.csv.zip", *CPU).err
        assert "out.csv.zip: written are .gz, .bz2, .xz and plain files" in printed
        for name in ("out.parquet", "out.xlsx"):
            printed = spinn.fails(*command, tmp_path / name, *CPU).err
            assert f"{name}: expected a name ending in .jsonl, .csv or .tsv" in printed


def test_the_predictions_are_those_that_are_scored(pair_run: Path, tmp_path: Path) -> None:
    scores = tmp_path / "scores.json"
    records = predicted(pair_run, tmp_path, "--json", str(scores))
    for split, counted in json.loads(scores.read_text()).items():
        part = [record for record in records if record["split"] == split]
        assert len(part) == counted["n_examples"]
        right = sum(record["gold"] == record["label"] for record in part)
        assert right / len(part) == pytest.approx(counted["accuracy"])
        assert all(Path(record["file"]).name in ("dev.jsonl", "again.jsonl") for record in part)


def test_a_parsers_own_trees(spinn_run: Path, tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "data.jsonl", 12, seed=9)
    texts = [words_of(json.loads(line)["sentence1_binary_parse"]) for line in data.read_text().splitlines()]
    under_left = predicted(spinn_run, tmp_path, "--data", str(data), "--branching", "left")
    records = predicted(spinn_run, tmp_path, "--data", str(data))
    assert [record["premise_text"] for record in records] == texts
    assert [words_of(record["premise_tree"]) for record in records] == texts
    trees = [[record["premise_tree"] for record in found] for found in (records, under_left)]
    assert trees[0] == trees[1]  # whatever they are compared with


def test_single_sentences_and_parsers(tree_run: Path, parser_run: Path, tmp_path: Path) -> None:
    data = write_trees(tmp_path / "data.txt", 9, seed=3)
    records = predicted(tree_run, tmp_path, "--data", str(data))
    assert [record["line"] for record in records] == list(range(1, 10))
    assert records[0]["text"] == words_of(records[0]["tree"])
    assert records[0]["gold"] in records[0]["probabilities"]
    assert all(record["id"] is None for record in records)
    pairs = write_pairs(tmp_path / "pairs.jsonl", 5, seed=3)  # two sentences a line
    lines = [record["line"] for record in predicted(parser_run, tmp_path, "--data", str(pairs))]
    assert lines == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_files_of_one_split_and_of_a_part_of_one(tmp_path: Path, spinn: Spinn) -> None:
    run, more = tmp_path / "run", write_pairs(tmp_path / "more.jsonl", 7, seed=5)
    arguments = [*pair_arguments(tmp_path, 20, 10), *PRESET, "--epochs", "1", "--output", str(run)]
    spinn(*arguments, "--dev", more, "--set", "kind=lstm")
    records = predicted(run, tmp_path)
    places = [(Path(record["file"]).name, record["line"]) for record in records]
    assert places == [("dev.jsonl", n) for n in range(1, 11)] + [("more.jsonl", n) for n in range(1, 8)]
    assert all(record["premise_tree"] is None for record in records)  # it looks at no tree
    at = arguments.index("--dev")
    arguments[at : at + 2] = ["--dev-fraction", "0.25"]
    spinn(*arguments, "--overwrite")
    lines = (tmp_path / "train.jsonl").read_text().splitlines()
    records = predicted(run, tmp_path)
    assert len(records) == 5
    assert [record["id"] for record in records] == [
        json.loads(lines[record["line"] - 1])["pairID"] for record in records
    ]


def test_a_store_has_no_lines(pair_run: Path, tmp_path: Path, spinn: Spinn) -> None:
    data = write_pairs(tmp_path / "data.jsonl", 12, seed=9)
    store = tmp_path / "store"
    spinn("prepare", "--corpus", "snli", "--train", data, "--dev", data, "--output", store)
    records = predicted(pair_run, tmp_path, "--data", str(store))
    assert [record["id"] for record in records] == [
        json.loads(line)["pairID"] for line in data.read_text().splitlines()
    ]
    assert {(record["file"], record["line"]) for record in records} == {(None, None)}
