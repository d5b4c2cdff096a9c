"""The GPU record as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def markdown(result: dict[str, Any]) -> str:
    """All of it, with the command that made it."""
    machine, rates = result["machine"], result["rates"]
    products = ", ".join(f"{name} {rate / 1e12:.2f}" for name, rate in rates["flops"].items())
    lines = [
        f"`{result['command']}`\n",
        f"- {machine['device']}; {machine['processor']}, {machine['cores']} cores; torch {machine['torch']}, CUDA "
        f"{machine.get('cuda', '–')}, cuDNN {machine.get('cudnn', '–')}, Python {machine['python']}, commit "
        f"{machine['commit']}, {machine['date']}",
        f"- {result['sentences']}; H = {result['hidden_dim']}, tracker {result['tracker_dim']}",
        f"- large products, TFLOP/s: {products}; copy, GB/s read and written: {rates['bytes'] / 1e9:.0f}",
        f"- took {result['seconds']:.0f} s",
        *(f"- left out: {name}: {why}" for name, why in result["precisions_left_out"].items()),
        *(f"- left out for want of time: {what}" for what in result["left_out"]),
    ]
    lines += [
        "",
        "**Largest error of roots and gradients against the CPU in float64**\n",
        *_correctness(result),
    ]
    for passes in dict.fromkeys(row["pass"] for row in result["encoders"]):
        rows = [row for row in result["encoders"] if row["pass"] == passes]
        lines += ["", f"**Encoders, {passes}**\n", *_encoders(rows)]
    lines += ["", "**Training epoch**\n", *_epochs(result["epochs"])]
    return "\n".join(lines) + "\n"


def _table(names: Sequence[str], n_left: int, rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---"] * n_left + ["---:"] * (len(names) - n_left)
    return ["| " + " | ".join(cells) + " |" for cells in (names, rule, *rows)]


def _correctness(result: dict[str, Any]) -> list[str]:
    rows = [
        [str(row["tracker"] or "–"), row["precision"], row["tables"], f"{row['error']:.1e}"]
        for row in result["correctness"]
    ]
    return _table(["tracker", "precision", "tables", "error"], 3, rows)


def _encoders(rows: Sequence[dict[str, Any]]) -> list[str]:
    names = [
        "batch",
        "tracker",
        "encoder",
        "precision",
        "ms a batch",
        "sentences/s",
        "× dynamic",
        "time / LSTM's",
    ]
    names += ["share of floor", "kernels", "launches", "peak MB"]
    cells = []
    for row in rows:
        share, launches, peak = row["share_of_floor"], row["launches"], row["peak_bytes"]
        cells.append(
            [
                str(row["batch_size"]),
                str(row["tracker"] or "–"),
                row["mode"],
                row["precision"],
                f"{row['ms_per_batch']:.3f}",
                f"{row['sentences_per_s']:,.0f}",
                f"{row['times_dynamic']:.2f}",
                f"{row['times_lstm']:.2f}",
                "–" if share is None else f"{share:.1%}",
                f"{row['kernels']:,}",
                "–" if launches is None else f"{launches:,}",
                "–" if peak is None else f"{peak / 1e6:,.0f}",
            ]
        )
    return _table(names, 4, cells)


def _epochs(rows: Sequence[dict[str, Any]]) -> list[str]:
    names = ["model", "precision", "batch", "pairs", "seconds", "pairs/s", "seconds for all"]
    names += ["waiting for data, s", "warm-up, s", "shapes", "ragged steps", "reserved MB"]
    cells = [
        [
            row["kind"],
            row["precision"],
            str(row["batch_size"]),
            f"{row['n_trained']:,} of {row['n_pairs']:,}",
            f"{row['seconds']:.1f}",
            f"{row['pairs_per_s']:,.0f}",
            f"{row['whole_epoch_s']:.1f}",
            f"{row['waited_for_data_s']:.1f}",
            f"{row['warm_up_s']:.1f}",
            str(row["n_shapes"] or "–"),
            f"{row['n_ragged_steps']} of {row['n_steps']}",
            "–" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:,.0f}",
        ]
        for row in rows
    ]
    return _table(names, 3, cells)
