"""Forms: whatever cuts fall into them, a whole one is read to the last byte, and half of one is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from urllib3.filepost import encode_multipart_formdata

from detserve_rest.pictures.form import Part, parts_of
from detserve_rest.problems import Problem


def encoded(*parts: tuple[str, bytes]) -> bytes:
    fields = [(name, (f"{name}.jpg", content, "image/jpeg")) for name, content in parts]
    return encode_multipart_formdata(fields, boundary="B")[0]


_CONTENT = st.binary() | st.lists(st.sampled_from([b"\r\n", b"--", b"B", b"\r\n--", b"-", b"\r", b"x"])).map(
    b"".join
)


@given(_CONTENT.filter(lambda content: b"\r\n--B" not in content and not content.startswith(b"--B")))
def test_a_part_is_read_to_the_last_byte(content: bytes) -> None:
    body = encoded(("image", content), ("more", b"\x00"))
    assert parts_of(body, {"boundary": "B"}) == [
        Part("image", "image.jpg", content),
        Part("more", "more.jpg", b"\x00"),
    ]


@given(st.data())
def test_a_form_that_is_cut_off_is_refused(data: st.DataObject) -> None:
    body = encoded(("image", bytes(range(256))))
    end = data.draw(st.integers(0, len(body) - 5))
    with pytest.raises(Problem) as caught:
        parts_of(body[:end], {"boundary": "B"})
    assert caught.value.kind == "bad-request"
