"""Which settings runs must have in common to stand in one table."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from ssl_zoo.comparison import tabulate
from ssl_zoo.comparison.comparability import comparable_settings
from ssl_zoo.comparison.load import load_comparison
from ssl_zoo.config.schema import DataConfig, EncoderConfig
from ssl_zoo.errors import UserError
from tests.conftest import small_config, train

OTHER_DATA: dict[str, Any] = {
    "source": "photos", "options": {"label": "kind"}, "image_size": 40, "default_size": 40, "tile": 10,
    "channels": 4, "pages": "samples", "range": (0.0, 4095.0), "range_percentiles": (0.0, 99.9),
    "widen": True, "labels": "none", "holdout": 0.3, "groups": r"(p\d+)",
}  # fmt: skip
"""A value of each setting that changes the samples, their labels or their splits."""
SAME_DATA: dict[str, Any] = {
    "root": "sets", "cache": "decoded", "workers": 2, "resident": "never", "canvas": "square"
}  # fmt: skip
"""A value of each setting that changes none of these."""


def settings(**data: Any) -> dict[str, Any]:
    return comparable_settings(EncoderConfig(data=DataConfig(**data)))


def changed(data: dict[str, Any]) -> list[str]:
    """Return the paths of the settings in which the data differ from the default ones."""
    before, after = settings(), settings(**data)
    assert before.keys() == after.keys()
    return [path for path, value in after.items() if value != before[path]]


def test_each_setting_of_the_data_counts_unless_it_changes_no_sample() -> None:
    assert {*OTHER_DATA, *SAME_DATA} == set(DataConfig.model_fields)
    for name, value in OTHER_DATA.items():
        assert changed({name: value}) == [f"data.{name}"]
    assert changed(SAME_DATA) == []
    assert changed({"holdout": 0.1}) == []  # the share that none stands for


def test_runs_on_other_tiles_or_splits_are_refused_or_marked(tmp_path: Path) -> None:
    train(small_config("rotation", train__epochs=0.5), out=tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    config = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())
    config["data"] |= {"tile": 10, "groups": "folder", "workers": 2}
    (tmp_path / "b" / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=r"not comparable: data\.tile is None in .*a, but 10 in .*b"):
        tabulate([tmp_path / "a", tmp_path / "b"])
    table = tabulate([tmp_path / "a", tmp_path / "b"], mixed=True)
    assert table.foot[0] == "NOT COMPARABLE: the runs differ in data.tile, data.groups."
    assert {row.name for row in table.rows} == {
        f"{name} ({values})"
        for name in ("rotation", "pixels", "random-init")
        for values in ("tile=None, groups=None", "tile=10, groups=folder")
    }


def test_a_task_of_a_comparison_may_not_have_samples_of_its_own() -> None:
    given = {"tasks": ["rotation"], "overrides": {"rotation": {"data": {"channels": 3}}}}
    with pytest.raises(UserError, match=r"data\.channels=3 would make its runs incomparable"):
        load_comparison(None, given)
