"""What a user can mend: the message names the option or file, and says what would do."""


class UserError(ValueError):
    """A wrong option, file or combination."""


class CorpusError(UserError):
    """Text, or a folder of it, that cannot be used as it is."""


class MisfitError(UserError):
    """A checkpoint that does not fit the model; whoever knows the file's name adds it."""
