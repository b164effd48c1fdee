import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest

import minivit as mv
from minivit.viz import Figure, Table, Text

EVIL = "<script>alert('1')</script> & \"quotes\""
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Collects tags and text, and checks that every tag is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture
def sections():
    fig = mv.viz.positions(mv.models.sinusoidal(4, 6))
    return [
        Text(f"What {EVIL}", f"First {EVIL}.\n\nSecond."),
        Table(f"Accuracy {EVIL}", ["model", f"clean {EVIL}", "n"],
              [["natural", "98.1 %", 360], [f"{EVIL}", "0.6 %", np.float64(1 / 3)]], note=EVIL),
        Figure(f"Curves {EVIL}", fig, alt=f"alt {EVIL}", caption=EVIL),
    ]  # fmt: skip


def test_the_page_is_sound_whole_and_escaped(tmp_path, sections):
    path = tmp_path / "report.html"
    mv.viz.report(path, f"Title {EVIL}", sections, config={"seed": 0, "name": EVIL, "eps": np.float32(0.5)})
    source = path.read_text(encoding="utf-8")
    page = Page(source)
    assert not page.all("script")
    assert [img["alt"] for img in page.all("img")] == [f"alt {EVIL}"]
    text = "".join(page.text)
    assert text.count("<script>alert('1')</script>") == 10 + 1  # title twice; headings, texts, cells, caption, note, config
    assert "&lt;script&gt;" in source
    assert len(page.all("details")) == 1
    assert '"seed": 0' in text
    assert len(page.all("p")) == 2 + 1
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    assert "prefers-color-scheme: dark" in source
    assert "@media print" in source


def test_nothing_outside_is_referred_to(tmp_path, sections):
    mv.viz.report(tmp_path / "r.html", "t", sections)
    source = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r'base64,[^"]+', "", source))
    page = Page(source)
    for _, attrs in page.tags:
        assert not attrs.keys() & {"href", "onclick", "onload", "srcset"}
    (img,) = page.all("img")
    kind, data = img["src"].split(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data, validate=True).startswith(b"\x89PNG\r\n")


def test_numbers_stand_to_the_right_and_are_rounded(tmp_path, sections):
    mv.viz.report(tmp_path / "r.html", "t", sections[1:2])
    page = Page((tmp_path / "r.html").read_text())
    assert [("class", "number") in attrs.items() for attrs in page.all("th")] == [False, True, True]
    assert "0.3333" in page.text
    table = mv.viz.Table("T", ["a", "b"], [[np.float32(1 / 3), "98.1 %"], [np.float32(2), "-"]])
    mv.viz.report(tmp_path / "r.html", "t", [table], config={"lr": np.float32(0.5)})
    page = Page((tmp_path / "r.html").read_text())
    assert [("class", "number") in attrs.items() for attrs in page.all("th")] == [True, True]
    assert "0.3333" in page.text
    assert any('"lr": 0.5' in text for text in page.text)


def test_an_older_report_survives_a_failure(tmp_path, sections):
    path = tmp_path / "r.html"
    path.write_text("old")
    with pytest.raises(TypeError, match=r"sections\[3\]: expected a Text, Table or Figure"):
        mv.viz.report(path, "t", [*sections, "text"])
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]
    with pytest.raises(OSError, match="no such folder"):
        mv.viz.report(tmp_path / "none" / "r.html", "t", sections)


def test_characters_that_html_cannot_hold_are_replaced(tmp_path):
    mv.viz.report(tmp_path / "r.html", "a\x00b\ud800c", [])
    assert "a\ufffdb\ufffdc" in (tmp_path / "r.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (Table("T", ["a", "b"], [[1]]), "row 0 of 'T'"),
        (Table("T", ["a", "b"], ["xy"]), "row 0 of 'T'"),
        (Figure("F", "not a figure", alt="x"), "expected a matplotlib figure, got str"),
    ],
)
def test_bad_sections(tmp_path, section, message):
    with pytest.raises((TypeError, ValueError), match=message):
        mv.viz.report(tmp_path / "r.html", "t", [section])


def test_a_figure_without_alt_is_refused(tmp_path, sections):
    with pytest.raises(ValueError, match="lacks alt"):
        mv.viz.report(tmp_path / "r.html", "t", [Figure("F", sections[2].figure, alt=" ")])
