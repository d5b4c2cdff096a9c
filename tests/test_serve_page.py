"""The page of the server and what it asks for; in a browser (slow), where Chromium and playwright are there."""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from itertools import compress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

pytest.importorskip("starlette")

from starlette.testclient import TestClient

from spinn_tensor import Pipeline
from spinn_tensor.data_prep.branching import with_branching
from spinn_tensor.data_prep.columns import node_offsets, sentence_columns
from spinn_tensor.data_prep.trees import right_branching
from spinn_tensor.data_prep.vocabulary import Vocabulary
from spinn_tensor.export.serve.app import FILES
from spinn_tensor.export.serve.engine import Engine
from spinn_tensor.export.serve.settings import ServeSettings
from spinn_tensor.export.serve.trees import MachineStep, machine_steps
from tests.serving import ROOT, Server, running, served, tiny_engine, until
from tests.tiny_bundles import tiny_bundle, tiny_model

PAIR = ["The big old cat sings.", "A zebra sleeps"]


def replayed(words: list[str], transitions: list[int]) -> Iterator[tuple[list[str], list[str]]]:
    """Yield the stack's phrases and the buffer after each transition, as one plays them on paper."""
    stack: list[str] = []
    buffer = list(words)
    for transition in transitions:
        if transition == 0:
            stack.append(buffer.pop(0))
        else:
            right, left = stack.pop(), stack.pop()
            stack.append(f"{left} {right}")
        yield list(stack), list(buffer)


def stack_of(steps: list[MachineStep], t: int) -> list[int]:
    """Follow an entry down the stack; the uppermost comes last."""
    below = steps[t]["below"]
    return [t] if below is None else [*stack_of(steps, below), t]


def test_steps_are_the_machine_s() -> None:
    sentences = [right_branching([f"w{i}" for i in range(n)]) for n in (1, 2, 3, 9, 30) for _ in range(8)]
    columns = with_branching(sentence_columns(sentences, Vocabulary.build([])), "random")
    bounds = node_offsets(columns).tolist()
    for sentence, start, end in zip(sentences, bounds, bounds[1:], strict=False):
        words, transitions = list(sentence.tokens), columns.transitions[start:end].tolist()
        steps = machine_steps(transitions, [0.5] * len(transitions))
        n_possible = 1
        for t, (stack, buffer) in enumerate(replayed(words, transitions)):
            entries = [steps[entry] for entry in stack_of(steps, t)]
            assert [" ".join(words[entry["first"] : entry["end"]]) for entry in entries] == stack
            assert words[steps[t]["end"] :] == buffer
            assert steps[t]["transition"] == ("REDUCE" if transitions[t] else "SHIFT")
            assert steps[t]["is_forced"] == (n_possible == 1)
            assert steps[t]["probability"] == 0.5
            n_possible = (len(stack) > 1) + (len(buffer) > 0)
            left, right = steps[t]["left"], steps[t]["right"]
            if left is not None and right is not None:
                assert (steps[left]["first"], steps[right]["end"]) == (steps[t]["first"], steps[t]["end"])
                assert steps[left]["end"] == steps[right]["first"]
            assert (left is None) == (right is None) == (transitions[t] == 0)


def asked(client: TestClient, *inputs: str) -> Any:
    answer = client.post("/detail", json={"inputs": list(inputs)})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_detail_is_what_the_model_says() -> None:
    engine = tiny_engine("spinn", "pair")
    with served(engine) as client:
        got = asked(client, *PAIR)
        alone = asked(client, PAIR[0])
        wrong = [client.post("/detail", json={"inputs": inputs}) for inputs in ([], ["a"] * 3, ["a", " "])]
    prediction = engine.model.classify(*PAIR)
    assert got["labels"][0]["label"] == prediction.label
    expected = [prediction.probabilities[one["label"]] for one in got["labels"]]
    np.testing.assert_allclose([one["score"] for one in got["labels"]], sorted(expected)[::-1], atol=1e-6)
    assert got["similarity"] == pytest.approx(float(engine.model.similarity(*PAIR)), abs=1e-5)
    for sentence, parsed in zip(got["sentences"], engine.model.parses(PAIR), strict=True):
        assert tuple(sentence["tokens"]) == parsed.tree.tokens
        assert [
            step["transition"] == "REDUCE" for step in sentence["steps"]
        ] == parsed.tree.transitions.tolist()
        logs = np.log([step["probability"] for step in sentence["steps"]])
        np.testing.assert_allclose(logs, parsed.step_log_probabilities, atol=1e-5)
        assert all(step["probability"] == 1 for step in sentence["steps"] if step["is_forced"])
        assert sentence["log_probability"] == pytest.approx(parsed.log_probability, abs=1e-5)
        assert sentence["labels"] is None
    assert got["sentences"][0]["tree"] == engine.model.parse(PAIR[0])
    assert got["sentences"][1]["unknown"] == [False, True, True]
    assert (alone["sentences"], alone["labels"], alone["similarity"]) == (got["sentences"][:1], None, None)
    assert [answer.status_code for answer in wrong] == [400, 422, 400]
    assert wrong[2].json()["error"].startswith("inputs[1]")


def test_detail_of_models_that_do_not_choose_their_trees() -> None:
    with served(tiny_engine("lstm", "sentence")) as client:
        first, second = asked(client, *PAIR)["sentences"]
    assert first["steps"] is first["tree"] is first["log_probability"] is None
    assert {one["label"] for one in second["labels"]} == {"bad", "so-so", "good"}
    with served(Engine(Pipeline(tiny_model("spinn-pi", "sentence")), "tiny")) as client:
        (given,) = asked(client, "( ( A dog ) sings )")["sentences"]
    assert given["tree"] == "( ( A dog ) sings )"
    assert {step["probability"] for step in given["steps"]} == {None}
    assert given["log_probability"] is None


def test_an_export_of_an_earlier_version_tells_the_steps_without_probabilities() -> None:
    pytest.importorskip("onnxruntime")
    with served(Engine.open(ServeSettings(folder=str(ROOT / "tests" / "formats" / "2" / "onnx")))) as client:
        for sentence in asked(client, *PAIR)["sentences"]:
            assert len(sentence["steps"]) == 2 * len(sentence["tokens"]) - 1
            assert {step["probability"] for step in sentence["steps"]} == {None}
            assert sentence["log_probability"] is None


def test_the_page_may_load_its_own_files_alone() -> None:
    with served(tiny_engine("spinn", "parse"), api_key="secret") as client:
        for path, (_, media_type) in FILES.items():
            answer = client.get(path)
            assert answer.status_code == 200
            assert answer.headers["content-type"] == f"{media_type}; charset=utf-8"
            policy = answer.headers["content-security-policy"]
            assert policy.startswith(
                "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
            )
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            addresses = set(re.findall(r"\b(?:https?:)?//[\w.]+[^\s\"']*", answer.text))
            assert addresses <= {"http://www.w3.org/2000/svg"}
            assert not re.search(
                r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|<style|style=", answer.text
            )
        loaded = re.findall(r'(?:src|href)="(ui/[^"]+)"', client.get("/ui").text)
        loaded += re.findall(r'from "\./([^"]+)"', client.get("/ui/app.js").text)
        assert {"/ui", *(f"/ui/{path.removeprefix('ui/')}" for path in loaded)} == set(FILES)
        assert [
            client.post("/detail", json={"inputs": "cats"}).status_code,
            client.get("/info").status_code,
        ] == [401, 401]


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    if executable is None:
        pytest.skip("no Chromium")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(str(tiny_bundle(tmp_path_factory.mktemp("pairs"), "spinn", "pair"))) as server:
        yield server


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the source of axe-core, which npm packs."""
    folder = tmp_path_factory.mktemp("axe")
    if shutil.which("npm") is None:
        pytest.skip("no npm")
    packed = subprocess.run(["npm", "pack", "axe-core"], cwd=folder, capture_output=True)
    if packed.returncode:
        pytest.skip("npm cannot get axe-core")
    (archive,) = folder.glob("axe-core-*.tgz")
    with tarfile.open(archive) as files:
        source = files.extractfile("package/axe.min.js")
        assert source is not None
        return source.read().decode()


class Seen:
    """A page in a browser, and all that it asked for and complained of."""

    def __init__(self, browser: Any, server: Server, width: int, **options: Any) -> None:
        options = {"reduced_motion": "reduce", **options}
        self.context = browser.new_context(viewport={"width": width, "height": 850}, **options)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        self.url, self.host = server.url + "/ui", urlsplit(server.url).netloc

    def open(self, fragment: str = "") -> None:
        """Open the page, and wait until it shows what the model says."""
        self.page.goto(self.url + fragment)
        self.page.wait_for_selector("#result:not([hidden])")

    def ask(self, *texts: str) -> Any:
        """Type texts, press Enter, and return what the server answers, when it is shown."""
        for number, text in enumerate(texts):
            self.page.fill(f"#text-{number}", text)
        with self.page.expect_response("**/detail") as response:
            self.page.press(f"#text-{len(texts) - 1}", "Enter")
        answer = response.value.json()
        self.page.wait_for_selector("#read:not([aria-busy])")
        return answer

    def texts(self, selector: str) -> list[str]:
        found: list[str] = self.page.locator(selector).all_text_contents()
        return found

    def check(self) -> None:
        """Check that it asked nobody but its server, complained of nothing and is not wider than the window."""
        assert self.hosts == {self.host}
        assert self.complaints == []
        assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    def violations(self, axe: str) -> list[str]:
        """Return what axe-core finds."""
        self.page.evaluate(axe)
        found = self.page.evaluate("axe.run()")["violations"]
        return [f"{one['impact']}: {one['id']}: {one['nodes'][0]['html'][:99]}" for one in found]


@pytest.fixture(params=[400, 1300])
def seen(browser: Any, server: Server, request: pytest.FixtureRequest) -> Iterator[Seen]:
    seen = Seen(browser, server, request.param)
    seen.open()
    yield seen
    seen.context.close()


@pytest.mark.slow
def test_trees_and_bars_are_those_of_the_answer(seen: Seen) -> None:
    answer = seen.ask("The big old cat sings a dog sings the cats sleep .", PAIR[1])
    for number, sentence in enumerate(answer["sentences"]):
        panel = f"article:nth-of-type({number + 1})"
        nodes = seen.page.locator(f"{panel} svg.tree g")
        assert seen.texts(f"{panel} svg.tree text") == sentence["tokens"]
        assert nodes.count() == len(sentence["steps"])
        joined = [" ".join(sentence["tokens"][step["first"] : step["end"]]) for step in sentence["steps"]]
        titles = seen.texts(f"{panel} svg.tree title")
        assert sorted(titles) == sorted(phrase for phrase in joined if " " in phrase)
        assert seen.texts(f"{panel} .brackets") == [sentence["tree"]]
        assert sentence["tree"] in str(seen.page.get_attribute(f"{panel} svg.tree", "aria-label"))
        unknown = compress(sentence["tokens"], sentence["unknown"])
        assert seen.texts(f"{panel} .unknown text") == list(unknown)
    bars = seen.page.locator("#answer ol").first
    assert bars.locator("li > :first-child").all_text_contents() == [one["label"] for one in answer["labels"]]
    shares = bars.locator(".bar span").evaluate_all(
        "bars => bars.map((bar) => bar.offsetWidth / bar.parentElement.offsetWidth)"
    )
    np.testing.assert_allclose(shares, [one["score"] for one in answer["labels"]], atol=0.02)
    assert seen.texts("#told")[0].startswith(answer["labels"][0]["label"])
    with seen.page.expect_download() as download:
        seen.page.click("article:nth-of-type(2) .save")
    picture = download.value.path().read_text(encoding="utf-8")
    assert re.findall(r"<text[^>]*>([^<]+)</text>", picture) == answer["sentences"][1]["tokens"]
    assert f"{answer['similarity']:.3f}".replace("-", "−") in seen.texts("#answer li > :last-child")
    seen.check()


@pytest.mark.slow
def test_sentences_to_try_are_of_words_that_the_model_knows(seen: Seen) -> None:
    def tokenize(route: Any) -> None:  # capitals are unknown
        texts = route.request.post_data_json["inputs"]
        route.fulfill(json=[[{"id": 1 if text[0].isupper() else 2}] for text in texts])

    assert len(seen.texts("#examples button")) == 3  # none is of known words alone
    seen.page.route("**/tokenize", tokenize)
    seen.page.reload()
    seen.page.wait_for_selector("#result:not([hidden])")
    assert seen.texts("#examples button") == ["all dogs that hug some children run / all poodles move"]
    assert seen.page.input_value("#text-1") == "all poodles move"
    seen.check()


@pytest.mark.slow
def test_the_machine_is_played(seen: Seen) -> None:
    answer = seen.ask(*PAIR)
    histories = [
        list(replayed(one["tokens"], [step["transition"] == "REDUCE" for step in one["steps"]]))
        for one in answer["sentences"]
    ]
    n_steps = max(map(len, histories))

    def check(step: int) -> None:
        assert seen.page.input_value("#step") == str(step)
        assert seen.texts("#count") == [f"{step} of {n_steps}"]
        for number, history in enumerate(histories):
            panel = f"article:nth-of-type({number + 1})"
            words = answer["sentences"][number]["tokens"]
            stack, buffer = history[min(step, len(history)) - 1] if step else ([], words)
            assert seen.texts(f"{panel} .stack li:not(.none)") == stack
            assert seen.texts(f"{panel} .buffer li:not(.none)") == buffer
            waiting = seen.page.locator(f"{panel} svg.tree .waiting").count()
            assert waiting == len(history) - min(step, len(history))
            marked = [str(step)] if 0 < step <= len(history) else []
            for place in ("svg.tree", ".transitions"):
                now = seen.page.locator(f"{panel} {place} .now")
                assert now.evaluate_all("marked => marked.map((one) => one.dataset.step)") == marked
            assert seen.texts(f"{panel} .action")[0].strip().rstrip(".") in seen.texts("#told")[0]

    check(n_steps)
    seen.page.focus("#step")
    seen.page.keyboard.press("Home")
    check(0)
    for step in range(1, 4):
        seen.page.keyboard.press("ArrowRight")
        check(step)
    seen.page.locator("#step").evaluate("slider => slider.blur()")
    seen.page.keyboard.press("ArrowLeft")  # wherever the focus is, but in a text
    check(2)
    seen.page.click("#forward")
    check(3)
    seen.page.click("article:nth-of-type(1) .transitions span:nth-child(6)")
    check(6)
    seen.page.reload()  # the link says it all
    seen.page.wait_for_selector("#result:not([hidden])")
    check(6)
    seen.page.click("#play")
    until(lambda: seen.page.input_value("#step") == str(n_steps))
    check(n_steps)
    seen.check()


@pytest.mark.slow
def test_text_is_text_and_errors_are_shown_in_place(seen: Seen) -> None:
    text = "<img src=x onerror=alert(1)> <script>alert(2)</script> & dogs"
    answer = seen.ask(text, PAIR[1])
    assert seen.texts("article:first-of-type svg.tree text") == answer["sentences"][0]["tokens"]
    assert seen.page.locator("#result img, #result script").count() == 0
    seen.check()
    seen.ask("the dog " * 60, "Donaudampf" * 40)  # many words, and one as long as many
    seen.check()
    refused = seen.ask(PAIR[0], " ")
    assert refused["error_type"] == "Empty"
    assert seen.texts("#error")[0].startswith("Hypothesis ")
    assert seen.page.get_attribute("#text-1", "aria-invalid") == "true"
    assert seen.page.is_hidden("#result")
    seen.ask(*PAIR)
    assert seen.texts("#error") == [""]
    seen.page.go_back()
    until(lambda: seen.page.input_value("#text-0").startswith("the dog the dog"))


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1300])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Any, server: Server, axe: str, width: int, scheme: str) -> None:
    seen = Seen(browser, server, width, color_scheme=scheme)
    seen.open(f"#text={PAIR[0]}&text={PAIR[1]}&step=3")
    assert seen.violations(axe) == []
    seen.page.fill("#text-1", "")
    seen.page.press("#text-1", "Enter")
    seen.page.wait_for_selector("#error:not(:empty)")
    assert seen.violations(axe) == []


@pytest.mark.slow
def test_a_tree_grows_when_the_page_is_opened(browser: Any, server: Server) -> None:
    seen = Seen(browser, server, 1300, reduced_motion="no-preference")
    seen.open()
    seen.page.wait_for_selector("#play[aria-label=Pause]")
    until(lambda: seen.page.input_value("#step") == "2")
    seen.page.click("#play")
    stopped = seen.page.input_value("#step")
    seen.page.wait_for_timeout(1500)
    assert seen.page.input_value("#step") == stopped
    seen.check()


@pytest.mark.slow
def test_the_key_is_asked_for(browser: Any, tmp_path: Path) -> None:
    with running(str(tiny_bundle(tmp_path / "parser", "spinn", "parse")), "--api-key", "secret") as server:
        seen = Seen(browser, server, 1300)
        seen.page.goto(seen.url)
        seen.page.fill("#key", "secret")
        seen.page.press("#key", "Enter")
        seen.page.wait_for_selector("#result:not([hidden])")
        assert seen.page.locator("article").count() == 1
