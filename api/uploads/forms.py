"""File upload by form: multipart/form-data (RFC 7578), parsed while it arrives.

Owns the choice of the file's part and the limit of parts. python-multipart parses the syntax: it
is linear in the body, and bounds a part's headers. Invariant: nothing of other parts is kept.
"""

from __future__ import annotations

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from jobs.errors import InvalidRequest, Problem

MOST_PARTS = 64  # a form of a million empty parts took 1.6 s; a page's form has a few fields


class FormFile:
    """The first part of a form that is a file."""

    def __init__(self, content_type: str) -> None:
        _, options = parse_options_header(content_type)
        self._file: bytearray | None = None
        self._here = False  # in the part of the file
        self._ended = False
        self._parts = 0
        self._name, self._value = b"", b""
        try:
            self._parser = MultipartParser(
                options.get(b"boundary", b""),
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._on_name,
                    "on_header_value": self._on_value,
                    "on_header_end": self._on_header,
                    "on_part_data": self._on_data,
                    "on_part_end": self._on_part_end,
                    "on_end": self._on_end,
                },
            )
        except FormParserError:
            raise _no_file() from None

    def feed(self, piece: bytes) -> None:
        """Take the next piece. Raises InvalidRequest."""
        try:
            self._parser.write(piece)
        except FormParserError:
            raise _no_file() from None

    def file(self) -> bytearray:
        """Return the bytes of the file, after the last piece. Raises InvalidRequest."""
        if self._file is None or not self._ended:
            raise _no_file()
        return self._file

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MOST_PARTS:
            said = f"a form may have at most {MOST_PARTS} parts"
            raise InvalidRequest([Problem("", "too_many_parts", said)])

    def _on_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        name, value = self._name.lower(), self._value
        self._name, self._value = b"", b""
        if name == b"content-disposition" and self._file is None:
            kind, options = parse_options_header(value)
            if kind == b"form-data" and b"filename" in options:
                self._file, self._here = bytearray(), True

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._here and self._file is not None:
            self._file += memoryview(data)[start:end]

    def _on_part_end(self) -> None:
        self._here = False

    def _on_end(self) -> None:
        self._ended = True


def _no_file() -> InvalidRequest:
    return InvalidRequest([Problem("", "no_file", "send one file: -F file=@picture.png")])
