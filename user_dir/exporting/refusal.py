"""How what another program cannot compute is refused."""

from typing import NoReturn

from user_dir.errors import UserError


def refuse(condition: object, flag: str, why: str) -> None:
    """Refuse a model for one of its options, with the reason.

    Raises:
        UserError: the condition holds; whoever knows the file's name adds it.
    """
    if condition:
        raise UserError(f"{flag} cannot be exported: {why}")


def refuse_tensor(name: str, *, program: str) -> NoReturn:
    """Refuse a model for a parameter that has no place elsewhere, whichever option made it."""
    raise UserError(f"its {name} cannot be exported: {program} has no such part")
