"""The rules of the house that a reader relies on: which part may import which, and that documents are true.

Layers are stated in pyproject.toml for import-linter, the form of comments and docstrings for ruff.
"""

from __future__ import annotations

import ast
import functools
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OWN = ("sfpp_core", "sfpp_client", "nodes", "training", "tools", "scripts")

# What the core needs to run at all, and what it uses only where that is installed: kernels, and clients of judges.
CORE_REQUIRES = {"torch", "einops", "safetensors", "numpy", "PIL", "av", "matplotlib", "cv2", "scipy", "filelock"}
CORE_OFFERS = {"xformers", "google", "openai", "httpx", "httpx2"}

NOT_IN_COMFYUI = {"cv2", "matplotlib", "google", "openai"}

COMFYUI_MODULES = {
    *("comfy", "comfy_api", "comfy_api_nodes", "comfy_config", "comfy_execution", "comfy_extras"),
    *("execution", "folder_paths", "latent_preview", "node_helpers", "server"),
}


def _python_files(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    assert found, f"no code in {folders}: this test looks in the wrong place"
    return found


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _imports(path: Path) -> Iterator[tuple[ast.stmt, str]]:
    """Each absolute import of a file with the top-level module that it names."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node, (node.module or "").split(".")[0]


def _core_modules() -> list[str]:
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in _python_files("sfpp_core")
    ]


IMPORT_ALONE = """
import importlib, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} must not be imported by sfpp_core")

sys.meta_path.insert(0, Blocked())
sys.path.insert(0, {root!r})
for module in {modules!r}:
    importlib.import_module(module)
"""


def test_core_imports_with_nothing_else_of_the_house_and_without_comfyui():
    blocked = {*OWN, "tests", *CORE_OFFERS, *COMFYUI_MODULES} - {"sfpp_core"}
    program = IMPORT_ALONE.format(blocked=blocked, root=str(ROOT), modules=_core_modules())
    done = subprocess.run([sys.executable, "-c", program], cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _core_modules_of_nodes() -> list[str]:
    """What is imported of the core when ComfyUI loads the pack."""
    statements = (node for path in _python_files("nodes") for node in _tree(path).body)
    return sorted(
        node.module
        for node in statements
        if isinstance(node, ast.ImportFrom) and node.level and (node.module or "").startswith("sfpp_core.")
    )


def test_the_pack_loads_where_only_comfyui_is_installed():
    """Videos can be made with what ComfyUI brings; a node that needs more says so when it is used."""
    modules = _core_modules_of_nodes()
    assert modules
    program = IMPORT_ALONE.format(blocked=NOT_IN_COMFYUI, root=str(ROOT), modules=modules)
    done = subprocess.run([sys.executable, "-c", program], cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.version_info < (3, 11), reason="import-linter needs Python 3.11")
def test_layers_between_and_inside_packages_hold():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_core_imports_itself_relatively_and_only_what_it_may_depend_on():
    for path in _python_files("sfpp_core"):
        for node, module in _imports(path):
            where = f"{_name(path)}:{node.lineno} imports {module}"
            if module in CORE_OFFERS:
                assert node not in _tree(path).body, f"{where}, which is optional: import it where it is used"
            else:
                assert module in CORE_REQUIRES or module in sys.stdlib_module_names, where


def test_nodes_never_import_the_pack_by_an_absolute_name():
    """ComfyUI gives the folder a name of its own and has modules called `nodes` and, perhaps, another core."""
    for path in _python_files("nodes"):
        for node, module in _imports(path):
            assert module not in OWN, f"{_name(path)}:{node.lineno} imports {module}; write a relative import"


def test_training_and_the_client_know_neither_nodes_nor_comfyui():
    for path in _python_files("training", "sfpp_client"):
        for node, module in _imports(path):
            assert module not in {"nodes", "tools", "scripts", "tests", *COMFYUI_MODULES}, (
                f"{_name(path)}:{node.lineno} imports {module}"
            )


def test_benchmarks_find_what_they_import():
    for path in _python_files("benchmarks"):
        importlib.import_module(f"benchmarks.{path.stem}")


def test_root_imports_without_comfyui():
    """Pytest imports it when it collects tests, and so does any tool that looks into the folder."""
    for _, module in _imports(ROOT / "__init__.py"):
        assert module not in COMFYUI_MODULES or _only_for_type_checkers(ROOT / "__init__.py", module)


def _only_for_type_checkers(path: Path, module: str) -> bool:
    """Whether every import of a module in a file is under `if TYPE_CHECKING:` or inside a function."""
    allowed = set()
    for node in ast.walk(_tree(path)):
        guarded = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        if guarded or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            allowed |= {inner.lineno for inner in ast.walk(node) if hasattr(inner, "lineno")}
    return all(node.lineno in allowed for node, name in _imports(path) if name == module)


def _config_classes() -> list[tuple[Path, ast.ClassDef]]:
    return [
        (path, node)
        for path in _python_files(*OWN)
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.ClassDef) and node.name.endswith("Config")
    ]


def test_every_field_of_a_configuration_is_read_somewhere():
    """A setting that nothing reads is a promise that nothing keeps."""
    attributes = [
        (path, node)
        for path in _python_files(*OWN)
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Attribute)
    ]
    for path, config in _config_classes():
        fields = {item.target.id for item in config.body if isinstance(item, ast.AnnAssign)}
        used = {node.attr for other, node in attributes if not (other == path and _checks_itself(config, node))}
        assert not fields - used, f"{config.name} in {_name(path)} has fields that nothing reads"


def _checks_itself(config: ast.ClassDef, node: ast.Attribute) -> bool:
    """Whether an attribute is read in the configuration's own `__post_init__`: validating is not using."""
    for item in config.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__post_init__":
            return item.lineno <= node.lineno <= item.end_lineno
    return False


def test_the_core_names_no_node_and_no_widget():
    """It raises errors with what happened; the sentence that names a node or a widget is written where they are."""
    nodes = json.loads((ROOT / "tests" / "nodes" / "node_schemas.json").read_text(encoding="utf-8"))
    widgets = {each["name"] for node in nodes.values() for each in node["inputs"] if "_" in each["name"]}
    own = {name for path in _python_files("sfpp_core") for name in _names(_tree(path))}
    foreign = re.compile(r"\b(?:SFPP ?[A-Z][a-z]\w*|" + "|".join(sorted(widgets - own)) + r")\b")
    for path in _python_files("sfpp_core"):
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found = foreign.search(node.value)
                assert found is None, f"{_name(path)}:{node.lineno} names {found.group()}"


def _names(tree: ast.Module) -> Iterator[str]:
    """Attributes, parameters and variables of a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


def _documents() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "web").rglob("*.md"))]


# Folders whose contents come and go: a document may name files in them.
_MADE_AT_RUN_TIME = ("runs/", "output/")
_TOP_FOLDERS = sorted(path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in (".venv", ".git"))


def test_every_path_that_a_document_names_exists():
    for document in _documents():
        text = document.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?://|mailto:|#)([^)#\s]+)", text):
            assert (document.parent / target).exists(), f"{_name(document)}: a link leads to {target}"
        for words in re.findall(r"`([^`\n]+)`", text):
            for word in words.split():
                if word.split("/")[0] in _TOP_FOLDERS and "/" in word and not word.startswith(_MADE_AT_RUN_TIME):
                    assert _exists(word), f"{_name(document)}: {word} is named but not there"


def test_no_document_holds_two_versions_of_a_merge():
    for document in _documents():
        text = document.read_text(encoding="utf-8")
        assert not re.findall(r"^(?:<{7}|={7}|>{7})(?: .*)?$", text, re.MULTILINE), _name(document)


def _exists(word: str) -> bool:
    """Whether a path in a text is there; `*`, `NAME` and `{a,b}` stand for any name."""
    word = word.rstrip(".,;:").split("::")[0]
    pattern = re.sub(r"\{[^}]*\}|<[^>]*>|\b[A-Z]{2,}\b(?=[/.]|$)", "*", word)
    return (ROOT / word).exists() or any(ROOT.glob(pattern))


NO_BEGINNING = set("What Who Where How Which Whether When Of As Those Why For From In".split())


def test_docstrings_begin_with_a_verb_or_name_the_thing() -> None:
    """Ruff sees to their punctuation; a clause without its main clause it lets pass."""
    documented = [
        (_name(path), node, ast.get_docstring(node))
        for path in _python_files(*OWN)
        for node in ast.walk(_tree(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    ]
    assert sum(docstring is not None for _, _, docstring in documented) > 1000
    clauses = [
        f"{name}:{node.lineno}: {docstring.splitlines()[0]}"
        for name, node, docstring in documented
        if docstring and docstring.split()[0] in NO_BEGINNING
    ]
    assert clauses == []
