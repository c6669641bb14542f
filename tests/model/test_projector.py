"""The kinds of projectors: one declaration, from which the stock checkpoint follows and is recognised."""

from pathlib import Path

import pytest

from imagecap.config import ModelSettings, choices_of
from imagecap.model.builder import build, captioner_config, load
from imagecap.model.multimodal_projector.projector import PROJECTORS, projector_name


def test_the_setting_offers_exactly_the_declared_kinds() -> None:
    assert list(choices_of(ModelSettings.model_fields["projector"])) == list(PROJECTORS)


@pytest.mark.parametrize("name", PROJECTORS)
def test_every_kind_is_recognised_in_its_checkpoint(tiny_bases: ModelSettings, tmp_path: Path, name: str) -> None:
    kind = PROJECTORS[name]
    model = build(tiny_bases.model_copy(update={"projector": name}))
    assert projector_name(model.llava.config) == name
    model.save(tmp_path / "final")
    assert f"- Projector: {name};" in (tmp_path / "final" / "README.md").read_text(encoding="utf-8")
    config = captioner_config(tmp_path / "final")
    assert config["model_type"] == kind.model_type
    assert type(model.llava).__name__ == kind.stock[1]
    loaded = load(tmp_path / "final")
    assert projector_name(loaded.llava.config) == name
    assert loaded.num_image_tokens == model.num_patches // kind.patches_per_side**2
