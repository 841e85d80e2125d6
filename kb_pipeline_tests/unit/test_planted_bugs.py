"""The bugs that `make plant` plants still fit the code; planting them takes minutes and is not done here."""

from itertools import chain

from scripts.plant_bugs import BUGS, PROJECT


def test_every_text_to_replace_stands_once_in_its_file() -> None:
    patches = chain.from_iterable(bug.patches for bug in BUGS)
    times = {it: (PROJECT / it.file).read_text(encoding="utf-8").count(it.old) for it in patches}
    assert {it: number for it, number in times.items() if number != 1} == {}


def test_the_page_names_every_bug() -> None:
    page = (PROJECT / "docs" / "faults.md").read_text(encoding="utf-8")
    assert [bug.name for bug in BUGS if f"| {bug.name} |" not in page] == []
