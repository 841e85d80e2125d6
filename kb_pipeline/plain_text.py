"""Words of others made harmless before a person sees them: on a terminal, in Markdown.

They come from the database, from files and from command lines. HTML is escaped by the dashboard's
templates, JSON escapes by itself, and no output is CSV.
"""

import re
from typing import Final

_MARKUP: Final = re.compile(r"[!-+\-/;-@\[-`{-~]|:(?=\S)|(?<=www)\.")
"""What can be markup, or make a link of an address; a comma, or a colon before a space, cannot."""


def printable(text: str) -> str:
    """Return text in one line in which nothing steers a terminal or turns the direction of reading."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )


def printable_lines(text: str) -> str:
    """Return text of several lines with each of them harmless."""
    return "\n".join(map(printable, text.split("\n")))


def markdown_text(text: str) -> str:
    """Return what Markdown shows as this text, in one line: no link, no picture, no markup of its own."""
    return _MARKUP.sub(r"\\\g<0>", printable(text))


def markdown_block(text: str) -> str:
    """Return a code block that shows a text as it is; nothing in the text ends the block."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{printable_lines(text)}\n{fence}"
