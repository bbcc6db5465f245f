"""Which of ComfyUI's pages the page tests drive, and how the newest one gets there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools import pages


@pytest.mark.parametrize(
    ("variables", "driven"),
    (
        ({}, ("pinned",)),
        ({"SFPP_PAGE": "pinned"}, ("pinned",)),
        ({"SFPP_PAGE": "newest"}, ("newest",)),
        ({"SFPP_PAGE": "both"}, ("pinned", "newest")),
    ),
)
def test_the_variable_decides_which_pages_are_driven(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], driven: tuple[str, ...]
):
    monkeypatch.delenv("SFPP_PAGE", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert pages.pages() == driven


def test_a_page_that_there_is_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SFPP_PAGE", "next")
    with pytest.raises(pages.NoPageError, match="SFPP_PAGE is 'next'; set it to pinned, newest, both, or unset it"):
        pages.pages()


def test_it_is_installed_once_and_only_if_it_is_driven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    monkeypatch.setattr(pages, "FOLDER", tmp_path / "page")
    monkeypatch.setenv("SFPP_PAGE", "pinned")
    pages.main()
    assert not list(tmp_path.iterdir()) and pages.server_arguments("pinned") == ()
    monkeypatch.setenv("SFPP_PAGE", "newest")
    with pytest.raises(pages.NoPageError, match="the newest page is not installed"):
        pages.server_arguments("newest")
    pages.main()
    assert [path.name for path in tmp_path.iterdir()] == ["page"] and (tmp_path / "page" / "index.html").is_file()
    assert pages.server_arguments("newest") == ("--front-end-root", str(tmp_path / "page"))
    assert "installing" in capsys.readouterr().out
    pages.main()
    assert not capsys.readouterr().out


def test_one_that_cannot_be_installed_ends_nothing(tmp_path: Path):
    code = (
        "from pathlib import Path; from tools import pages; pages.ROOT = Path('.').absolute();"
        "pages.FOLDER = pages.ROOT / 'page'; pages.NEWEST_WHEEL_HASH = 'sha256:' + 64 * '0'; pages.main()"
    )
    environment = {"SFPP_PAGE": "newest", "PYTHONPATH": str(Path(__file__).resolve().parents[2]), "PATH": ""}
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0
    assert "pages: it cannot be installed, and the tests that need it will fail" in ended.stderr
    assert not list(tmp_path.iterdir())
