"""Puts the DocC catalogs together.

usage: catalogs.py FOLDER

The pages of `Documentation/` are made to be read where they lie, with relative links between them. A catalog takes one in by a
symbolic link; its links then become DocC's, which checks them. Where a link leaves the catalogs its text alone remains.
"""

import pathlib
import re
import shutil
import sys
from typing import NamedTuple

import markdown


class Page(NamedTuple):
    """A page of `Documentation/` within a catalog."""

    module: str
    name: str


def main() -> int:
    folder = pathlib.Path(sys.argv[1])
    shutil.rmtree(folder, ignore_errors=True)
    catalogs = sorted((markdown.ROOT / "Sources").glob("*/*.docc"))
    pages = {
        path.resolve(): Page(catalog.stem, path.stem)
        for catalog in catalogs for path in catalog.rglob("*.md") if path.is_symlink()
    }
    for catalog in catalogs:
        shutil.copytree(catalog, folder / catalog.name)
    for path, page in pages.items():
        copy = folder / f"{page.module}.docc" / f"{page.name}.md"
        copy.write_text(translated(path, page, pages))
    print(f"{len(catalogs)} catalogs with {len(pages)} pages of Documentation/")
    return 0


def translated(path: pathlib.Path, page: Page, pages: dict[pathlib.Path, Page]) -> str:
    """A page with DocC's links."""

    def replace(label: str, target: str) -> str:
        if re.match(r"[a-z][a-z+.-]*:", target):
            return f"[{label}]({target})"
        name, _, fragment = target.partition("#")
        goal = (path.parent / name).resolve() if name else path
        other = pages.get(goal)
        if other is None:
            return label
        suffix = f"#{heading(goal, fragment)}" if fragment else ""
        if other.module == page.module:
            return f"[{label}](doc:{other.name}{suffix})"
        return f"[{label}](/documentation/{other.module.lower()}/{other.name.lower()}{suffix})"

    return markdown.replace_links(path.read_text(), replace)


def heading(path: pathlib.Path, anchor: str) -> str:
    """What DocC calls the heading that GitHub calls `anchor`."""
    for text in markdown.headings(path.read_text()):
        if markdown.anchor(text) == anchor:
            return text.replace(" ", "-").replace("'", "")
    raise SystemExit(f"{path.name} has no heading for '#{anchor}'")


if __name__ == "__main__":
    sys.exit(main())
