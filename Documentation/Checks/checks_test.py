"""The checks find what they are for: each is shown something that is right, and the same with one thing wrong."""

import pathlib
import tempfile
import unittest

import catalogs
import comments
import links
import markdown
import snippets

SWIFT = "struct Echo {\n    func run() {\n        if ready {\n            send(\"hi\")\n        }\n    }\n}\n"


class SnippetTests(unittest.TestCase):
    def difference(self, text: str) -> tuple[int, str] | None:
        (block,) = snippets.swift_blocks(text)
        return snippets.first_difference(block.lines, [snippets.Source(None, SWIFT)])

    def test_a_block_of_a_file_is_found_with_less_indentation(self) -> None:
        self.assertIsNone(self.difference('```swift\nif ready {\n    send("hi")\n}\n```\n'))

    def test_a_block_that_begins_within_an_indented_one_is_found(self) -> None:
        self.assertIsNone(self.difference('```swift\n    if ready {\n        send("hi")\n    }\n}\n```\n'))

    def test_a_block_with_another_line_is_not(self) -> None:
        self.assertEqual(self.difference('```swift\nif ready {\n    send("ho")\n}\n```\n'), (1, 'send("ho")'))

    def test_a_block_with_another_indentation_is_not(self) -> None:
        self.assertEqual(self.difference('```swift\nif ready {\nsend("hi")\n}\n```\n'), (1, 'send("hi")'))

    def test_an_empty_block_is_not(self) -> None:
        self.assertIsNotNone(self.difference("```swift\n```\n"))

    def test_a_block_in_a_comment_is_looked_at(self) -> None:
        text = snippets.comments("/// Text.\n///\n/// ```swift\n/// if not_ready {\n/// ```\nfunc x() {}\n")
        self.assertEqual(self.difference(text), (0, "if not_ready {"))

    def test_other_languages_are_left_alone(self) -> None:
        self.assertEqual(list(snippets.swift_blocks("```sh\nls\n```\n\n```\nx\n```\n")), [])


class LinkTests(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.page = pathlib.Path(folder.name).resolve() / "Page.md"
        self.page.write_text("# The `page`\n\n```md\n[code](Nowhere.md)\n# Not a heading\n```\n\n## Why, and *how*\n\n`[code](no.md)`\n")
        (self.page.parent / "Other.md").write_text("# Other\n\n## Figures\n")

    def test_links_that_lead_somewhere(self) -> None:
        for target in ["/documentation/starling/limits", "Other.md", "Other.md#figures", "#why-and-how", "#the-page", "../" + self.page.parent.name]:
            self.assertIsNone(links.broken(self.page, target), target)

    def test_links_that_lead_nowhere(self) -> None:
        for target in ["Nowhere.md", "Other.md#numbers", "#not-a-heading", "other.md", "/documentation/starling/nowhere"]:
            self.assertIsNotNone(links.broken(self.page, target), target)

    def test_links_are_found_in_prose_alone(self) -> None:
        text = self.page.read_text() + "\n[a](Other.md) and [the `b`](<#c> \"title\")\n"
        self.assertEqual([target for _, target in markdown.links(text)], ["Other.md", "#c"])

    def test_a_path_that_is_not_there(self) -> None:
        self.assertEqual(list(links.unknown_paths("see `./Documentation/build.sh`")), [])
        self.assertEqual(list(links.unknown_paths("see `Documentation/Nothing.md`")), ["1: there is no 'Documentation/Nothing.md'"])

    def test_links_become_those_of_the_catalogs(self) -> None:
        self.page.write_text("[a](Other.md#figures) [b](Other.md) [c](https://example.com) [d](#e) [f](build.sh) `[g](h.md)`\n# E\n")
        other = self.page.parent / "Other.md"
        here, there = catalogs.Page("Starling", "Page"), catalogs.Page("Starling", "Other")
        self.assertEqual(
            catalogs.translated(self.page, here, {self.page: here, other: there}),
            "[a](doc:Other#Figures) [b](doc:Other) [c](https://example.com) [d](doc:Page#E) f `[g](h.md)`\n# E\n",
        )
        there = catalogs.Page("StarlingRedis", "Other")
        self.assertIn(
            "[a](/documentation/starlingredis/other#Figures)",
            catalogs.translated(self.page, here, {self.page: here, other: there}),
        )


class CommentTests(unittest.TestCase):
    def test_a_symbol_without_a_comment_is_named(self) -> None:
        location = {"uri": "file:///x/Echo.swift", "position": {"line": 4, "character": 0}}
        symbol = {"pathComponents": ["Echo", "run()"], "location": location}
        self.assertEqual(list(comments.undocumented([symbol])), ["Echo.swift:5: Echo.run() has no documentation comment"])
        self.assertEqual(len(list(comments.undocumented([symbol | {"docComment": {"lines": [{"text": " "}]}}]))), 1)
        self.assertEqual(list(comments.undocumented([symbol | {"docComment": {"lines": [{"text": "Runs."}]}}])), [])
        self.assertEqual(list(comments.undocumented([{"pathComponents": ["Echo", "==(_:_:)"]}])), [])


if __name__ == "__main__":
    unittest.main()
