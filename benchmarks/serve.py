"""Measure `spinn serve` under load against what one would write instead, servers and predictor on one core.

    python -m benchmarks.serve                      five minutes; LitServe where it is installed, or in --others
    python -m benchmarks.serve --quick              seconds, numbers without meaning
    python -m benchmarks.serve --soak 10            ours alone, ten minutes at 80 % of its peak

A SPINN that parses for itself (random weights, so that its trees are of all kinds) with the vocabulary of the
sentences, exported to ONNX. A request has one sentence of the slice of SNLI, in a random order. Each of N clients sends
its next request when the last is answered; they are one process on another core. Every server is started anew in every
round, and answers a second of requests that are not counted.

    in process    OnnxPredictor.encode([sentence]), one after another, without HTTP
    fastapi       the smallest handler of FastAPI, a sentence a call
    litserve      LitServe with its batching
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import harness
from benchmarks.data import load_trees
from benchmarks.harness import Option
from benchmarks.load import Load, closed_loop, request
from spinn_tensor import ClassifierConfig, EncoderConfig, ModelConfig, build_model
from spinn_tensor.cli.main import main as spinn
from spinn_tensor.data_prep.vocabulary import Vocabulary
from spinn_tensor.export.predictor import OnnxPredictor

ROOT = Path(__file__).resolve().parents[1]
ALONE, OURS = "in process", "spinn serve"
OTHERS = ("fastapi", "litserve")
FIXED = ("dim", "tracker", "clients", "seconds", "rounds", "soak")
SOAK_CLIENTS, SOAK_SHARE = 32, 0.8  # of the peak
OPTIONS = {
    "dim": Option(300, 8, "hidden size"),
    "tracker": Option(64, 4, "tracker size"),
    "clients": Option([1, 8, 32, 128], [1, 4], "clients at once"),
    "seconds": Option(4.0, 0.3, "of each measurement"),
    "rounds": Option(3, 1, "recorded rounds"),
    "soak": Option(0.0, 0.0, "minutes at 80 % of the peak in place of the comparison; 0 = the comparison"),
    "others": Option(sys.executable, sys.executable, "interpreter that has fastapi and litserve"),
}
_parse = partial(
    harness.parse, "serve", __doc__, options=OPTIONS, device="cpu", snli="the logic corpus", fixed=FIXED
)
COLUMNS = {
    "": "{server}",
    "clients": "{clients}",
    "sentences/s": "{rate:,.0f}",
    "times fastapi": "{ratio:.2f}",
    "p50, ms": "{p50:.2f}",
    "p99, ms": "{p99:.2f}",
    "memory, MB": "{memory:.0f}",
}
SOAK_COLUMNS = {
    "minute": "{minute}",
    "requests": "{requests:,}",
    "not answered by 200": "{failed}",
    "p50, ms": "{p50:.2f}",
    "p99, ms": "{p99:.2f}",
    "memory, MB": "{memory:.1f}",
    "growth": "{growth:+.1%}",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = _parse(arguments)
    with tempfile.TemporaryDirectory() as folder:
        name, trees = load_trees(options.snli)
        order = np.random.default_rng(0).permutation(len(trees))
        texts = [" ".join(trees[row].tokens) for row in order]
        exported = _exported(Path(folder), texts, options)
        rows = _soaked(exported, texts, options) if options.soak else _measured(exported, texts, options)
    note = (
        f"{name}; H = {options.dim}, K = {options.tracker}; one core for the server, another for the clients"
    )
    if options.soak:
        title = f"{SOAK_CLIENTS} clients at {SOAK_SHARE:.0%} of the peak, a sentence a request"
        table = harness.Table(SOAK_COLUMNS, rows, 1, title)
    else:
        note += f"; medians of {options.rounds} rounds of {options.seconds:g} s"
        table = harness.Table(COLUMNS, rows, 2, "One sentence a request")
    harness.publish(options, {"rows": rows}, [note], [table])
    if options.out is not None and not options.soak:
        _draw(rows, options.out.with_suffix(".svg"))


def _soaked(exported: Path, texts: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Ask our server for so many minutes at a share of its peak, and return a row for each; 0 is the peak itself."""
    requests = [request("/embed", {"inputs": text}) for text in texts]
    rows: list[dict[str, Any]] = []
    with _server(OURS, exported, options) as (url, pid):
        closed_loop(url, requests, SOAK_CLIENTS, n_requests=2 * len(texts))  # every length has been there
        rate = float("inf")
        for minute in range(math.ceil(options.soak) + 1):
            load = closed_loop(url, requests, SOAK_CLIENTS, seconds=min(60, 60 * options.soak), rate=rate)
            memory = _memory(pid) / 1e6
            n = len(load.latencies)
            rows.append(
                {
                    "minute": minute,
                    "requests": n,
                    "failed": n - load.statuses.get(200, 0),
                    **load.figures(),
                    "memory": memory,
                    "growth": memory / rows[0]["memory"] - 1 if rows else 0.0,
                }
            )
            harness.say(f"minute {minute}: {load.rate:,.0f} a second, {memory:.1f} MB")
            rate = SOAK_SHARE * load.rate if minute == 0 else rate
    return rows


def _draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw rates and latencies by the number of clients, where matplotlib is installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in (OURS, *OTHERS):
        of_name = [row for row in rows if row["server"] == name]
        clients = [row["clients"] for row in of_name]
        (line,) = left.plot(clients, [row["rate"] for row in of_name], marker="o", label=name)
        right.plot(clients, [row["p99"] for row in of_name], marker="o", color=line.get_color(), label=name)
    for axes, label in ((left, "sentences a second"), (right, "99th percentile, ms")):
        axes.set_xscale("log", base=2)
        axes.set_xlabel("clients")
        axes.set_ylabel(label)
        axes.legend(frameon=False)
    left.set_ylim(bottom=0)
    right.set_yscale("log")
    figure.savefig(path, metadata={"Date": None})


def _exported(folder: Path, texts: list[str], options: argparse.Namespace) -> Path:
    torch.manual_seed(0)
    vocabulary = Vocabulary.build(text.split() for text in texts)
    encoder = EncoderConfig(
        len(vocabulary), kind="spinn", hidden_dim=options.dim, tracker_dim=options.tracker
    )
    config = ModelConfig("sentence", ("a", "b"), encoder, ClassifierConfig(2))
    build_model(config).save_pretrained(folder / "bundle", vocabulary=vocabulary)
    command = ["export", str(folder / "bundle"), "--format", "onnx", "--output", str(folder / "onnx")]
    with redirect_stdout(sys.stderr):
        status = spinn(command)
    if status != 0:
        raise RuntimeError("the model was not exported")
    return folder / "onnx"


@contextmanager
def _core(number: int) -> Iterator[None]:
    """Keep this process, and those that it starts, to one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(before)[number % len(before)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _in_process(exported: Path, texts: list[str], options: argparse.Namespace) -> dict[str, float]:
    predictor = OnnxPredictor(exported, "cpu", threads=1)
    latencies: list[float] = []
    begin = time.perf_counter()
    while (now := time.perf_counter()) - begin < options.seconds:
        predictor.encode([texts[len(latencies) % len(texts)]], normalize_embeddings=True)
        latencies.append(time.perf_counter() - now)
    return Load(time.perf_counter() - begin, np.array(latencies), {}).figures()


def _measured(exported: Path, texts: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure every server in every round, and return a row for each and each number of clients."""
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    requests = [request("/embed", {"inputs": text}) for text in texts]
    for _ in range(options.rounds):
        with _core(0):
            found.setdefault((ALONE, 1), []).append(_in_process(exported, texts, options))
        for name in (OURS, *OTHERS):
            with _server(name, exported, options) as (url, pid):
                if not url:
                    harness.say(f"{name}: is not there")
                    continue
                for n_clients in options.clients:
                    harness.say(f"{name}, {n_clients} clients")
                    closed_loop(url, requests, n_clients, seconds=min(1.0, options.seconds))
                    load = closed_loop(url, requests, n_clients, seconds=options.seconds)
                    if load.statuses.keys() != {200}:
                        raise RuntimeError(f"{name}: {load.statuses}")
                    measured = load.figures() | {"memory": _memory(pid) / 1e6}
                    found.setdefault((name, n_clients), []).append(measured)
    rows = []
    for (name, n_clients), rounds in found.items():
        base = found.get(("fastapi", n_clients))
        ratio = base and statistics.median(
            one["rate"] / other["rate"] for one, other in zip(rounds, base, strict=True)
        )
        medians = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        rows.append({"server": name, "clients": n_clients, **medians, "ratio": ratio})
    return rows


@contextmanager
def _server(name: str, exported: Path, options: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """Run a server on the first core, and this process on the second; no address where it does not come up."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "spinn_tensor.export.serve", str(exported), "--port", port]
    if name in OTHERS:
        command = [options.others, "-m", f"benchmarks.serve_{name}", str(exported), port]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with _core(0):
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        with _core(1):
            yield (url if _answers(url, process) else ""), process.pid
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    """Wait until the server answers; give up when it has ended."""
    asked = [request("/embed", {"inputs": "a"})]
    for _ in range(600):
        with suppress(OSError):
            if closed_loop(url, asked, 1, n_requests=1).statuses.keys() == {200}:
                return True
        if process.poll() is not None:
            return False
        time.sleep(0.1)
    return False


def _memory(pid: int) -> int:
    """Return the resident bytes of a process and of those that it started, shared pages once."""
    total, todo = 0, [pid]
    while todo:
        folder = Path(f"/proc/{todo.pop()}")
        for line in (folder / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
        for children in folder.glob("task/*/children"):
            todo += map(int, children.read_text().split())
    return total


if __name__ == "__main__":
    harness.run(main)
