"""The documents say what the product does: keys, examples, links, commands and names in them are held to the code."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from pydantic import TypeAdapter
from typer.main import get_command

from edgefleet_agent.__main__ import build_parser
from edgefleet_contract.accept import Choose
from edgefleet_contract.base import Record
from edgefleet_contract.evidence import Task
from edgefleet_contract.manifest import BUILTIN_CLASSES, DeploymentSpec, Manifest, ModelSpec
from edgefleet_contract.schema import manifest_schema
from edgefleet_contract.units import DURATION_MS, ENERGY_MJ, RATE_HZ, SIZE_BYTES
from edgefleet_contract.variant import ENGINES, PRECISIONS
from edgefleet_controller.cli.app import app
from edgefleet_controller.load import check_supported, parse_manifest
from edgefleet_controller.planner.planning import DEFAULT_CHAINS

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
ROOMS = ("agent", "controller", "manifests", "hil", "tools")
FLEET: Any = get_command(app)
TEXT = {".py", ".sql", ".yaml", ".json", ".toml", ".md", ".sh"}

FENCE = re.compile(r"^(?P<mark>`{3,})(?P<language>\w*)\n(?P<body>.*?)^(?P=mark)$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
PROMPT = re.compile(r"^(?:\$ |repeat it: |\.venv/bin/)+(?P<line>(?:fleet|edgefleet-agent) .*)$", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    language: str
    body: str


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(language: str | None = None) -> list[Block]:
    found = [Block(name, each["language"], each["body"]) for name in NAMES for each in FENCE.finditer(read(name))]
    return [block for block in found if language in {None, block.language}]


def prose(name: str) -> str:
    return FENCE.sub("", read(name))


def spans(name: str) -> list[str]:
    return SPAN.findall(prose(name))


# Keys and values of the manifest


def properties(schema: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key of a schema with what it takes."""
    for record in (schema, *schema["$defs"].values()):
        yield from record.get("properties", {}).items()


def named_on_the_page() -> set[str]:
    """Return every word that stands in backticks; `latency.p95` names both."""
    return {word for span in spans("docs/manifest.md") for word in (span, *re.split(r"[.:=]\s*", span))}


@pytest.mark.parametrize("key", sorted({key for key, _ in properties(manifest_schema())}))
def test_every_key_of_the_manifest_stands_on_its_page(key: str) -> None:
    assert key in named_on_the_page()


def test_every_word_a_key_takes_stands_on_the_page() -> None:
    schema = manifest_schema()
    enums = [each["enum"] for each in (*schema["$defs"].values(), *dict(properties(schema)).values()) if "enum" in each]
    words = {word for enum in enums for word in enum} | {each.value for kind in (Choose, Task) for each in kind}
    assert words <= named_on_the_page()


def test_every_unit_engine_and_precision_stands_on_the_page() -> None:
    units = {unit for table in (DURATION_MS, SIZE_BYTES, ENERGY_MJ, RATE_HZ) for unit in table}
    targets = {runtime: engines for runtime, engines in ENGINES.items() if runtime != "misbehave"}
    assert units | {*targets, *PRECISIONS} <= named_on_the_page()
    rows = [line for line in read("docs/manifest.md").splitlines() if line.startswith(("| `ort`", "| `t"))]
    assert {engine for engines in targets.values() for engine in engines} <= set(SPAN.findall("\n".join(rows)))


def test_the_built_in_classes_stand_on_the_page_with_selector_and_chain() -> None:
    rows = [SPAN.findall(line) for line in read("docs/manifest.md").splitlines() if line.startswith("| `")]
    for name, selector in BUILTIN_CLASSES.items():
        assert [name, selector, *DEFAULT_CHAINS[name]] in rows


# Examples


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: f"{block.page}: {block.body.splitlines()[0]}")
def test_every_yaml_example_is_what_the_language_takes(block: Block) -> None:
    if block.body.startswith("fleet: v1"):
        loaded = parse_manifest(block.body, root=ROOT, file=block.page)
        check_supported(loaded)
    else:
        for key, value in yaml.safe_load(block.body).items():
            TypeAdapter(field(key)).validate_python(value)


def field(key: str) -> Any:
    """Return the type of a key that an example shows by itself."""
    kinds: tuple[type[Record], ...] = (Manifest, DeploymentSpec, ModelSpec)
    found = next(kind.model_fields[key] for kind in kinds if key in kind.model_fields)
    return found.rebuild_annotation()


def test_the_page_has_whole_manifests_to_begin_with() -> None:
    assert sum(each.page == "docs/manifest.md" and each.body.startswith("fleet: v1") for each in blocks("yaml")) >= 3


# Links and names


def slugs(name: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    made: dict[str, int] = {}
    out = set()
    for title in re.findall(r"^#+ (.+)$", prose(name), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title.strip().lower())
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        made[slug] = made.get(slug, -1) + 1
        out.add(slug if made[slug] == 0 else f"{slug}-{made[slug]}")
    return out


@pytest.mark.parametrize("name", NAMES)
def test_every_relative_link_and_anchor_leads_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", SPAN.sub("", prose(name))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        assert found.exists(), target
        assert not anchor or anchor in slugs(found.relative_to(ROOT).as_posix()), target


def sources() -> Iterator[Path]:
    yield from PAGES
    for room in ROOMS:
        for folder, _, names in os.walk(ROOT / room):
            yield from (Path(folder, name) for name in names if Path(name).suffix in TEXT)


def test_every_page_named_anywhere_is_there() -> None:
    named = {page for path in sources() for page in re.findall(r"\bdocs/[\w/.-]+\.md", path.read_text("utf-8"))}
    assert "docs/manifest.md" in named
    assert not {page for page in named if not (ROOT / page).is_file()}


def test_every_make_target_and_benchmark_named_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    text = "\n".join(map(read, NAMES))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)) <= targets
    benches = set(re.findall(r"python -m bench[ .]([a-z_]+)", text))
    assert not {name for name in benches if not (ROOT / "bench" / f"{name}.py").is_file()}


def test_every_target_of_make_stands_in_the_readme() -> None:
    helped = re.findall(r"^([a-z-]+):.*## ", read("Makefile"), re.MULTILINE)
    assert set(helped) <= set(re.findall(r"(?:`|^)make ([a-z-]+)", read("README.md"), re.MULTILINE))


def test_every_variable_of_the_environment_named_is_one_the_code_reads() -> None:
    pattern = re.compile(r"\b(?:EDGEFLEET|FLEET)_[A-Z_]+")
    files = [path for glob in ("*/edgefleet_*/**/*.py", "bench/*.py", "tests/**/*.py") for path in ROOT.glob(glob)]
    code = {name for path in files for name in pattern.findall(path.read_text("utf-8"))}
    begun = tuple(name for name in code if name.endswith("_"))
    named = {name for page in NAMES for name in pattern.findall(read(page))}
    assert not {name for name in named if name not in code and not name.startswith(begun)}


# Commands


def parse_fleet(words: list[str]) -> None:
    """Parse a command line as `fleet` does, and run nothing. Raises click's usage errors."""
    command = FLEET
    context = command.make_context("fleet", list(words))
    while hasattr(command, "commands") and (rest := [*context._protected_args, *context.args]):
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)


def parse_agent(words: list[str]) -> None:
    build_parser().parse_args(words)


PARSERS: dict[str, Callable[[list[str]], None]] = {"fleet": parse_fleet, "edgefleet-agent": parse_agent}


def command_lines() -> list[tuple[str, str]]:
    """Return (page, line) of each command in a fenced block; a `…` stands for more of the same."""
    found = [(block.page, match["line"]) for block in blocks() for match in PROMPT.finditer(block.body)]
    return [(page, line.replace("…", "")) for page, line in found]


@pytest.mark.parametrize(("page", "line"), command_lines())
def test_every_command_shown_is_one_the_program_takes(page: str, line: str) -> None:
    program, *words = shlex.split(line, comments=True)
    PARSERS[program](words)


def options_of(words: list[str]) -> set[str]:
    """Return the options `fleet` knows for the command that `words` begin with. Raises KeyError for none such."""
    command = FLEET
    options = {name for each in command.params for name in each.opts}
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        command = command.commands[words.pop(0)]
        options |= {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
    return options | {"--help"}


@pytest.mark.parametrize("name", NAMES)
def test_every_command_in_running_text_has_options_that_exist(name: str) -> None:
    text = prose(name).partition("\n## Not there yet")[0]
    for span in (each for each in SPAN.findall(text) if re.match(r"fleet [a-z]", each)):
        words = re.split(r"[\s|]+", span.removeprefix("fleet "))
        given = {re.split("[=…]", word)[0] for word in words if word.startswith("-")}
        assert given <= options_of(words), span
