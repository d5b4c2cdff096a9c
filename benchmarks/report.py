"""The results as tables: in the terminal, and in Markdown for README."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.candidates import BASELINE, DYNAMIC, FOREST, GIVEN, OURS, PADDED_LSTM, RECURSION

COLUMNS = (FOREST, GIVEN, DYNAMIC, PADDED_LSTM, RECURSION)
KEYS = ["H", "tracker", "batch"]
Cells = tuple[str, list[str], list[list[str]]]  # title, header, rows


def header(result: dict[str, Any]) -> list[str]:
    """What was measured and where, in a few lines."""
    where = "{processor}, {cores} cores, {threads} thread(s), {system}, {cpu_capability}"
    with_what = "Python {python}, torch {torch}, NumPy {numpy}, commit {commit}, {date}, load {load_average}"
    on_what = (
        "{source}: {count} sentences, {mean_tokens} tokens on average, {max_tokens} at most; {repeats} rounds"
    )
    if result["machine"]["freed_memory_kept"]:
        where += ", freed memory kept"
    return [
        where.format(**result["machine"]),
        with_what.format(**result["machine"]),
        on_what.format(**result["sentences"], repeats=result["repeats"]),
    ]


def print_tables(console: Console, result: dict[str, Any]) -> None:
    """All results in the terminal."""
    for title, names, rows in _tables(result):
        table = Table(title=title, title_justify="left", padding=(0, 0), show_edge=False)
        for name in names:
            table.add_column(name, justify="left" if name in KEYS else "right", no_wrap=name == "batch")
        for row in rows:
            table.add_row(*row)
        console.print(table, "")
    console.print(_rate(result))


def markdown(result: dict[str, Any]) -> str:
    """All results for README, with the command that made them."""
    parts = [f"`{result['command']}`", "\n".join(f"- {line}" for line in [*header(result), _rate(result)])]
    for title, names, rows in _tables(result):
        rule = ["---" if name in KEYS else "---:" for name in names]
        parts += [f"**{title}**", "\n".join(map(_line, [names, rule, *rows]))]
    return "\n\n".join(parts) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _rate(result: dict[str, Any]) -> str:
    rate = result["product_rate"]
    measured = f"median {rate['median_gflops']:.1f}, best {rate['best_gflops']:.1f} GFLOP/s"
    return f"float32 product rate in this run: {measured}; a round's floor is taken at the rate of that round"


def _tables(result: dict[str, Any]) -> Iterable[Cells]:
    modes = list(dict.fromkeys(record["mode"] for record in result["speed"]))
    for mode in reversed(modes):
        title = f"Encoder, {mode}: sentences/s, and times {BASELINE}; last, the best of ours over the floor"
        names = [*KEYS, *COLUMNS, "floor", "ours / floor"]
        yield title, names, [_speed_row(record) for record in result["speed"] if record["mode"] == mode]
    yield _table_shares(result)
    yield _operators(result)
    if "memory" in result:
        yield _memory(result)


def _speed_row(record: dict[str, Any]) -> list[str]:
    candidates = record["candidates"]
    cells = []
    for name in COLUMNS:
        measured = candidates.get(name)
        rate = measured and f"{measured['sentences_per_s']:,.0f} {measured['times_baseline']:.2f}×"
        cells.append(rate or "–")
    best = min(candidates[name]["over_floor"] for name in OURS if name in candidates)
    return [*_keys(record), *cells, f"{record['floor']['sentences_per_s']:,.0f}", f"{best:.2f}"]


def _table_shares(result: dict[str, Any]) -> Cells:
    names = [*KEYS, "tables of", "ms a batch", "share of forward + backward"]
    rows = []
    for record in result["tables"]:
        cost = [f"{record['ms_per_batch']:.2f}", f"{100 * record['share']:.1f} %"]
        rows.append([*_keys(record), record["candidate"], *cost])
    return "Building the index tables", names, rows


def _operators(result: dict[str, Any]) -> Cells:
    columns = [name for name in COLUMNS if name != RECURSION]
    rows = []
    for record in result["operators"]:
        counts = record["counts"]
        cells = [
            f"{counts[name]:,} (1/{counts[BASELINE] / counts[name]:.1f})" if name in counts else "–"
            for name in columns
        ]
        rows.append([*_keys(record), *cells])
    title = f"Operators dispatched in forward + backward of one batch, and as a part of {BASELINE}'s"
    return title, [*KEYS, *columns], rows


def _memory(result: dict[str, Any]) -> Cells:
    steps = result["memory"][0]["n_transitions"]
    names = [*KEYS, "encoder", *[f"T = {t}" for t in steps], f"growth (of T: {steps[-1] / steps[0]:.2f})"]
    rows = []
    for record in result["memory"]:
        peaks = record["peak_bytes"]
        keys = [str(record["dim"]), str(record["tracker"] or "–"), str(record["batch_size"])]
        cells = [f"{peak / 1e6:,.0f}" for peak in peaks]
        rows.append([*keys, record["candidate"], *cells, f"{peaks[-1] / peaks[0]:.2f}×"])
    return "Peak memory of forward + backward above model and inputs, MB", names, rows


def _keys(record: dict[str, Any]) -> list[str]:
    return [str(record["dim"]), str(record["tracker"] or "–"), f"{record['batch_size']} {record['batching']}"]
