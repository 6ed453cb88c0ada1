"""What a user can mend. Level 0."""


class UserError(ValueError):
    """A wrong option, file or combination; the message names it and says what would do."""
