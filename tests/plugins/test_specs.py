"""Headers of files of weights give the descriptions of samples that were written."""

from __future__ import annotations

import pytest

from ssl_zoo.plugins.specs import modality_of, spec_class, spec_of
from ssl_zoo.spec import ImageSpec

SPEC = ImageSpec(channels=1, size=20, mean=(0.5,), std=(0.25,), mirror=False, classes=3)


def test_a_header_gives_the_description_that_was_written() -> None:
    header = {"modality": "image", "spec": SPEC.to_header()}
    assert spec_of(header) == SPEC
    assert spec_of({"spec": SPEC.to_header()}) == SPEC  # as the first versions wrote it
    assert modality_of({}) == "image"
    assert spec_class("image") is ImageSpec


def test_a_header_without_a_description_or_whose_plugin_is_not_here_gives_none() -> None:
    assert spec_of({"modality": "image"}) is None
    assert spec_of({"modality": "smell", "spec": "{}"}) is None
    assert spec_class("smell") is None


@pytest.mark.parametrize("spec", ["{", "[]", '{"size": "x"}', '{"odour": 1}', '{"modality": "text"}'])
def test_a_description_that_cannot_be_understood_is_a_value_error(spec: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        spec_of({"modality": "image", "spec": spec})
