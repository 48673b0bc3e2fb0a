"""A config as text: the file of ``name = value`` lines that ``copy-cfg`` writes, and the pairs behind a flag.

``load`` reads a file without running it: only literals are understood, anything else is refused with its line.
``render`` writes one, in five parts as on XTuner's page, and ``load(render(config)) == config``. ``override`` puts in
what a command line changes: ``--cfg-options max_steps=20 seed=1``, ``--set``.
"""

from __future__ import annotations

import ast
import os
import re
import stat
import warnings
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from varlen_lab.config.idle import refuse_idle
from varlen_lab.config.schema import Config, has_effect, schema, setting_names, unknown_setting
from varlen_lab.errors import InputError, SettingError, nearest, of_kind, quoted

# XTuner's page numbers the parts of a config file: a setting of the schema says in which it stands.
PARTS = ("Settings", "Model & Tokenizer", "Dataset & Dataloader", "Scheduler & Optimizer", "Runtime")
LARGEST_FILE = 2**20  # bytes; more is no config, and Python's parser takes a thousand times as much memory
LONGEST_NAME = 255  # characters of a path that a sentence shows whole
LONG_CODE = 20_000  # characters of a string in which Python looks for expressions: the time grows with the square
LONGEST_NAME = 255  # letters of a file's name, on the systems that there are
LINE_END = re.compile(r"\r\n|\r|\n")
# Strings, and comments, which may hold a lone quote. One that is never closed goes to the end, for else the search
# would begin anew at each of its quotes.
LITERAL = re.compile(
    r"""#[^\n]*|(?P<prefix>\b[A-Za-z]{1,2})?(?:"""
    r"""(?P<long>'{3}|"{3})(?:[^\\]|\\.)*?(?:(?P=long)|\Z)|(?P<quote>['"])(?:[^\\\n]|\\.)*?(?:(?P=quote)|$))""",
    re.DOTALL | re.MULTILINE,
)


def load_config(word: str | Path) -> Config:
    """The Config of a file, or of a name that ``list-cfg`` shows; InputError with the near name."""
    of_kind("config", word, (str, os.PathLike), "a file or a name", "varlen-lab list-cfg shows the names")
    if os.path.isfile(word) and not names_model(word):
        return load(word)
    from varlen_lab.config.names import config_names, named_config  # a config file needs none of the tables

    if len(os.path.basename(word)) > LONGEST_NAME:
        raise InputError(
            f"{quoted(str(word))} is no config (File name too long); name a file, or what varlen-lab list-cfg shows."
        )
    if word in config_names():
        return named_config(str(word))
    if names_model(word):
        raise InputError(f"{word} is a model and no config; varlen-lab copy-cfg --model {word} DIR makes one for it.")
    if os.path.isdir(word):
        raise InputError(f"{word} is a folder and no config; name a file in it, or a name from list-cfg.")
    if Path(word).suffix == ".py" or "/" in str(word):
        raise InputError(f"there is no config file {shown(word)}; varlen-lab copy-cfg NAME DIR makes one.")
    hint = nearest(str(word), config_names()) or "; varlen-lab list-cfg shows the names."
    raise InputError(f"there is no config file and no config name {quoted(str(word))}{hint}")


def names_model(word: str | Path) -> bool:
    """Whether a word where a config should stand names a model: a folder of one, a .gguf file or a package of one."""
    path = Path(word)
    return os.path.isfile(path / "config.json") or path.suffix.lower() == ".gguf" or str(word).startswith("pip:")


def shown(word: str | Path) -> str:
    """A path as a sentence shows it: as it is, or in quotes where it would break the line or has no end."""
    text = str(word)
    return text if text.isprintable() and text == text.strip() and len(text) <= LONGEST_NAME else quoted(text)


def load(path: str | Path) -> Config:
    """Read a config file. Nothing in it is executed; every complaint, an InputError, names file and line."""
    path, name = Path(path), shown(path)
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode) and not stat.S_ISDIR(about.st_mode):  # a pipe would be waited for
            raise InputError(f"{name} is no file, and a config is one; varlen-lab copy-cfg NAME DIR makes one.")
        if about.st_size > LARGEST_FILE:
            size = f"{about.st_size / 2**20:,.1f} MB"
            raise InputError(f"{name}:1: the file has {size}, a config has some kB; is it the file you meant?")
        source = path.read_text(encoding="utf-8-sig")  # Windows puts a mark in front
    except FileNotFoundError:
        raise InputError(f"there is no config {name}; make one with: varlen-lab copy-cfg NAME .") from None
    except UnicodeDecodeError as problem:
        line = problem.object[: problem.start].count(b"\n") + 1
        raise InputError(f"{name}:{line}: not UTF-8 text ({problem.reason}); save it as UTF-8.") from None
    except OSError as problem:
        raise InputError(f"{name}: cannot be read ({problem.strerror}); check its permissions.") from None
    except ValueError as problem:
        if isinstance(problem, InputError):
            raise
        raise InputError(f"no file is called {quoted(str(path))} ({problem}); check the path.") from None
    return load_text(source, str(path)).replace(name=path.stem)


def load_text(source: str, origin: str) -> Config:
    """The Config that a config file's text describes; ``origin`` is what complaints (InputError) call the file."""
    values, lines = parse(source, origin)
    try:
        return Config(**values)
    except SettingError as problem:
        line = f":{lines[problem.setting]}" if problem.setting in lines else ""  # no line for what nobody wrote
        raise InputError(f"{origin}{line}: {problem}") from None


def parse(source: str, origin: str) -> tuple[dict[str, Any], dict[str, int]]:
    """The literals of a config file and the line each stands on."""
    refuse_long_code(source, origin)
    try:
        with warnings.catch_warnings():  # about odd escapes; the value shows in the error, if there is one
            warnings.simplefilter("ignore")
            tree = ast.parse(source, origin)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as problem:
        line = getattr(problem, "lineno", None) or 1
        reason = getattr(problem, "msg", None) or problem
        raise InputError(f"{origin}:{line}: not readable as `name = value` lines ({reason}).") from None
    values: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue  # a docstring
        where = f"{origin}:{statement.lineno}"
        target = statement.targets[0] if isinstance(statement, ast.Assign) and len(statement.targets) == 1 else None
        if not isinstance(target, ast.Name):
            text = written(source, statement)[:60]
            raise InputError(
                f"{where}: `{text}` is not a `name = value` line; a config holds settings, it is never run."
            )
        name = target.id
        if name not in setting_names():
            raise InputError(f"{where}: {unknown_setting(name)}")
        if name in values:
            raise InputError(f"{where}: {name} is already set on line {lines[name]}; keep one of the two.")
        try:
            values[name] = ast.literal_eval(statement.value)  # type: ignore[attr-defined]
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            text = written(source, statement.value)  # type: ignore[attr-defined]
            raise InputError(
                f"{where}: the value of {name} is code, a config holds plain values and is never run; "
                f"{how_to_write(text)}."
            ) from None
        lines[name] = statement.lineno
        if twice := key_set_twice(statement.value):  # type: ignore[attr-defined]
            raise InputError(f"{origin}:{twice[1]}: {name} has the key {twice[0]} twice; keep one of the two.")
    return values, lines


def refuse_long_code(source: str, origin: str) -> None:
    """InputError for a text with code in it that is so long that Python 3.11 needs minutes to parse it."""
    for found in LITERAL.finditer(source) if len(source) > LONG_CODE else ():
        if "f" in (found["prefix"] or "").lower() and len(found[0]) > LONG_CODE:
            line = source.count("\n", 0, found.start()) + 1
            raise InputError(f"{origin}:{line}: an f-string is code, a config holds plain values and is never run.")


def written(source: str, node: ast.stmt | ast.expr) -> str:
    """The first line of a node of the tree, as it stands in the text.

    ``ast.get_source_segment`` copies the text letter by letter, half a minute for a line of a megabyte.
    """
    line = LINE_END.split(source, maxsplit=node.lineno)[node.lineno - 1].encode()  # columns are bytes
    whole = node.end_lineno == node.lineno
    return line[node.col_offset : node.end_col_offset if whole else None].decode()


def how_to_write(text: str) -> str:
    """What was probably meant by a value that is no literal: ``true``, or text without quotes."""
    if close := get_close_matches(text.capitalize(), ("True", "False", "None"), 1):
        return f"write {close[0]}"
    return f"text stands in quotes, {text!r}" if re.fullmatch(r"[\w./:-]+", text) else "write it out"


def key_set_twice(value: ast.AST) -> tuple[str, int] | None:
    """The first key that a dict in this value has twice, and its line: Python itself would take the last."""
    for node in ast.walk(value):
        if isinstance(node, ast.Dict):
            seen = set()
            for key in node.keys:
                if isinstance(key, ast.Constant) and key.value in seen:
                    return quoted(key.value), key.lineno
                seen.add(key.value if isinstance(key, ast.Constant) else key)
    return None


def render(config: Config) -> str:
    """The config as the file ``copy-cfg`` writes: standalone, commented, in five parts."""
    lines: list[str] = []
    for number, part in enumerate(PARTS, start=1):
        rule = "#" * 71
        lines += [rule, f"#{f'PART {number}  {part}':^69}#", rule]
        heading = ""
        for row in schema():
            where, _, group = row.metadata["where"].partition("/")
            if int(where) != number or not has_effect(config, row):
                continue
            if group != heading:
                lines += [""] * bool(heading) + [f"# {group}"]
                heading = group
            lines.append(f"{row.name} = {getattr(config, row.name)!r}  # {row.metadata['comment']}")
        lines.append("")
    return "\n".join(lines)


def parse_overrides(pairs: list[str], flag: str = "--cfg-options") -> dict[str, Any]:
    """``["lr=1e-4", "data_path=a.jsonl"]`` as settings: a literal where it reads as one, else the text itself.

    As in XTuner ``true`` and ``false`` may be written small. A setting that is text takes what stands there as text.
    InputError for a pair that names no setting.
    """
    rows = {row.name: row for row in schema()}
    changes: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"{flag} got {quoted(pair)}, it takes name=value pairs such as max_steps=20.")
        if name not in rows:
            raise InputError(f"{flag}: {unknown_setting(name)}")
        if name in changes:
            raise InputError(
                f"{flag} sets {name} twice, to {quoted(changes[name])} and to {quoted(text)}; keep one of the two."
            )
        changes[name] = value_of(text, str(rows[name].type))
    return changes


def value_of(text: str, kind: str) -> Any:
    """One value as it is typed behind ``name=``, for a setting of this kind (``str | None``)."""
    words = {"true": "True", "false": "False", "none": "None", "null": "None"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = ast.literal_eval(words.get(text.lower(), text))
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return text
    written = ("str" in kind and not isinstance(value, str | list)) and not (value is None and "None" in kind)
    return text if written else value  # a folder may be called 2024


def override(config: Config, pairs: list[str], flag: str = "--cfg-options", *, acting: bool = True) -> Config:
    """The config with ``name=value`` pairs put in; ``acting``: one that then does nothing is refused.

    InputError for a pair that names no setting or breaks a rule; it begins with ``flag``.
    """
    if not pairs:
        return config
    try:
        changes = parse_overrides(pairs, flag)
        if changes.get("pretrained_model_name_or_path") and config.model_config and "model_config" not in changes:
            changes["model_config"] = None  # a config has one of the two, and it was said which
            named = quoted(changes["pretrained_model_name_or_path"])
            warnings.warn(f"model_config is left out, the model is now {named}", stacklevel=2)
        changed = config.replace(**changes)
        if acting:
            refuse_idle(changed, changes)
        return changed
    except SettingError as problem:
        raise InputError(f"{flag}: {problem}") from None
