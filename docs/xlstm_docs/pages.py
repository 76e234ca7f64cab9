"""The pages that tell a user to type something, and what they tell him to type.

A block of ```` ```bash ```` is run by the tests, line by line. One that cannot run on the machine of the tests is
preceded by a comment that says why:

    <!-- not run: needs a Jetson -->

Its commands are then held against the command line's options, and nothing more.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ORDER = ("README.md", "docs/install.md", "docs/tutorial.md", "docs/how-to/")
"""What is read first: pages, and folders of pages; the others follow by name."""

_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+?) -->\n+)?^(?P<indent> *)```(?P<language>\w+)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A block of code on a page.

    Attributes:
        page: relative to the repository.
        line: where it begins, from 1.
        language: `bash`, `python`, `cpp`, `js`.
        text: with its indentation taken off.
        reason: why the tests do not run it; None: they do.
    """

    page: str
    line: int
    language: str
    text: str
    reason: str | None

    @property
    def commands(self) -> list[str]:
        """Logical lines of a shell, without comments: continued lines are one."""
        lines = re.sub(r"\s*\\\n\s*", " ", self.text).splitlines()
        return [command for line in lines if (command := re.sub(r"(^|\s+)#\s.*", "", line).strip())]


def page_names(root: Path) -> list[str]:
    """Pages of README.md and docs/, in the order in which they are run; generated ones are none of them."""
    found = [str(path.relative_to(root)) for path in (root / "docs").rglob("*.md")]
    found = ["README.md", *(name for name in found if not name.startswith("docs/reference/commands/"))]

    def place(name: str) -> tuple[int, str]:
        return next((i for i, start in enumerate(ORDER) if name.startswith(start)), len(ORDER)), name

    return sorted(found, key=place)


def blocks_of(root: Path, page: str) -> list[Block]:
    """The blocks of a page, in their order."""
    text = (root / page).read_text("utf-8")
    blocks = []
    for match in _BLOCK.finditer(text):
        lines = [line.removeprefix(match["indent"]) for line in match["text"].splitlines(keepends=True)]
        line = text.count("\n", 0, match.start("language")) + 1
        language = "bash" if match["language"] in ("sh", "shell", "console") else match["language"]
        blocks.append(Block(page, line, language, "".join(lines), match["reason"]))
    return blocks
