"""What the site shows of the code itself: commands from the parser, REST services from their schemas, notebooks."""

import argparse
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unblot.cli.parser import make_parser
from unblot.config.serving import ServeConfig
from unblot.serving.app import create_app
from unblot.studio.api import Folders
from unblot.studio.app import make_app


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """A page in which `<!-- commands -->`, `<!-- serve -->`, `<!-- studio -->`, `<!-- notebook -->` are what they name.

    The notebook of a page is the one beside it, of its name.
    """
    beside = Path(page.file.abs_src_path).with_suffix(".ipynb")
    makers = {"commands": commands, "serve": serve, "studio": studio, "notebook": lambda: notebook(beside)}
    for name, make in makers.items():
        mark = f"<!-- {name} -->"
        if mark in markdown:
            markdown = markdown.replace(mark, make())
    return markdown


def on_post_page(output: str, **_: Any) -> str:
    """A page without the head's links to other languages: the theme would look for a sitemap beside each of them."""
    return re.sub(r'<link rel="alternate"[^>]*>', "", output)


def commands() -> str:
    """Every command with all of its flags, as Markdown."""
    return "\n\n".join(part for parser in parsers(make_parser()) for part in described(parser))


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The commands below a parser, each followed by its own ones (`unblot edit inpaint`)."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield child
                yield from parsers(child)


def described(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The parts of the section on one command: its text, its usage, and a table for each group of flags."""
    yield f"{'##' if parser.prog.count(' ') == 1 else '###'} {parser.prog}"
    yield plain(parser.description or "")
    yield f"```text\n{parser.format_usage().removeprefix('usage: ').strip()}\n```"
    titles = {"positional arguments": "arguments", "options": "flags"}
    for group in parser._action_groups:
        rows = [row(parser, action) for action in group._group_actions if action.dest != "help"]
        if rows := [text for text in rows if text]:
            yield "\n".join([f"| {titles.get(group.title or '', group.title)} | |", "|---|---|", *rows])
    if parser.epilog:
        head, *options = parser.epilog.splitlines()
        yield "\n".join([head[0].upper() + head[1:], "", "```text", *options, "```"])


def row(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """A row of a table: an argument with the name of its value, and its help; nothing for the list of kinds."""
    if isinstance(action, argparse._SubParsersAction):
        return ""
    value = action.metavar or ("" if action.nargs == 0 else action.dest.upper())
    name = f"{', '.join(action.option_strings)} {value}".strip()
    about = parser._get_formatter()._expand_help(action) if action.help else ""
    return f"| `{name}` | {plain(about)} |"


def plain(text: str) -> str:
    """A text of the help as Markdown: nothing in it is markup but its code."""
    text = text.replace("|", "\\|").replace("<", "&lt;")
    return "`".join(
        part if i % 2 else part.replace("*", "\\*").replace("_", "\\_") for i, part in enumerate(text.split("`"))
    )


def serve() -> str:
    """The requests of `unblot serve`."""
    return requests(create_app({}, ServeConfig()).openapi())


def studio() -> str:
    """The requests of `unblot studio`."""
    with tempfile.TemporaryDirectory() as folder:
        return requests(make_app(Folders(Path(folder), ()), "a-token-of-this-page").openapi())


def requests(schema: dict[str, Any]) -> str:
    """A section for each request of an OpenAPI schema: what it does, its fields, its answers."""
    parts = []
    for path, kinds in schema["paths"].items():
        for kind, about in kinds.items():
            parts += [f"### `{kind.upper()} {path}`", plain(about.get("description") or about.get("summary", ""))]
            if rows := [*map(parameter, about.get("parameters", ())), *fields(schema, about)]:
                parts.append("\n".join(["| field | type | |", "|---|---|---|", *rows]))
            answers = [f"| {code} | {plain(a['description'])} |" for code, a in about["responses"].items()]
            parts.append("\n".join(["| answer | |", "|---|---|", *answers]))
    return "\n\n".join(parts)


def parameter(about: dict[str, Any]) -> str:
    kind = type_of(about.get("schema", {}))
    return f"| `{about['name']}` in the {about['in']} | {kind} | {plain(about.get('description', ''))} |"


def fields(schema: dict[str, Any], about: dict[str, Any]) -> Iterator[str]:
    """A row for each field of a request's body."""
    for content in about.get("requestBody", {}).get("content", {}).values():
        name = content["schema"].get("$ref", "").rpartition("/")[2]
        model = schema["components"]["schemas"].get(name, content["schema"])
        for field, how in model.get("properties", {}).items():
            told = plain(how.get("description", ""))
            default = f"default {how['default']}" if how.get("default") not in (None, "") else ""
            yield f"| `{field}` | {type_of(how)} | {'; '.join(filter(None, [told, default]))} |"


def type_of(how: dict[str, Any]) -> str:
    """The type that a JSON schema describes, in words."""
    kinds = [type_of(one) for one in how.get("anyOf", ())] or [str(how.get("type", "any"))]
    if how.get("type") == "array":
        kinds = [f"list of {type_of(how.get('items', {}))}"]
    return " or ".join(kind for kind in dict.fromkeys(kinds) if kind not in ("null", ""))


def notebook(path: Path) -> str:
    """The cells of a notebook as Markdown, each with what it showed when it was run; pictures stand in the page."""
    parts, about = [], ""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            about = text.rpartition("\n\n")[2].replace("\n", " ").replace('"', "&quot;").replace("`", "")
            continue
        parts += [f"```python\n{text}\n```", *(shown(output, about) for output in cell["outputs"])]
    return "\n\n".join(parts)


def shown(output: dict[str, Any], about: str) -> str:
    """One output of a cell: a picture, with `about` for those who do not see it, or text."""
    data = output.get("data", {})
    if "image/png" in data:
        source = "data:image/png;base64," + "".join(data["image/png"]).replace("\n", "")
        return f'<img class="output" src="{source}" alt="{about}">'
    return f"```{{ .text .output }}\n{''.join(output.get('text') or data['text/plain']).rstrip()}\n```"
