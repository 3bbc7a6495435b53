"""What the training's settings refuse."""

import pytest
from pydantic import ValidationError

from components.finetune.config import TrainingConfig


@pytest.mark.parametrize("setting", [{"rank": 8}, {"alpha": 1}, {"dropout": 0.1}, {"target_modules": ["q_proj"]}])
def test_a_setting_of_the_adapter_is_not_ignored(setting):
    with pytest.raises(ValidationError, match=rf"{next(iter(setting))} are the adapter's; leave them out, or set"):
        TrainingConfig(method="full", **setting)
    assert TrainingConfig(**setting)


def test_a_default_that_is_written_down_is_no_mistake():
    lora = TrainingConfig().model_dump()
    assert TrainingConfig(**lora | {"method": "full"}).method == "full"
