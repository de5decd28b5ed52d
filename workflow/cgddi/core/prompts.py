"""What may stand in a prompt template: {token} and {tone}, nothing else. Imports nothing heavy: planning reads it."""

from string import Formatter


def check_prompt(template: str, token: bool = True) -> str:
    """A prompt template as it is, if it can be filled in.

    Args:
        template: text with {token} and {tone}; a brace of its own is doubled.
        token: whether it must hold {token}; a prompt of healthy skin must not.

    Raises:
        ValueError: another field, or {token} missing or out of place.
    """
    allowed = ("token", "tone") if token else ("tone",)
    only = "only " + " and ".join(f"{{{name}}}" for name in allowed) + " can be filled in"
    try:
        fields = [(name, form, change) for _, name, form, change in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ValueError(f"{only} ({error}); double a brace that is meant as one") from error
    for name, form, change in fields:
        if name not in allowed or form or change:
            raise ValueError(f"{only}, not {{{name}{'!' + change if change else ''}{':' + form if form else ''}}}")
    if token and not any(name == "token" for name, _, _ in fields):
        raise ValueError(
            "{token} must stand in it: without the concept's token nothing is learnt or shown of the concept"
        )
    return template
