"""Fails unless every Swift block of the documentation stands, line by line, in a Swift file that is compiled.

usage: snippets.py PACKAGE_DESCRIPTION

The description is what `swift package describe --type json` prints. A block may be indented less than in its file; all else
is the same, so that neither can change without the other. What has no better place is in `Documentation/Snippets`.
"""

import json
import pathlib
import re
import sys
from typing import Iterator

import markdown

_COMMENT = re.compile(r"^\s*///( ?)(.*)$")


def main() -> int:
    sources = [Source(path) for path in compiled_files(json.loads(pathlib.Path(sys.argv[1]).read_text()))]
    texts = [(path, path.read_text()) for path in markdown.files(".md")]
    texts += [(path, comments(path.read_text())) for path in markdown.files(".swift", markdown.ROOT / "Sources")]
    count, failures = 0, 0
    for path, text in texts:
        for block in swift_blocks(text):
            count += 1
            missing = first_difference(block.lines, sources)
            if missing is not None:
                failures += 1
                place = f"{path.relative_to(markdown.ROOT)}:{block.line + missing[0]}"
                print(f"{place}: this Swift block is in no compiled file; the best match ends before: {missing[1]}")
    print(f"{count} Swift blocks, {failures} of them not compiled")
    return 1 if failures or not count else 0


def compiled_files(description: dict) -> Iterator[pathlib.Path]:
    """The Swift files of all targets, and those of the packages in `Examples`, which are built by themselves."""
    for target in description["targets"]:
        folder = markdown.ROOT / target["path"]
        yield from (folder / name for name in target["sources"] if name.endswith(".swift"))
    for manifest in markdown.files("Package.swift", markdown.ROOT / "Examples"):
        yield from markdown.files(".swift", manifest.parent)


def comments(text: str) -> str:
    """The documentation comments of a Swift file, each on its line."""
    matches = (_COMMENT.match(line) for line in text.splitlines())
    return "\n".join(match[2] if match else "" for match in matches)


def swift_blocks(text: str) -> Iterator[markdown.Block]:
    """The blocks of Swift in a text."""
    return (block for block in markdown.blocks(text) if block.language == "swift")


class Source:
    """A Swift file's lines, and where each of them stands."""

    def __init__(self, path: pathlib.Path | None, text: str | None = None) -> None:
        self.lines = (path.read_text() if text is None else text).splitlines()
        self.places: dict[str, list[int]] = {}
        for index, line in enumerate(self.lines):
            self.places.setdefault(line.strip(), []).append(index)


def first_difference(block: list[str], sources: list[Source]) -> tuple[int, str] | None:
    """None if a source has the block; otherwise the first line that the best match does not have."""
    block = [line.rstrip() for line in block]
    while block and not block[-1]:
        block.pop()
    if not block:
        return 0, "an empty block"
    best = 0
    for source in sources:
        for start in source.places.get(block[0].strip(), []):
            indent = source.lines[start][: len(source.lines[start]) - len(source.lines[start].lstrip())]
            # The first line may itself be indented within the block.
            own = len(block[0]) - len(block[0].lstrip())
            indent = indent[: len(indent) - own] if own else indent
            count = 0
            for line, other in zip(block, source.lines[start:]):
                if other.rstrip() != (indent + line if line else ""):
                    break
                count += 1
            if count == len(block):
                return None
            best = max(best, count)
    return best, block[best].strip()


if __name__ == "__main__":
    sys.exit(main())
