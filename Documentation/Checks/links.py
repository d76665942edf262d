"""Fails if a link between our own files leads nowhere, or a file that a text names is not there.

Relative links in all Markdown must lead to a file, and to a heading of it if they name one; links from one DocC catalog to
another to a page. So must the paths that stand as code in Markdown and in Swift files. Links to other hosts are not followed:
CI must not depend on them. Links within a DocC catalog are DocC's to check.
"""

import pathlib
import re
import sys
from typing import Iterator

import markdown

_PATH = re.compile(
    r"`(?:\./)?((?:Benchmarks|Documentation|Examples|Sources|Tests)/[\w./-]+\.(?:cfg|conf|html|js|md|py|sh|swift))`"
)


def main() -> int:
    problems, count, foreign = [], 0, 0
    for path in markdown.files(".md"):
        text = path.read_text()
        for line, target in markdown.links(text):
            if re.match(r"[a-z][a-z+.-]*:", target):
                foreign += not target.startswith("doc:")
                continue
            count += 1
            problem = broken(path, target)
            if problem:
                problems.append(f"{path.relative_to(markdown.ROOT)}:{line}: {problem}")
        problems += [f"{path.relative_to(markdown.ROOT)}:{problem}" for problem in unknown_paths(text)]
    for path in markdown.files(".swift"):
        problems += [f"{path.relative_to(markdown.ROOT)}:{problem}" for problem in unknown_paths(path.read_text())]
    print("\n".join(problems + [f"{count} links, {len(problems)} problems; {foreign} to other hosts, not followed"]))
    return 1 if problems or not count else 0


def broken(path: pathlib.Path, target: str) -> str | None:
    """What is wrong with a link in a file; None if nothing is."""
    name, _, fragment = target.partition("#")
    if name.startswith("/documentation/"):
        return None if name in catalog_pages() else f"no catalog has the page '{name}'"
    goal = (path.parent / name).resolve() if name else path
    if not goal.exists():
        return f"there is no file for the link to '{target}'"
    if fragment and goal.suffix == ".md":
        anchors = [markdown.anchor(heading) for heading in markdown.headings(goal.read_text())]
        if fragment not in anchors:
            return f"{goal.name} has no heading for '#{fragment}'"
    return None


def catalog_pages() -> set[str]:
    """What DocC calls the pages of the catalogs, for links from one catalog to another."""
    pages = (markdown.ROOT / "Sources").glob("*/*.docc/*.md")
    return {f"/documentation/{page.parent.stem.lower()}/{page.stem.lower()}" for page in pages}


def unknown_paths(text: str) -> Iterator[str]:
    """The paths of our own that a text names and that do not exist."""
    for number, line in enumerate(text.splitlines(), 1):
        for match in _PATH.finditer(line):
            if not (markdown.ROOT / match[1]).exists():
                yield f"{number}: there is no '{match[1]}'"


if __name__ == "__main__":
    sys.exit(main())
