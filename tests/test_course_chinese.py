"""The checks in Chinese: each mistake has its own sentence there too, whole and filled in; guesses are read as well."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from test_course_puzzles import HOSTILE, Puzzle, each_puzzle, puzzles, wrong_answers
from test_course_words import Letters
from test_language_saying import fields

from varlen_lab.course import BeforeAfter, at_hand, guess, next_words, table, teaching_model
from varlen_lab.course.explaining import sentence
from varlen_lab.course.kept_results import GpuTraining
from varlen_lab.course.lessons import Lesson
from varlen_lab.course.puzzles import capstone, config_files, fair_test, messages
from varlen_lab.course.puzzles.capstone import FAULTS, SOUND, check_findings, stranger_script
from varlen_lab.course.puzzles.mending import certify, mended
from varlen_lab.course.verdicts import Verdict, call, judging, not_yet, right, unit_said
from varlen_lab.language import saying, speaking
from varlen_lab.language.saying import catalogue

COURSE = Path(capstone.__file__).resolve().parent.parent
SAYING = [path for path in sorted((COURSE / "puzzles").glob("*.py")) if path.stem != "stranger"]
SAYING += [
    COURSE / f"{name}.py" for name in ("verdicts", "words", "explaining", "before_after", "first_steps", "speaking")
]
CHINESE = re.compile("[\u4e00-\u9fff]")
# What came out of the reader's code
VALUES = (r"<[^>]*(?:>|…)", r"\w+Error: [^，。（]*", r"'[^']*(?:'|…)", r'"[^"]*(?:"|…)')
ENGLISH = re.compile(r"\b[A-Za-z][a-z']+(?: [A-Za-z][a-z']+){2,}")
UNFILLED = re.compile(r"\{[a-z_]+(?:![rs]|:[^}]*)?\}")
LINE = stranger_script().line_of('"attention_mask": mask')


def english_left(text: str) -> list[str]:
    """Three English words in a row, where they are not somebody's value."""
    for value in (*VALUES, *(re.escape(fault.name) for fault in FAULTS)):
        text = re.sub(value, "''", text)
    return [found[0] for found in ENGLISH.finditer(text)]


def faults_of(verdict: Verdict) -> list[str]:
    """What keeps a verdict from being read as Chinese."""
    text = str(verdict)
    found = english_left(text) + UNFILLED.findall(verdict.words)
    return found + ([] if CHINESE.search(verdict.words) else [f"no Chinese in {verdict.words!r}"])


def in_both(puzzle: Puzzle, code: str) -> tuple[Verdict, Verdict]:
    """What the check says of a reader's code, in English and in Chinese."""
    english = puzzle.judge(code)
    with speaking("zh"):
        return english, puzzle.judge(code)


@each_puzzle
def test_each_mistake_has_its_own_chinese_sentence(lesson: Lesson, n: int) -> None:
    puzzle = puzzles(lesson)[n]
    both = [in_both(puzzle, wrong["code"]) for wrong in wrong_answers(lesson, n)]
    both.append(in_both(puzzle, puzzle.start))
    for english, chinese in both:
        assert faults_of(chinese) == [], chinese
        assert not chinese.right and bool(chinese.expected) == bool(english.expected)
    pairs = {(english.words, chinese.words) for english, chinese in both}
    assert len({english for english, _ in pairs}) == len(pairs) == len({chinese for _, chinese in pairs})


@each_puzzle
def test_a_right_answer_is_told_so_in_chinese_and_no_answer_is_told_in_english(lesson: Lesson, n: int) -> None:
    puzzle = puzzles(lesson)[n]
    assert puzzle.solution
    english, chinese = in_both(puzzle, puzzle.solution[1])
    assert english.right and chinese.right and str(chinese).startswith("✓ 对了：") and faults_of(chinese) == []
    for hostile in HOSTILE:
        with speaking("zh"):
            verdict = puzzle.judge("\n".join(f"{name} = {hostile}" for name in puzzle.names))
        assert not verdict.right and faults_of(verdict) == [], verdict


def sentences_of(source: str) -> set[str]:
    """Texts of a module that read as words: no docstrings, none of its errors, no pieces of f-strings."""
    tree, left_out = ast.parse(source), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr | ast.JoinedStr):
            left_out |= {id(one) for one in ast.walk(node) if isinstance(node, ast.JoinedStr) or one is node.value}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "InputError":
            left_out |= {id(one) for one in ast.walk(node)}
    texts = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in left_out}
    return {text for text in texts if isinstance(text, str) and re.search(r"[a-z]{2,} | [a-z]{2,}", text)}


def strings(value: Any) -> set[str]:
    """All texts in dicts, lists and tuples."""
    if isinstance(value, str):
        return {value}
    parts = [*value, *value.values()] if isinstance(value, dict) else value
    return set().union(*map(strings, parts)) if isinstance(parts, list | tuple) else set()


NO_SENTENCES = {
    *SOUND,
    *(text for fault in FAULTS for text in (fault.name, *fault.lines)),
    *(text for text, *_ in (*config_files.PLAIN, *config_files.REFUSED)),
    *strings(list(messages.RECORDS)),
    *{fair_test.COULD_NOT_FAIL, "✓ ok: ", "✗ not ok: ", r"name '(\w+)'"},
}


@pytest.mark.parametrize("path", SAYING, ids=[path.stem for path in SAYING])
def test_all_that_a_check_may_say_is_in_the_catalogue(path: Path) -> None:
    assert sentences_of(path.read_text(encoding="utf-8")) - NO_SENTENCES - set(catalogue("zh")) == set()


def test_a_sentence_that_nobody_translated_is_found() -> None:
    source = '"""No word of it."""\nMISTAKES = [(1, "these are squares.")]\nraise InputError("it is not here.")'
    assert sentences_of(source) == {"these are squares."}
    assert english_left("输入：these are squares 'and not these three'") == ["these are squares"]
    assert UNFILLED.findall("有 {count:,} 篇 {'lr': 1}") == ["{count:,}"]


def test_no_two_sentences_of_the_puzzles_are_one_in_chinese() -> None:
    ours = {one for path in SAYING for one in sentences_of(path.read_text("utf-8"))} - NO_SENTENCES
    assert len({catalogue("zh")[one] for one in ours}) == len(ours) > 300


def test_a_verdict_stays_in_the_language_it_was_made_in() -> None:
    english = not_yet("these are the lengths; cu_seqlens is their running total.", [0, 2], [2])
    with speaking("zh"):
        chinese = not_yet("these are the lengths; cu_seqlens is their running total.", [0, 2], [2])
        assert str(english).startswith("✗ not yet: these are the lengths") and "   expected  [0, 2]" in str(english)
    assert re.fullmatch(r"✗ 还不对：[^a-z]*cu_seqlens[^a-z]*\n   应得 +\[0, 2\]\n   实得 +\[2\]", str(chinese))
    assert "应得" in chinese._repr_html_() and "expected" not in chinese._repr_html_()


@pytest.mark.parametrize(
    ("said", "truth", "unit", "near"),
    [
        ("对", True, "", True),
        ("是。", True, "", True),
        (" 否 ", False, "", True),
        ("假", True, "", False),
        ("不会", False, "", True),
        ("真", False, "", False),
        ("62％", 62.2, " %", True),
        ("６２％", 0.622, "", True),
        ("1，000", 1000.0, "", True),
        ("12 个 token", 12.0, " tokens", True),
        ("３倍", 3.1, " times", True),
        ("20", 12.0, " tokens", False),
    ],
)
def test_a_guess_is_read_as_people_write_it_in_chinese(
    said: Any, truth: Any, unit: str, near: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = catalogue("zh") | {" tokens": " 个 token", " times": " 倍"}
    monkeypatch.setattr(saying, "catalogue", lambda language: known)
    with speaking("zh"):
        verdict = guess(said, truth, unit)
    assert verdict.right is near and "实测" in verdict.words and faults_of(verdict) == []


@pytest.mark.parametrize("said", ["六", "很多", [1, [2]], {}, float("nan"), object(), torch.arange(3)])
def test_a_guess_that_is_no_number_is_said_in_chinese(said: Any) -> None:
    with speaking("zh"):
        assert not guess(said, 3.0, " nats").right and not guess(said, True).right
        assert guess(said, 3.0).words.endswith("3。") and guess(None, 3.0).words.startswith("实测 3。先")


def test_a_unit_is_said_whether_or_not_its_space_is_in_the_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    known = catalogue("zh") | {" rows": " 行", "tokens": "个 token", " %": "%"}
    known.pop(" tokens", None)
    monkeypatch.setattr(saying, "catalogue", lambda language: known)
    assert unit_said(" rows") == " rows"
    with speaking("zh"):
        assert [unit_said(one) for one in (" rows", " tokens", " %", "", "×")] == [" 行", " 个 token", "%", "", "×"]
        assert str(guess(12, 12.5, " tokens")).endswith("12 个 token，实测 12.5 个 token。")


@pytest.mark.parametrize(
    ("findings", "found"),
    [
        ({f"第 {LINE} 行": "全是 1，关掉了对文档的查找"}, "attention_mask"),
        ({f"第{LINE}行": "没有写 use_cache=False"}, "use_cache"),
        ({LINE: "缓存没有关掉"}, "use_cache"),
        ({f"行 {LINE}": "掩码"}, "attention_mask"),
        ({"".join(chr(ord(digit) + 0xFEE0) for digit in str(LINE)): "掩码全是 1"}, "attention_mask"),
        ({"边界标签": "下一篇的第一个 token 也训练了"}, "border label"),
        ({"注意力掩码": ""}, "attention_mask"),
        ({"KV 缓存": ""}, "use_cache"),
        ({"均值的均值": ""}, "mean of means"),
        ({" 循环层 ": ""}, "recurrent layer"),
    ],
)
def test_an_accusation_is_understood_in_chinese(findings: dict[Any, str], found: str) -> None:
    with speaking("zh"):
        verdict = check_findings(findings)
    assert f"5 处错误找到了 1 处（{found}）。再看看" in verdict.words and faults_of(verdict) == []
    assert f"1 of 5 faults found ({found}). Look" in check_findings(findings).words


def test_chinese_words_that_accuse_what_is_right_are_a_false_alarm() -> None:
    with speaking("zh"):
        assert "误报：审查不会给出 '学习率' 这个名字" in check_findings({"学习率": "太大"}).words
        assert "误报：脚本没有第 900 行" in check_findings({"第 900 行": "缓存"}).words
        assert check_findings({fault.chinese[0]: "" for fault in FAULTS}).right
    names = [name for fault in FAULTS for name in fault.chinese]
    assert len(names) == len(set(names))


def test_a_receipt_is_in_english_under_a_chinese_head_and_its_findings_are_lines() -> None:
    stranger = stranger_script()
    with speaking("zh"):
        came, put_right = certify(stranger.collate, stranger.mean_square, stranger.step_loss), certify(*mended())
    assert {line.split(",")[0] for line in came.words.splitlines() if line.startswith("✗ ")} == {
        f"✗ {fault.name}" for fault in FAULTS
    }
    assert put_right.right and put_right.words.startswith("LeakCheck 的回执")


def test_what_goes_wrong_in_a_readers_code_is_told_in_chinese() -> None:
    def mine(lengths: list[int]) -> int:
        return lengths[99]

    @judging
    def check(answer: Any, **arguments: Any) -> Verdict:
        call(answer, **arguments)
        return right("these are copies of each other.") if answer.there else not_yet("say True or False.")

    with speaking("zh"):
        assert (
            "IndexError" in check(mine, lengths=[2]).words
            and "出错的一行：return lengths[99]" in check(mine, lengths=[2]).words
        )
        assert check(None).words.startswith("先在上面的单元格里写出") and "AttributeError" in check(len, one=[1]).words
        assert faults_of(check(len, one=[1])) == []


def test_a_name_that_is_not_there_yet_is_said_in_chinese() -> None:
    with speaking("zh"):
        said = sentence(NameError("name 'boundarys' is not defined"), {"boundaries": 1})
        assert said.startswith("boundarys 还没有定义。请先运行上面的单元格")
        assert said.endswith("；也许你想写的是 'boundaries'。")
        assert "也许" not in sentence(NameError("name 'qqqqqq' is not defined"), {"boundaries": 1})


def test_tables_and_words_of_a_lesson_are_in_chinese(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = catalogue("zh") | {"trap": "陷阱", "yours": "你的"}
    monkeypatch.setattr(saying, "catalogue", lambda language: known)
    with speaking("zh"):
        shown = table(["trap", "no such head"], [["yours", 1.5], ["as it is", None]])
        words = next_words({"yours": torch.tensor([[9.0, 0, 0, 0]])}, Letters(), count=2)
        asked = BeforeAfter(["?"], ["a"], ["a"], ["b"])
        said, page, speaker = str(asked), asked._repr_html_(), teaching_model("stand-in")
        model = repr(speaker)
        assert not at_hand("no_such_package")
    assert shown.head == ("陷阱", "no such head") and shown.rows == (("你的", "1.500"), ("as it is", "–"))
    assert repr(shown) == "陷阱      no such head\n你的      1.500\nas it is  –"
    assert list(words.columns) == ["下一个词", "候选 2"] and words.loc["你的"].iloc[0].startswith("（空格）, ")
    counts = catalogue("zh")["{when}: {formed} in the form of the data, {right} right"]
    assert said.splitlines()[1:] == [
        counts.format(when=w, formed=n, right=n) for w, n in (("训练前", 1), ("训练后", 0))
    ]
    assert page.count("训练前") == 2 and "数据里的答案" in page and "before" not in page
    assert model.startswith("一个小 Llama：0.") and english_left(model) == []
    assert "没有安装 no_such_package" in capsys.readouterr().out


def test_what_is_kept_of_a_gpu_is_told_in_chinese() -> None:
    one = {"row": 16, "fill": 0.93, "peak_gib": 40.0}
    cells = [one | {"mode": mode, "tokens_per_second": rate} for mode, rate in (("D", 4.0), ("C", 2.0), ("A", 1.0))]
    gpu = GpuTraining(cells, {"name": "CARD", "torch": "2"}, "folder")
    with speaking("zh"):
        assert "：填充 4.00×、packed 2.00×；行长 16" in gpu.claim(16)
        assert [bar[0] for bar in gpu.bars(16)] == ["varlen", "packed", "填充"]
        assert gpu.bars(16)[0][2] == " · 装满 93%，40 GiB"


def test_placeholders_of_a_check_are_those_of_its_sentence() -> None:
    for path in SAYING:
        for english in sentences_of(path.read_text(encoding="utf-8")) - NO_SENTENCES:
            assert fields(catalogue("zh")[english]) == fields(english), english
