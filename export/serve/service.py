"""What all routes share: one model, one queue, and the limits of what is taken."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from spinn_tensor.export.serve.batcher import Batcher, Done
from spinn_tensor.export.serve.engine import Engine, Example, Sentence
from spinn_tensor.export.serve.errors import Refused, empty, overloaded, unhealthy, wrong_model
from spinn_tensor.export.serve.metrics import Metrics
from spinn_tensor.export.serve.settings import ServeSettings

T = TypeVar("T")

MOST_ARRIVING = 64  # bodies of the greatest length that are not whole
READ_HERE = 2_000  # characters of a request: more are split into words on a thread, beside other requests
GIVE_BACK_EVERY = 5.0  # seconds: what large requests took is not kept after them
OPERATIONS = {"encode": "embed", "classify": "predict", "parse": "parse"}  # as metrics call them


class Service:
    """Serve one model. There are no jobs before `start` and after `close`."""

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.n_active = 0  # requests
        self._n_arriving = 0  # bytes of bodies that are not whole
        self._engine: Engine | None = None
        self._batcher: Batcher | None = None
        self._reader = ThreadPoolExecutor(1, "reader")
        self._giving_back: asyncio.Task[None] | None = None
        self.metrics.watch("te_queue_size", "requests that wait", self._n_waiting)
        self.metrics.watch(
            "spinn_active_requests", "requests that are not answered yet", lambda: self.n_active
        )

    @contextmanager
    def arriving(self, n_bytes: int) -> Iterator[None]:
        """Reserve room for a body of so many bytes while it arrives. Raises Refused where there is none."""
        if n_bytes + self._n_arriving > MOST_ARRIVING * self.settings.payload_limit:
            raise overloaded()
        self._n_arriving += n_bytes
        try:
            yield
        finally:
            self._n_arriving -= n_bytes

    def _n_waiting(self) -> int:
        return 0 if self._batcher is None else self._batcher.n_waiting

    @property
    def is_ready(self) -> bool:
        """Tell whether a request would be answered."""
        return self._batcher is not None and self._batcher.is_alive

    @property
    def engine(self) -> Engine:
        """Return the model. Raises Refused while there is none."""
        if self._engine is None or not self.is_ready:
            raise unhealthy("not ready: the model is being loaded")
        return self._engine

    async def start(self, engine: Engine | None = None) -> None:
        """Load the model, unless it is given, and run it once. Raises what `Engine.open` does."""
        if engine is None:
            engine = await asyncio.to_thread(Engine.open, self.settings)
        await asyncio.to_thread(engine.warm_up)
        self._engine = engine
        self._batcher = Batcher(engine.run, self.settings.max_batch_tokens, self.metrics.on_batch)
        self._giving_back = asyncio.create_task(self._give_back())

    async def _give_back(self) -> None:
        while True:
            await asyncio.sleep(GIVE_BACK_EVERY)
            await asyncio.to_thread(give_back_memory)

    async def on_reader(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function on the one thread that splits long texts."""
        return await asyncio.get_running_loop().run_in_executor(self._reader, function, *arguments)

    async def submit(self, kind: str, examples: Sequence[Example], n_tokens: int) -> Done:
        """Have examples run with those of other requests. Raises Refused after `close`."""
        if self._batcher is None:
            raise unhealthy("the server is stopping")
        return await self._batcher.submit(kind, examples, n_tokens)

    async def close(self) -> None:
        """Run what was taken, and take no more."""
        batcher, self._batcher = self._batcher, None
        if batcher is not None:
            await batcher.close()
        if self._giving_back is not None:
            self._giving_back.cancel()
        self._reader.shutdown(wait=False)


class Call:
    """Keep what is told of a request afterwards: its inputs, and how long they took."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.begin = time.perf_counter()
        self.n_characters = self.n_tokens = self.n_unknown = 0
        self.method = "single"
        self.tokenization = self.queue = self.inference = 0.0

    def list_of(self, inputs: str | list[str], name: str) -> list[str]:
        """Return the texts of a request. Raises Refused where there are none, or too many."""
        if isinstance(inputs, str):
            return [inputs]
        self.method = "batch"
        self.check_number(len(inputs), name)
        return inputs

    def check_number(self, n_inputs: int, name: str) -> None:
        """Raise Refused for no input and for too many."""
        if not n_inputs:
            raise empty(name)
        most = self.service.settings.max_client_batch_size
        if n_inputs > most:
            reason = f"batch size {n_inputs} > maximum allowed batch size {most}"
            raise Refused(422, "Validation", reason, "batch_size")

    async def read(
        self,
        texts: Sequence[str],
        name: str | Sequence[str],  # what errors call the list of texts, or each of them
        truncate: bool | None = None,
    ) -> list[Sentence]:
        """Return the sentences of texts. Raises Refused naming the first one that cannot be used."""
        engine = self.service.engine
        cut = self.service.settings.auto_truncate if truncate is None else truncate

        def sentence(text: str, called: str) -> Sentence:
            return engine.read(text, called, cut)

        sentences = await self.of_each(sentence, texts, name)
        metrics = self.service.metrics
        n_tokens = [len(found.tokens) for found in sentences]
        for number in n_tokens:
            metrics.input_length.observe(number)
        n_unknown = sum(map(engine.n_unknown, sentences))
        metrics.tokens.inc(sum(n_tokens))
        metrics.unknown.inc(n_unknown)
        self.n_tokens += sum(n_tokens)
        self.n_unknown += n_unknown
        return sentences

    async def of_each(
        self, function: Callable[[str, str], T], texts: Sequence[str], name: str | Sequence[str]
    ) -> list[T]:
        """Return a function of each text and of its name, made beside other requests where the texts are long."""
        begin = time.perf_counter()
        names = name
        if isinstance(name, str):
            names = [name] if len(texts) == 1 else [f"{name}[{number}]" for number in range(len(texts))]
        n_characters = sum(map(len, texts))
        if n_characters <= READ_HERE:
            values = [function(*one) for one in zip(texts, names, strict=True)]
        else:
            values = [await self.service.on_reader(function, *one) for one in zip(texts, names, strict=True)]
        self.tokenization += time.perf_counter() - begin
        self.n_characters += n_characters
        return values

    async def run(self, kind: str, examples: Sequence[Example]) -> Sequence[Any]:
        """Return what the model says of each example. Raises Refused where it cannot."""
        engine, metrics = self.service.engine, self.service.metrics
        if kind not in engine.kinds:
            raise wrong_model(
                f"a model of kind {engine.model.kind!r} and task {engine.model.task!r} does not {kind}"
            )
        n_tokens = sum(len(sentence.tokens) for example in examples for sentence in example)
        operation = OPERATIONS[kind]
        metrics.count[operation].inc(len(examples))
        try:
            done = await self.service.submit(kind, examples, n_tokens)
        except Refused:
            raise
        except Exception as error:  # whatever a model raises, its batcher has logged
            raise Refused(424, "Backend", "Inference failed", "inference") from error
        metrics.success[operation].inc(len(examples))
        self.queue += done.queue_seconds
        self.inference += done.inference_seconds
        return done.results

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return what the response says of the request, and count it."""
        metrics, total = self.service.metrics, time.perf_counter() - self.begin
        seconds = (total, self.tokenization, self.queue, self.inference)
        for phase, value in zip(metrics.phases, seconds, strict=True):
            phase.observe(value)
        values = {
            b"x-compute-characters": self.n_characters,
            b"x-compute-tokens": self.n_tokens,
            b"x-unknown-tokens": self.n_unknown,  # not of TEI
            b"x-compute-time": int(1000 * total),
            b"x-total-time": int(1000 * total),
            b"x-tokenization-time": int(1000 * self.tokenization),
            b"x-queue-time": int(1000 * self.queue),
            b"x-inference-time": int(1000 * self.inference),
        }
        return [
            (b"x-compute-type", self.service.engine.device.encode()),
            *((name, b"%d" % value) for name, value in values.items()),
        ]


def one_side(inputs: Sequence[Sentence]) -> list[Example]:
    """Return sentences as examples."""
    return [(sentence,) for sentence in inputs]


def give_back_memory() -> bool:
    """Collect garbage and return what is free to the system, in milliseconds; False where the C library cannot."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    return trim is not None and bool(trim(0))
