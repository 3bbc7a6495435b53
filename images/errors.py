"""What goes wrong here is said in one form."""


class ImageError(RuntimeError):
    """An image cannot be pinned, built or looked into; says what is wrong and what to do."""
