"""What the tables and plots of all stages share: Markdown rows, LaTeX texts, colours of the tones, PNG bytes of a figure."""

import io
from collections.abc import Sequence

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402 - the backend is chosen first

COLOURS = {"all": "black", "light": "#e69f00", "medium": "#009e73", "dark": "#0072b2"}
GRID = np.linspace(0, 1, 101)
"""False positive rates at which ROC curves are averaged."""


def png(figure) -> bytes:
    """PNG bytes of a figure, the same for the same figure, and the figure closed."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def md_row(cells: Sequence[str]) -> str:
    """One row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def tex_text(text: str) -> str:
    """A text with what LaTeX would take as commands escaped."""
    for plain, escaped in (
        ("\\", r"\textbackslash{}"), ("&", r"\&"), ("%", r"\%"), ("_", r"\_"), ("#", r"\#"), ("$", r"\$"),
        ("†", r"$\dagger$"), ("‡", r"$\ddagger$"), ("§", r"\S{}"),
    ):  # fmt: skip
        text = text.replace(plain, escaped)
    return text
