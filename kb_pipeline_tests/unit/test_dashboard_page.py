"""The page as text: complete in itself, bounded, and a safe home for text of others."""

import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import pytest

from kb_pipeline.dashboard.frame import Frame
from kb_pipeline.dashboard.page import dashboard_page, write_page
from kb_pipeline.errors import BadArgumentError
from kb_pipeline.rules import MAX_DASHBOARD_BYTES
from kb_pipeline.storage.dashboard import WorkspaceState
from kb_pipeline_tests.dashboards import NOON, cell, empty_frame, full_frame, group, report

HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    "\"><svg/onload=alert(1)>'",
    "</title></style><iframe src='//a.invalid'>",
    "{{ 7 * 7 }}{% raw %}&amp;",
    "\x1b[31m\u202ered\x00\x85",
)


class Read(HTMLParser):
    """What is in a page: its elements, and the text of those whose text matters."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.raw: dict[str, str] = {}
        self.text: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        last = self.elements[-1][0] if self.elements else ""
        if last in ("script", "style") and last not in self.raw:
            self.raw[last] = data
        else:
            self.text.append(data)

    def values(self, attribute: str) -> list[str]:
        return [attrs[attribute] or "" for _, attrs in self.elements if attribute in attrs]

    @property
    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def _policy(read: Read) -> str:
    return next(
        attrs["content"] or ""
        for _, attrs in read.elements
        if attrs.get("http-equiv") == "Content-Security-Policy"
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_text_wherever_it_stands(name: str) -> None:
    harmless, read = Read(dashboard_page(full_frame(3))), Read(dashboard_page(full_frame(3, name)))
    assert read.tags == harmless.tags
    assert {key for _, attrs in read.elements for key in attrs} == {
        key for _, attrs in harmless.elements for key in attrs
    }
    assert read.raw == harmless.raw, "script and style are the same"
    assert len(read.elements) == len(harmless.elements)
    assert name.isprintable() == (name in read.words)
    assert re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", read.words) is None


def test_nothing_is_loaded_from_anywhere_and_no_handler_or_style_stands_in_an_attribute() -> None:
    page = dashboard_page(full_frame(3))
    read = Read(page)
    attributes = {key for _, attrs in read.elements for key in attrs}
    assert not attributes & {"src", "srcset", "action", "style", "data", "background", "poster"}
    assert not [key for key in attributes if key.startswith("on")]
    assert not read.tags & {"link", "img", "iframe", "object", "embed", "form", "base"}
    assert all(href.startswith("#") for href in read.values("href"))
    assert re.findall(r"https?:|//\w|url\(|@import|\.cookie|fetch|XMLHttp|innerHTML", page) == []


def test_the_policy_allows_this_script_and_this_style_alone() -> None:
    read = Read(dashboard_page(full_frame(3)))

    def digest(text: str) -> str:
        return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"

    assert _policy(read) == (
        f"default-src 'none'; script-src {digest(read.raw['script'])}; "
        f"style-src {digest(read.raw['style'])}; base-uri 'none'; form-action 'none'"
    )


def test_five_hundred_regimes_with_long_names_fit_and_say_what_is_left_out() -> None:
    page = dashboard_page(full_frame(500, "&" * 300))
    assert len(page.encode()) < MAX_DASHBOARD_BYTES
    words = Read(page).words
    left_out = [int(it) for it in re.findall(r"(\d+) more rows: kb-pipeline (?:uplift|regimes|drift)", words)]
    assert len(left_out) == 4
    assert all(400 < it < 500 for it in left_out)


def test_a_page_with_room_leaves_nothing_out() -> None:
    assert "more rows" not in Read(dashboard_page(full_frame(20))).words


def test_every_place_that_is_linked_to_is_there_once() -> None:
    read = Read(dashboard_page(full_frame(80)))
    places = read.values("id")
    assert len(places) == len(set(places))
    assert {href.removeprefix("#") for href in read.values("href")} <= set(places)
    assert any(href.startswith("#regime-") for href in read.values("href"))
    assert any(href.startswith("#tune-") for href in read.values("href"))


def test_every_table_has_a_caption_and_headings_with_a_scope() -> None:
    read = Read(dashboard_page(full_frame(3)))
    count = [tag for tag, _ in read.elements].count
    assert count("table") == count("caption") == 10
    assert all(attrs.get("scope") in ("row", "col") for tag, attrs in read.elements if tag == "th")
    scrolled = [attrs for _, attrs in read.elements if attrs.get("class") == "scroll"]
    assert [(it["tabindex"], bool(it["aria-label"])) for it in scrolled] == [("0", True)] * 9, (
        "by keyboard too"
    )
    assert count("h1") == 1
    assert {"header", "nav", "main", "section"} <= read.tags
    assert read.values("href")[0] == "#main", "the first link skips to the figures"


def test_an_empty_workspace_is_told_what_to_do_first() -> None:
    words = Read(dashboard_page(empty_frame())).words
    assert words.count("This workspace has no completed tune.") == 1
    assert "kb-pipeline demo" in words
    assert "Not known yet" in words


@pytest.mark.parametrize(
    ("frame", "command"),
    [
        (empty_frame(state=WorkspaceState("Q", "q", NOON, 3, 0, has_trials=False)), "backfill-attribution"),
        (empty_frame(groups=(group(),)), "uplift"),
        (empty_frame(groups=(group(),)), "ingest-trials"),
        (empty_frame(groups=(group(),)), "recommend"),
        (empty_frame(groups=(group(),)), "drift"),
    ],
)
def test_what_is_missing_names_the_command_that_makes_it(frame: Frame, command: str) -> None:
    words = Read(dashboard_page(frame)).words
    assert f"kb-pipeline {command} --workspace-id 00000000-0000-0000-0000-000000000007" in words


def test_the_first_sentence_counts_the_intervals_and_what_chance_would_give() -> None:
    cells = [
        cell(0.5, 0.1, 0.9),
        cell(0.4, 0.1, 0.9),
        cell(-0.5, -0.9, -0.1),
        cell(0.1, -0.1, 0.3),
        cell(0.7),
    ]
    words = Read(dashboard_page(empty_frame(uplift=report(*cells)))).words
    # 4 intervals, 2.5 % on either side
    assert (
        "Of 4 regimes with an interval, 2 lie above zero and 1 below; if no regime mattered, about 0.1 would"
        in words
    )


def test_unknown_is_said_and_never_zero() -> None:
    words = Read(dashboard_page(empty_frame(uplift=report(cell(None))))).words
    assert "unknown unknown none 0 of 8 unknown unknown unknown" in words


def test_numbers_have_a_sign_and_their_n() -> None:
    words = Read(dashboard_page(empty_frame(uplift=report(cell(-0.5, -0.91, -0.1))))).words
    assert "−0.50 −0.91 to −0.10 7 of 8 50% −0.50" in words


def test_the_page_replaces_a_file_whole(tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    target.write_text("before")
    assert write_page("after", target) == target
    assert target.read_text() == "after"
    assert list(tmp_path.iterdir()) == [target]


def test_a_page_that_cannot_be_put_in_place_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(BadArgumentError, match="is a directory"):
        write_page("page", tmp_path)
    with pytest.raises(BadArgumentError, match="could not be written: No such file or directory"):
        write_page("page", tmp_path / "nowhere" / "page.html")
    assert list(tmp_path.iterdir()) == []
