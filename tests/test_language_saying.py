"""Words in two languages: each sentence that is said has its twin in the catalogue, with the same words to fill in."""

from __future__ import annotations

import ast
import json
import re
import string
import tomllib
from pathlib import Path

import pytest

from varlen_lab.errors import InputError
from varlen_lab.language import LANGUAGES, counted, listed, phrase, say, speak, speaking, spoken
from varlen_lab.language.saying import HERE, HOLE, catalogue

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "varlen_lab").rglob("*.py"))
SAYING = {"say", "inked", "counted", "marked"}  # functions whose first argument is an English sentence, or a noun
TEMPLATES = sorted((ROOT / "varlen_lab").rglob("*.j2"))
FILES = sorted((HERE / "zh").rglob("*.toml"))


def said(source: str) -> set[str]:
    """The sentences that a module says in so many words; a console's ``say`` is another."""
    if "varlen_lab.language" not in source and "inked" not in source:
        return set()
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in SAYING and node.args:
            at = 1 if node.func.id == "counted" else 0
            given = node.args[at] if len(node.args) > at else None
            choices = [given.body, given.orelse] if isinstance(given, ast.IfExp) else [given]
            for one in choices:
                if isinstance(one, ast.Constant) and isinstance(one.value, str):
                    found.add(f"# {one.value}" if at else one.value)
    return found


def texts(source: str) -> set[str]:
    """All texts that stand in a module, those of docstrings too."""
    return {
        node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant) and type(node.value) is str
    }


def said_by(template: str) -> set[str]:
    """The sentences that a template of Jinja says."""
    import jinja2.nodes

    calls = jinja2.Environment(autoescape=True).parse(template).find_all(jinja2.nodes.Call)
    said = [call.args[0] for call in calls if isinstance(call.node, jinja2.nodes.Name) and call.node.name in SAYING]
    return {each.value for each in said if isinstance(each, jinja2.nodes.Const)}


def fields(text: str) -> set[str]:
    """The names between braces."""
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def holes(text: str) -> list[str]:
    """What stands between the braces of a lesson's f-string."""
    return sorted(HOLE.findall(text))


def test_english_is_what_stands_in_the_code() -> None:
    assert say("{a} of {b}", a=1, b=2) == "1 of 2" and say("100 {") == "100 {"
    assert counted(1, "token") == "1 token" and counted(1000, "token") == "1,000 tokens"


def test_chinese_is_said_inside_the_block_and_not_after_it() -> None:
    with speaking("zh"):
        assert spoken() == "zh" and counted(1000, "token") == "1,000 个 token"
        assert phrase("nobody translated this") == "nobody translated this"
    assert spoken() == "en"


def test_words_said_in_chinese_know_their_english_and_a_person_s_own_chinese_stays_his() -> None:
    with speaking("zh"):
        cells, both = counted(2, "cell"), listed([counted(2, "cell"), "a"])
    assert (cells, phrase(cells), phrase(both)) == ("2 个格子", "2 cells", "2 cells, a")
    with speaking("zh"):
        again = phrase(cells)
    assert (phrase(again), phrase("2 个格子")) == ("2 cells", "2 个格子")


def test_a_language_that_there_is_not_is_refused() -> None:
    with pytest.raises(InputError, match="'zhh' is unknown, use one of en, zh; did you mean 'zh'"):
        speak("zhh")
    assert spoken() == "en" and set(LANGUAGES) == {"en", "zh"}


@pytest.mark.parametrize("path", SOURCES, ids=[str(path.relative_to(ROOT / "varlen_lab")) for path in SOURCES])
def test_what_a_module_says_is_in_the_catalogue(path: Path) -> None:
    missing = said(path.read_text(encoding="utf-8")) - set(catalogue("zh"))
    if path.parent != HERE:
        assert missing == set()


def test_what_a_page_says_is_in_the_catalogue() -> None:
    found = set().union(*(said_by(path.read_text(encoding="utf-8")) for path in TEMPLATES))
    assert len(found) > 40 and found - set(catalogue("zh")) == set()
    assert said_by('{{ say("a {b}", b=1) }}{{ other("c") }}<p>say("d")</p>') == {"a {b}"}


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_a_catalogue_holds_what_is_said_and_fills_in_the_same_words(path: Path) -> None:
    standing = set().union(*(texts(source.read_text(encoding="utf-8")) for source in SOURCES))
    standing |= set().union(*(said_by(template.read_text(encoding="utf-8")) for template in TEMPLATES))
    if path.parent.name == "lessons":
        (notebook,) = (ROOT / "notebooks").glob(f"{path.stem}*.ipynb")
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        standing = set(re.findall(r'"((?:[^"\\\n]|\\.)*)"', code))
    for english, chinese in tomllib.loads(path.read_text(encoding="utf-8")).items():
        same = holes(chinese) == holes(english) if path.parent.name == "lessons" else fields(chinese) == fields(english)
        assert same or english.startswith("# "), english
        assert english.startswith("# ") or english in standing, f"{english!r} is said nowhere"


def test_what_a_lesson_puts_together_is_found_by_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    from varlen_lab.language import saying

    held = [(re.compile("random, seed (.+?)"), "随机，种子 {seed}", ["{seed}"])]
    monkeypatch.setattr(saying, "patterns", lambda language: held)
    with speaking("zh"):
        assert phrase("random, seed 3") == "随机，种子 3"
        assert phrase("random, seed ") == "random, seed " and phrase("a random, seed 3") == "a random, seed 3"
    assert phrase("random, seed 3") == "random, seed 3"


def test_no_sentence_stands_in_two_catalogues() -> None:
    keys = [
        key for path in FILES for key in tomllib.loads(path.read_text(encoding="utf-8")) if path.parent == HERE / "zh"
    ]
    assert len(keys) == len(set(keys))
