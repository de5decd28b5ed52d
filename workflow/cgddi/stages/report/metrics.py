"""What the figures mean and which direction is better, said where they stand."""

MEANINGS = {
    "balanced_accuracy": (
        "higher",
        "mean of sensitivity and specificity: a classifier that always says benign has 50 %",
    ),
    "accuracy": ("higher", "share of test photos that are classified right; by tone: of the photos of that tone"),
    "auc": ("higher", "chance that a malignant photo gets a higher score than a benign one; 50 % is guessing"),
    "sensitivity": ("higher", "share of malignant photos that are found"),
    "specificity": ("higher", "share of benign photos that are left alone"),
    "f1": ("higher", "harmonic mean of precision and sensitivity"),
    "ece": ("lower", "expected calibration error: how far probabilities are from what comes true"),
    "pqd": ("higher", "lowest accuracy of a tone over the highest; 100 % is equal"),
    "dpm": (
        "higher",
        "demographic parity: of each class, lowest share of predictions of a tone over the highest; 100 % is equal",
    ),
    "eom": (
        "higher",
        "equality of opportunity: of each class, lowest share found of a tone over the highest; 100 % is equal",
    ),
    "equalized_odds_difference": (
        "lower",
        "largest difference between tones of a true or false positive rate; 0 is equal",
    ),
    "equal_opportunity_difference": ("lower", "largest difference between tones in sensitivity; 0 is equal"),
    "iou": ("higher", "intersection over union of predicted and human mask; 100 % is the same"),
    "fid": ("lower", "distance of two sets of pictures in a network's features; depends on their number"),
    "kid": ("lower", "the same, unbiased by the number of pictures; 0 is no difference"),
    "lpips": ("lower", "difference of two pictures as people see it, from a network"),
}
"""Metric -> (which direction is better, what it is)."""
SHORT = {name: name.upper() for name in ("auc", "ece", "pqd", "dpm", "eom", "fid", "kid", "lpips", "f1")} | {
    "iou": "IoU"
}
ARROWS = {"higher": "↑", "lower": "↓"}


def _known(name: str) -> tuple[str, str] | None:
    return MEANINGS.get(name.lower().partition(",")[0])


def heading(name: str) -> str:
    """A column's name in words; of a metric (`accuracy, dark`) with an arrow to where it is better."""
    known = _known(name)
    words = SHORT.get(name.lower(), name.replace("_", " "))
    return f"{words} {ARROWS[known[0]]}" if known else words


def meaning(name: str) -> str | None:
    """What a column's metric is, and which direction is better; None of other columns."""
    known = _known(name)
    return f"{known[1]}; {known[0]} is better" if known else None
