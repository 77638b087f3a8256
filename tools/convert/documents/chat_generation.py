"""The tag `{% generation %}` of chat templates: it marks what the assistant says."""

from __future__ import annotations

from typing import Any, ClassVar

from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser


class Generation(Extension):
    """Passes what stands between `{% generation %}` and `{% endgeneration %}` to the function `NOTE`."""

    tags: ClassVar[set[str]] = {"generation"}  # pyright: ignore[reportIncompatibleVariableOverride]
    NOTE = "_mixstream_note"

    def parse(self, parser: Parser) -> Any:
        """Make a call of the block."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_pass", [nodes.Name(self.NOTE, "load")])
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _pass(self, note: Any, caller: Any) -> str:
        return note(caller())
