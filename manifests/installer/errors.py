"""What goes wrong here is said in one form."""

from components.step_config import InputError


class PlatformError(InputError):
    """A part cannot be fetched, rendered or applied; says what is wrong and what to do."""
