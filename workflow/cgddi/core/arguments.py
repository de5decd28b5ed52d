"""What the command lines of all commands share. Light: every command imports it."""

import argparse
import json
from typing import Any


def command_parser(command: str, about: str | None) -> argparse.ArgumentParser:
    """The parser of `cgddi COMMAND`, whose help shows a docstring as it is written."""
    raw = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(prog=f"cgddi {command}", description=about, formatter_class=raw)


def json_value(text: str) -> Any:
    """The type of an option that is given as JSON."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise argparse.ArgumentTypeError(f"""{text} is no JSON. Write e.g. '{{"0": 4, "255": 1}}'.""") from None
