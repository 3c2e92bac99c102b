import os

import pytest

from workers.corpus import extract
from workers.corpus.documents import UnreadableFolder
from workers.corpus.index import Corpus
from workers.corpus.ingest import MAX_BYTES, add_folder, read_folder


def minimal_pdf(text, title=None):
    """A PDF of one page with one line of text, written by hand."""
    stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode("latin-1")
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources 7 0 R >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        f"<< /Title ({title or ''}) >>".encode("latin-1"),
        b"<< /Font << /F1 5 0 R >> >>",
    ]
    data, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    trailer = b"trailer << /Size 8 /Root 1 0 R /Info 6 0 R >>\nstartxref\n%d\n%%%%EOF" % len(data)
    return data + b"xref\n0 8\n0000000000 65535 f \n" + table + trailer


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "handbook"
    (root / "deep" / "er").mkdir(parents=True)
    (root / "notes.txt").write_text("Just words.\nNo heading.")
    (root / "leave.md").write_text("Intro.\n\n```sh\n# not a heading\n```\n\n# Paid leave\n\nThirty days.")
    (root / "deep" / "guide.rst").write_text("The guide\n=========\n\nRead it.")
    (root / "deep" / "er" / "page.HTML").write_text(
        "<html><head><title>A &amp; B</title><style>x</style></head><body><nav>menu</nav><h1>Head</h1>"
        "<p>First<b>bold</b></p><script>evil()</script><p>Second<br>line</p></body></html>"
    )
    (root / "paper.pdf").write_bytes(minimal_pdf("Otters hold hands", "On otters"))
    return root


def test_every_format_is_read_with_its_own_title(folder):
    documents = {document.id: document for document in read_folder(folder)}
    assert {key: document.title for key, document in documents.items()} == {
        "handbook/notes.txt": "notes",
        "handbook/leave.md": "Paid leave",
        "handbook/deep/guide.rst": "The guide",
        "handbook/deep/er/page.HTML": "A & B",
        "handbook/paper.pdf": "On otters",
    }
    assert documents["handbook/paper.pdf"].text == "Otters hold hands"
    assert documents["handbook/deep/er/page.HTML"].text == "Head\n\nFirstbold\n\nSecond\nline"


def test_the_order_is_the_same_every_time(folder):
    assert [document.id for document in read_folder(folder)] == [document.id for document in read_folder(folder)]


def test_ids_do_not_depend_on_how_the_folder_is_named(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert {document.id for document in read_folder(folder.__class__())} == {d.id for d in read_folder(folder)}


def test_hidden_files_and_folders_are_passed_over(folder):
    (folder / ".secret.txt").write_text("secret")
    (folder / ".git").mkdir()
    (folder / ".git" / "notes.txt").write_text("secret")
    reading = read_folder(folder)
    assert "secret" not in "".join(document.text for document in reading)
    assert (reading.summary.read, reading.summary.skipped) == (5, ())


def test_files_that_cannot_be_read_are_reported_with_a_reason(folder, tmp_path):
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4\nthis is the end")
    (folder / "cut.pdf").write_bytes(minimal_pdf("x")[:250])
    (folder / "scan.pdf").write_bytes(minimal_pdf(""))
    (folder / "empty.md").write_text(" \n")
    (folder / "sheet.xlsx").write_bytes(b"PK")
    (folder / "huge.txt").write_bytes(b"x" * (MAX_BYTES + 1))
    (folder / "gone.txt").symlink_to(tmp_path / "nowhere")
    os.mkfifo(folder / "pipe.txt")
    with Corpus(tmp_path / "corpus.db") as corpus:
        done = add_folder(corpus, folder)
    reasons = dict(done.skipped)
    assert done.added == 5
    assert reasons.keys() == {
        "broken.pdf", "cut.pdf", "scan.pdf", "empty.md", "sheet.xlsx", "huge.txt", "gone.txt", "pipe.txt"
    }  # fmt: skip
    assert reasons["broken.pdf"].startswith("broken PDF: ")
    assert reasons["scan.pdf"] == "the PDF has no text layer"
    assert reasons["empty.md"] == "no text"
    assert reasons["huge.txt"] == "5.0 MB, more than 5 MB"
    assert reasons["sheet.xlsx"].startswith("not one of .txt, .md")


def test_bytes_that_are_no_text_are_replaced(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 au lait")
    (tmp_path / "wide.txt").write_bytes("größer".encode("utf-16"))
    (tmp_path / "mark.txt").write_bytes(b"\xef\xbb\xbfmarked")
    assert [d.text for d in read_folder(tmp_path)] == ["caf\N{REPLACEMENT CHARACTER} au lait", "marked", "größer"]


def test_adding_a_folder_again_changes_only_what_changed(folder, tmp_path):
    with Corpus(tmp_path / "corpus.db") as corpus:
        assert add_folder(corpus, folder).added == 5
        (folder / "notes.txt").write_text("Other words.")
        again = add_folder(corpus, folder)
        assert (again.added, again.replaced, again.unchanged) == (0, 1, 4)
        assert corpus.search("otters")[0].id == "handbook/paper.pdf"


def test_a_prefix_keeps_folders_of_the_same_name_apart(folder):
    assert next(iter(read_folder(folder, prefix="hr"))).id.startswith("hr/")
    assert next(iter(read_folder(folder, prefix=""))).id == "leave.md"


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UnreadableFolder, match=r"there is no folder .*nowhere"):
        read_folder(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("markup", "title", "text"),
    [
        (b'<?xml version="1.0"?><rss><item><p>News</p></item></rss>', "", "News"),
        (b"plain/words.txt", "", "plain/words.txt"),
        (b"https://example.org/", "", "https://example.org/"),
        (b"<h2>Only a heading</h2>rest", "Only a heading", "Only a heading\nrest"),
        (b'<meta charset="iso-8859-1"><title>caf\xe9</title>x', "café", "x"),
        (b"<p>unclosed <b>tags<p>everywhere", "", "unclosed tags\neverywhere"),
        (b"<p>seen<!-- not seen --></p>", "", "seen"),
        (b"", "", ""),
    ],
)
def test_whatever_calls_itself_html_is_read_without_a_warning(markup, title, text):
    assert extract.html(markup) == extract.Extracted(title, text)


def test_deeply_nested_html_is_survived():
    assert extract.html(b"<div>" * 20_000 + b"gold").text == "gold"
