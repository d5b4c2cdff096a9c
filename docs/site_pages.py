"""What mkdocs adds to the pages that are written: those that lie elsewhere, and the reference, which the code says.

A link that leads to a file of the repository is right there; on the site it leads to the page that the file is, or is
text alone.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import html
import os
import posixpath
import re
from pathlib import Path

import griffe
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
RESULTS = sorted((ROOT / "benchmarks" / "results").iterdir())
TAKEN = {  # files of the repository, by the pages that they are
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "explanation/machine.md": "spinn_tensor/machine/README.md",
    "parser.md": "spinn_tensor/pretrained/README.md",
    **{
        f"results/{path.name}": f"benchmarks/results/{path.name}"
        for path in RESULTS
        if path.suffix != ".json"
    },
}
PAGE_OF = {source: page for page, source in TAKEN.items()}
LINK = re.compile(r"(!?)\[([^][]*(?:\[[^]]*\][^][]*)*)\]\(([^()\s#]+)(#[^()\s]*)?\)")
DOCSTRING = re.compile(r"<!-- docstring: (\S+) -->")


def on_files(files, config):
    """Add the pages that lie elsewhere and those that are made."""
    for page, source in TAKEN.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for page, text in (
        ("reference/commands.md", commands()),
        ("reference/settings.md", settings()),
        ("reference/python.md", names()),
    ):
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turn links into the repository into links of the site, and put docstrings where they are asked for."""
    uri = page.file.src_uri
    here = posixpath.dirname(TAKEN.get(uri, f"docs/{uri}"))

    def on_site(match):
        mark, text, target, anchor = match.groups()
        source = posixpath.normpath(posixpath.join(here, target))
        if "://" in target or not (ROOT / source).exists():
            return match[0]  # strict mkdocs tells what is not there
        to = PAGE_OF.get(source) or (source.removeprefix("docs/") if source.startswith("docs/") else None)
        if to is None:
            return f"`{text}`" if "/" in text and "`" not in text else text
        return f"{mark}[{text}]({posixpath.relpath(to, posixpath.dirname(uri) or '.')}{anchor or ''})"

    markdown = DOCSTRING.sub(lambda match: docstring(match[1]), markdown)
    return LINK.sub(on_site, markdown)


class Examples(griffe.Extension):
    """Have the examples of docstrings shown as such: they stand there under no heading."""

    def on_instance(self, *, obj, **_):
        """Fence each paragraph that begins with a prompt."""
        if obj.docstring is not None:
            parts = re.split(r"\n{2,}", obj.docstring.value)
            parts = [f"```pycon\n{part}\n```" if part.startswith(">>>") else part for part in parts]
            obj.docstring.value = "\n\n".join(parts)


def docstring(source: str) -> str:
    """Return what a module says of itself, which is Markdown."""
    text = ast.get_docstring(ast.parse((ROOT / source).read_text("utf-8")))
    return f"{text}\n\nSo says `{source}`."


def commands() -> str:
    """Return the help of every command."""
    os.environ |= {"COLUMNS": "100", "PYTHON_COLORS": "0"}  # of which argparse makes lines
    from spinn_tensor.cli.main import build_parser

    parser = build_parser()
    (action,) = [item for item in parser._actions if isinstance(item, argparse._SubParsersAction)]
    parts = [f"# Commands\n\n```text\n{parser.format_help()}```"]
    parts += [
        f"## spinn {name}\n\n```text\n{command.format_help()}```" for name, command in action.choices.items()
    ]
    return "\n\n".join(parts) + "\n"


def settings() -> str:
    """Return a table of every kind of settings."""
    from spinn_tensor.config import ClassifierConfig, EncoderConfig
    from spinn_tensor.training.config import DataConfig, ParsingConfig, TrainingConfig

    kinds = {"data": DataConfig, "encoder": EncoderConfig, "classifier": ClassifierConfig}
    kinds |= {"training": TrainingConfig, "parsing": ParsingConfig}
    parts = [
        "# Settings\n\nWhat `spinn train` stores as run.json and in every checkpoint. Most have a flag of their name "
        "([commands](commands.md#spinn-train)); `--set` and a preset's TOML take all of them."
    ]
    for name, kind in kinds.items():
        rows = [row(item) for item in dataclasses.fields(kind)]
        summary = (kind.__doc__ or "").partition("\n\n")[0]
        head = "| name | default | what it is |\n|---|---|---|"
        parts.append("\n".join([f"## {name}\n\n`{kind.__name__}`: {summary}\n", head, *rows]))
    return "\n\n".join(parts) + "\n"


def row(item: dataclasses.Field) -> str:
    """Return a setting as a row."""
    has_default = item.default is not dataclasses.MISSING
    allowed = item.metadata.get("allowed")
    what = [item.metadata.get("help", ""), "" if allowed is None else allowed.text]
    text = html.escape("; ".join(filter(None, what)), quote=False).replace("|", "\\|")
    return f"| `{item.name}` | {f'`{item.default!r}`' if has_default else ''} | {text} |"


def names() -> str:
    """Return what `spinn_tensor` exports, in the order of its stub, for mkdocstrings to describe."""
    stub = (ROOT / "spinn_tensor" / "__init__.pyi").read_text("utf-8")
    found = re.findall(r"^from \.(\S+) import (\w+)", stub, re.MULTILINE)
    head = "# Python\n\nWhat `spinn_tensor` exports; `help(spinn_tensor.NAME)` says the same."
    return "\n\n".join([head, *(f"::: spinn_tensor.{module}.{name}" for module, name in found)]) + "\n"
