"""The texts of the nodes in other languages: complete, equal to the nodes' own in English, with the same figures."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tools.comfy_server import ROOT
from tools.locales import FOLDER, files, node_texts, own_nodes, page_texts

LANGUAGES = sorted(path.name for path in FOLDER.iterdir())
TRANSLATIONS = [language for language in LANGUAGES if language != "en"]
HELP = ROOT / "web" / "docs"

SPECIAL = set("@{}|")
"""What the page's translations read as commands."""


def read(language: str, name: str) -> dict[str, Any]:
    return json.loads((FOLDER / language / f"{name}.json").read_text(encoding="utf-8"))


def leaves(texts: dict[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Every text with the path that leads to it."""
    for key, value in texts.items():
        here = f"{path}.{key}" if path else key
        if isinstance(value, dict):
            yield from leaves(value, here)
        else:
            yield here, value


def figures(text: str) -> list[str]:
    """The numbers of a text and the names in code: no language says them differently."""
    return sorted(set(re.findall(r"\d+(?:[.,:]\d+)*", text)) | set(re.findall(r"%\w+%|\b[A-Z]{3,}_[A-Z_]+\b", text)))


def test_english_is_what_the_nodes_say(comfy):
    """`python -m tools.locales` writes it again."""
    for path, text in files(comfy.client.object_info()):
        assert path.read_text(encoding="utf-8") == text, path.name


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_a_translation_has_every_text(comfy, language: str):
    info = comfy.client.object_info()
    for name, own in (("main", page_texts(info)), ("nodeDefs", node_texts(info))):
        translated = dict(leaves(read(language, name)))
        assert translated.keys() == dict(leaves(own)).keys(), name
        assert all(text.strip() for text in translated.values())


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_a_translation_has_the_figures_of_the_original(comfy, language: str):
    own = dict(leaves(node_texts(comfy.client.object_info())))
    for path, text in leaves(read(language, "nodeDefs")):
        if not path.endswith(".name"):
            assert figures(text) == figures(own[path]), path


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_is_read_as_a_command(language: str):
    for name in ("main", "nodeDefs"):
        for path, text in leaves(read(language, name)):
            assert not SPECIAL & set(text), path


def test_the_page_is_given_all_of_it(comfy):
    served = comfy.client.get_json("/api/i18n")
    for language in LANGUAGES:
        assert read(language, "nodeDefs").items() <= served[language]["nodeDefs"].items()
        assert read(language, "main")["nodeCategories"].items() <= served[language]["nodeCategories"].items()


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_help_page_names_every_input_and_output(comfy, language: str):
    for name, info in own_nodes(comfy.client.object_info()).items():
        path = HELP / name / f"{language}.md"
        words = named_in(path)
        assert path.read_text(encoding="utf-8").startswith(f"# {read(language, 'nodeDefs')[name]['display_name']}\n")
        inputs = [*info["input_order"].get("required", []), *info["input_order"].get("optional", [])]
        assert not {*inputs, *info["output_name"]} - words, path


def named_in(path: Path) -> set[str]:
    """The words that a help page sets as code."""
    return set(re.findall(r"`([^`\n]+)`", path.read_text(encoding="utf-8")))
