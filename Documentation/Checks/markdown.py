"""What the checks need to know of Markdown: files, code blocks, headings, links."""

import pathlib
import re
from typing import Iterator, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"^(\s*)(`{3,}|~{3,})\s*([^\s`]*)")
_HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*$")
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
_CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)")


class Block(NamedTuple):
    """A fenced block: the line that its text begins on, its language, its lines."""

    line: int
    language: str
    lines: list[str]


def files(suffix: str, root: pathlib.Path = ROOT) -> Iterator[pathlib.Path]:
    """The project's own files with a suffix: none of a build folder or of another hidden one."""
    for path in sorted(root.rglob(f"*{suffix}")):
        parts = path.relative_to(root).parts
        if not path.is_symlink() and not any(part.startswith(".") or part == "node_modules" for part in parts):
            yield path


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a text."""
    fence = None
    for number, line in enumerate(text.splitlines(), 1):
        mark = _FENCE.match(line)
        if fence is None:
            if mark:
                fence, block = mark[2], Block(number + 1, mark[3].lower(), [])
        elif mark and mark[2].startswith(fence) and not mark[3]:
            fence = None
            yield block
        else:
            block.lines.append(line)


def prose(text: str) -> Iterator[tuple[int, str]]:
    """The numbered lines that are in no fenced block."""
    inside = {
        number for block in blocks(text)
        for number in range(block.line - 1, block.line + len(block.lines) + 1)
    }
    for number, line in enumerate(text.splitlines(), 1):
        if number not in inside:
            yield number, line


def headings(text: str) -> list[str]:
    """The headings of a text, without their marks and without those of code, emphasis and links."""
    found = (_HEADING.match(line) for _, line in prose(text))
    return [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", match[1]).replace("`", "").replace("*", "") for match in found if match]


def anchor(heading: str) -> str:
    """What GitHub calls a heading in a URL."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def links(text: str) -> Iterator[tuple[int, str]]:
    """The targets of the links in a text's prose, with their lines."""
    for number, line in prose(text):
        for match in _LINK.finditer(_CODE.sub(lambda code: "`" * len(code[0]), line)):
            yield number, match[1]


def replace_links(text: str, replace) -> str:
    """The text with `replace(label, target)` in the place of each link in its prose."""
    lines = text.splitlines()
    for number, line in prose(text):
        code = [span.span() for span in _CODE.finditer(line)]

        def replaced(link: re.Match) -> str:
            is_code = any(start < link.start() < end for start, end in code)
            return link[0] if is_code else replace(link[1], link[2])

        lines[number - 1] = re.sub(r"(?<!!)\[([^\[\]]*)\]\(([^)\s]+)\)", replaced, line)
    return "\n".join(lines) + "\n"
