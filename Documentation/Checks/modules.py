"""Prints the modules of the library products, each with those that it depends on before it.

usage: modules.py PACKAGE_DESCRIPTION

The description is what `swift package describe --type json` prints. Fails if a module has no DocC catalog.
"""

import json
import pathlib
import sys

import markdown


def main() -> int:
    description = json.loads(pathlib.Path(sys.argv[1]).read_text())
    targets = {target["name"]: target for target in description["targets"]}
    order: list[str] = []

    def visit(name: str) -> None:
        if name in order:
            return
        for dependency in targets[name].get("target_dependencies", []):
            visit(dependency)
        if targets[name].get("product_memberships") and targets[name]["module_type"] == "SwiftTarget":
            order.append(name)

    for product in description["products"]:
        if "library" in product["type"]:
            for name in product["targets"]:
                visit(name)
    missing = [name for name in order if not (markdown.ROOT / f"Sources/{name}/{name}.docc/{name}.md").exists()]
    for name in missing:
        print(f"Sources/{name}/{name}.docc/{name}.md is missing: every module has a landing page", file=sys.stderr)
    print("\n".join(order))
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
