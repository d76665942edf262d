"""Fails unless every public symbol has a documentation comment.

usage: comments.py FOLDER...

Each folder holds the symbol graphs of a module.
"""

import json
import pathlib
import sys
from typing import Iterator


def main() -> int:
    failures = 0
    for folder in map(pathlib.Path, sys.argv[1:]):
        symbols = [
            symbol for path in sorted(folder.glob("*.symbols.json"))
            for symbol in json.loads(path.read_text())["symbols"]
        ]
        missing = sorted(set(undocumented(symbols)))
        failures += len(missing) + (not symbols)
        print("\n".join(missing + [f"{folder.name}: {len(symbols)} public symbols, {len(missing)} without a comment"]))
    return 1 if failures else 0


def undocumented(symbols: list[dict]) -> Iterator[str]:
    """Names of the symbols that somebody wrote and nobody explained; what the compiler makes has no place in a file."""
    for symbol in symbols:
        lines = symbol.get("docComment", {}).get("lines", [])
        if "location" in symbol and not any(line["text"].strip() for line in lines):
            file = symbol["location"]["uri"].rsplit("/", 1)[-1]
            line = symbol["location"]["position"]["line"] + 1
            yield f"{file}:{line}: {'.'.join(symbol['pathComponents'])} has no documentation comment"


if __name__ == "__main__":
    sys.exit(main())
