"""From a file's bytes to a title and plain text."""

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from bs4 import BeautifulSoup, CData, Tag
from bs4.element import PageElement, PreformattedString

MAX_TITLE = 200
_INVISIBLE = frozenset(
    {"title", "script", "style", "noscript", "template", "nav", "header", "footer", "aside", "form", "svg", "iframe"}
)
_HEADINGS = ["h1", "h2", "h3", "h4", "h5", "h6"]
_BLOCKS = frozenset(
    {"p", "div", "section", "article", "main", "li", "tr", "table", "ul", "ol", "dl", "dt", "dd", "pre", "blockquote"}
).union(_HEADINGS)
_UNDERLINE = re.compile(r"^([=\-~^\"'#*+`:.])\1{2,}\s*$")
_ATX_HEADING = re.compile(r"^ {0,3}#{1,6}\s+(.+?)\s*#*\s*$")
_FENCE = re.compile(r"^ {0,3}(```|~~~)")
_BYTE_ORDER_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


@dataclass(frozen=True, slots=True)
class Extracted:
    """What a file says. An empty title means that it names itself nowhere."""

    title: str
    text: str


class UnreadableText(Exception):
    """The bytes are not what the file's name promises; the message says why."""


def decode(data: bytes, charset: str | None = None) -> str:
    """Text of any encoding; what cannot be decoded becomes U+FFFD."""
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    try:
        return data.decode(charset or "utf-8", "replace")
    except LookupError:
        return data.decode("utf-8", "replace")


def plain(data: bytes) -> Extracted:
    """Text as it is; its title is a first line that is underlined."""
    text = _tidy(decode(data))
    return Extracted(_underlined(text.split("\n", 40)[:3]), text)


def markdown(data: bytes) -> Extracted:
    """Markdown as it is: agents read it well."""
    text = _tidy(decode(data))
    lines = _outside_fences(text)
    for number, line in enumerate(lines):
        if match := _ATX_HEADING.match(line):
            return Extracted(_one_line(match[1]), text)
        if title := _underlined(lines[number : number + 2]):
            return Extracted(title, text)
    return Extracted("", text)


def restructured(data: bytes) -> Extracted:
    """reStructuredText as it is; the title is the first underlined line."""
    text = _tidy(decode(data))
    return Extracted(_underlined(text.split("\n")), text)


def html(data: bytes | str, charset: str | None = None) -> Extracted:
    """The words of a page, block by block, without scripts, navigation and forms."""
    markup = _declared(data, charset) if isinstance(data, bytes) else data
    # The <html> around it tells BeautifulSoup that this is meant to be HTML, whatever an XML declaration says.
    soup = BeautifulSoup("<html>" + re.sub(r"^\s*<\?xml[^>]*\?>", "", markup), "html.parser")
    title = _one_line(soup.title.get_text(" ")) if soup.title else ""
    if not title and (heading := soup.find(_HEADINGS)):
        title = _one_line(heading.get_text(" "))
    return Extracted(title, _tidy("".join(_visible(soup))))


def pdf(data: bytes) -> Extracted:
    """The text layer of a PDF, page after page.

    Raises:
        UnreadableText: it is broken, encrypted, or has no text layer (a scan).
    """
    from pypdf import PdfReader  # slow to import, rarely needed

    try:
        reader = PdfReader(io.BytesIO(data))
        text = _tidy("\n\n".join(page.extract_text() for page in reader.pages))
        title = str(reader.metadata.title or "") if reader.metadata else ""
    except Exception as error:  # pypdf meets damage with whatever error the damage leads to
        raise UnreadableText(f"broken PDF: {_one_line(str(error)) or type(error).__name__}") from error
    if not text:
        raise UnreadableText("the PDF has no text layer")
    return Extracted(_one_line(title), text)


FORMATS: dict[str, Callable[[bytes], Extracted]] = {
    ".txt": plain,
    ".md": markdown,
    ".rst": restructured,
    ".html": html,
    ".htm": html,
    ".pdf": pdf,
}
"""What can be read, by the file name's ending in lower case."""


def _visible(soup: BeautifulSoup) -> Iterator[str]:
    """The page's strings, with line breaks around blocks. A loop: recursion would not survive deep nesting."""
    waiting: list[PageElement | str] = [soup]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, Tag):
            if not isinstance(node, PreformattedString) or isinstance(node, CData):  # no comments
                yield str(node)
        elif node.name == "br":
            yield "\n"
        elif node.name in _BLOCKS:
            waiting.extend(["\n", *reversed(node.contents), "\n"])
        elif node.name not in _INVISIBLE:
            waiting.extend(reversed(node.contents))


def _declared(data: bytes, charset: str | None) -> str:
    """HTML may name its own encoding in a meta tag."""
    if charset is None and (match := re.search(rb"<meta[^>]+charset=[\"']?([\w-]+)", data[:2048], re.IGNORECASE)):
        charset = match[1].decode("ascii", "replace")
    return decode(data, charset)


def _outside_fences(text: str) -> list[str]:
    """The lines with those of code blocks emptied: a comment in a shell script is no heading."""
    lines, inside = [], False
    for line in text.split("\n"):
        fence = bool(_FENCE.match(line))
        lines.append("" if inside or fence else line)
        inside ^= fence
    return lines


def _underlined(lines: list[str]) -> str:
    for title, underline in pairwise(lines):
        if title.strip() and not _UNDERLINE.match(title) and _UNDERLINE.match(underline):
            return _one_line(title)
    return ""


def _one_line(text: str) -> str:
    return " ".join(text.split())[:MAX_TITLE]


def _tidy(text: str) -> str:
    """Unix line ends, no trailing blanks, at most one empty line in a row."""
    lines = "\n".join(line.rstrip() for line in text.replace("\0", " ").splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines).strip("\n")
