"""The rules this code keeps about itself: documented, layered, formatted, typed, its SQL in one place."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PACKAGE = PROJECT / "kb_pipeline"
SQL_FILES = sorted((PACKAGE / "sql").glob("*.sql"))
CODE = sorted(
    path for name in ("kb_pipeline", "benchmarks", "scripts") for path in (PROJECT / name).rglob("*.py")
)
TESTS = sorted((PROJECT / "kb_pipeline_tests").rglob("*.py"))
MAX_FILE_LINES = 400

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _public(node: ast.Module | ast.ClassDef, name: str) -> Iterator[tuple[str, Documented]]:
    """Yield a module or class, and what stands in it under a public name."""
    yield name, node
    for child in node.body:
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from _public(child, f"{name}.{child.name}")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            yield f"{name}.{child.name}", child


def _undocumented(text: str, name: str) -> list[str]:
    return [found for found, node in _public(ast.parse(text), name) if not ast.get_docstring(node)]


def test_every_module_and_every_public_name_has_a_docstring() -> None:
    modules = sorted(PACKAGE.rglob("*.py"))
    assert len(modules) > 40
    missing = [
        name
        for path in modules
        for name in _undocumented(path.read_text(encoding="utf-8"), str(path.relative_to(PROJECT)))
    ]
    assert missing == []


def test_a_missing_docstring_is_seen() -> None:
    documented = '"""Module."""\nclass Thing:\n    """Thing."""\n'
    text = documented + "    def act(self): ...\ndef _hidden(): ...\ndef open(): ..."
    assert _undocumented(text, "m") == ["m.Thing.act", "m.open"]


# --- SQL -----------------------------------------------------------------------------------------

SQL = re.compile(
    r"(?:^|\s|\()(SELECT|INSERT INTO|UPDATE|DELETE FROM|TRUNCATE|(CREATE|ALTER|DROP) [A-Z]+|SET LOCAL"
    r"|LISTEN|NOTIFY)\s"
)


def _sql_texts(text: str) -> list[str]:
    tree = ast.parse(text)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, Documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    # A string that stands alone documents the constant above it.
    docstrings |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = (
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
    )
    return [text for text in texts if SQL.search(text)]


def test_sql_stands_only_in_sql_files() -> None:
    found = {
        str(path.relative_to(PROJECT)): texts
        for path in sorted(PACKAGE.rglob("*.py"))
        if (texts := _sql_texts(path.read_text(encoding="utf-8")))
    }
    assert found == {}


@pytest.mark.parametrize(
    "code",
    [
        'x = "SELECT 1"',
        'x = f"UPDATE {table} SET a = 1"',
        "x = '''\n  INSERT INTO runs VALUES (1)'''",
        'connection.execute("DROP TABLE runs ")',
    ],
)
def test_sql_in_python_is_seen(code: str) -> None:
    assert len(_sql_texts(f'"""SELECT is only talked of here."""\n{code}')) == 1


def _statements() -> set[str]:
    return {
        f"{path.stem}.{name}"
        for path in SQL_FILES
        for name in re.findall(r"^-- ([a-z0-9_]+) --$", path.read_text(encoding="utf-8"), re.MULTILINE)
    }


def _asked_for() -> set[str]:
    """Return the statements the package names, those of a table that code picks by its name included."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py")))
    names = set(re.findall(r'"([a-z_]+\.[a-z0-9_]+)"', text))
    for table in re.findall(r'statement\(f"([a-z_]+)\.\{', text):
        names |= {f"{table}.{name}" for name in re.findall(r'"([a-z_]+)"', text)}
    return names


def test_every_statement_is_used() -> None:
    assert sorted(_statements() - _asked_for()) == []


def test_every_statement_asked_for_is_there() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py")))
    asked = set(re.findall(r'statement\(\s*"([a-z_.0-9]+)"', text))
    assert len(asked) > 20
    assert sorted(asked - _statements()) == ["file.name"], "but for the example in the loader's docstring"


def test_every_statement_begins_with_a_sentence() -> None:
    for path in SQL_FILES:
        blocks = re.split(r"^-- [a-z0-9_]+ --$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
        assert blocks, path.name
        for block in blocks:
            sentence = re.match(r"\n((?:-- .*\n)+)", block)
            assert sentence, f"{path.name}: {block[:60]}"
            assert re.match(r"-- [A-Z]", sentence[1]), sentence[1]


# --- Size and tools ------------------------------------------------------------------------------


def test_no_file_is_longer_than_a_reader_s_patience() -> None:
    long = {
        str(path.relative_to(PROJECT)): lines
        for path in (*CODE, *TESTS, *SQL_FILES)
        if (lines := path.read_text(encoding="utf-8").count("\n")) > MAX_FILE_LINES
    }
    assert long == {}


def _tool(*arguments: str) -> None:
    done = subprocess.run(arguments, cwd=PROJECT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _script(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def test_the_layers_point_one_way() -> None:
    _tool(_script("lint-imports"))


def test_ruff_has_nothing_to_say() -> None:
    _tool(_script("ruff"), "check")


def test_everything_is_formatted() -> None:
    _tool(_script("ruff"), "format", "--check")


def test_mypy_has_nothing_to_say() -> None:
    _tool(sys.executable, "-m", "mypy")
