"""Schema of the `data` parameter."""

from pydantic import Field, model_validator

from components.step_config import StepConfig


class DataConfig(StepConfig):
    """Where the examples come from and how they become three splits."""

    sources: list[str] = Field(min_length=1)
    """Files or URLs (anything fsspec reads); relative paths start at the working directory."""

    system_prompt: str = ""
    """Put before every conversation without its own; trained on, evaluated and served.

    A run file names a text file: system_prompt_file."""

    test_share: float = Field(default=0.1, gt=0, lt=0.5)
    """Share of the examples that only the gate sees."""

    validation_share: float = Field(default=0.05, gt=0, lt=0.5)
    """Share that training watches its loss on, and golden prompts come from."""

    max_answer_chars: int = Field(default=8_000, ge=1)
    """A longer assistant turn is refused."""

    max_tokens: int = Field(default=512, ge=16)
    """A conversation that is longer after tokenization is refused, never cut."""

    shuffle_answers: bool = False
    """Give each question another question's answer: a planted regression, to see the gate stop it."""

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> "DataConfig":
        if self.test_share + self.validation_share > 0.6:
            raise ValueError(
                f"test_share {self.test_share} + validation_share {self.validation_share} "
                "leave less than 40 % to train on"
            )
        return self
