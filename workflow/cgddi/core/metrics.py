"""Metrics of one run under many weightings of its test images at once (one weighting = one bootstrap replicate).

All count metrics come from one weighted confusion tensor; a value whose denominator is zero is NaN, shown as `undefined`, and is
never imputed.
"""

import numpy as np

from cgddi.core.images import CLASSES, TONES

Values = dict[tuple[str, str], np.ndarray]
"""(metric, group) -> values (B,), group being "all" or a tone."""


PIXEL_COUNTS = ("intersection", "union", "predicted", "truth")
"""What is counted of a class in a predicted and a true mask."""


def ratio(numerator, denominator) -> np.ndarray:
    """Elementwise quotient, NaN where the denominator is zero (or either is NaN)."""
    numerator, denominator = np.broadcast_arrays(np.asarray(numerator, float), np.asarray(denominator, float))
    out = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=out, where=denominator > 0)
    return out


def confusion(labels, predicted, tones, classes: int, weights: np.ndarray) -> np.ndarray:
    """Weighted confusion counts.

    Args:
        labels, predicted: class indices (N,). tones: indices into TONES (N,).
        classes: C. weights: (B, N).

    Returns:
        (B, tone, label, predicted).
    """
    cell = (np.asarray(tones) * classes + labels) * classes + predicted
    onehot = np.zeros((len(cell), len(TONES) * classes * classes))
    onehot[np.arange(len(cell)), cell] = 1
    return (weights @ onehot).reshape(len(weights), len(TONES), classes, classes)


def predictive_quality_disparity(table: np.ndarray) -> np.ndarray:
    """PQD = min over tones of accuracy / max over tones of accuracy (FairDisCo, section 4.2); confusion (B, G, C, C) -> (B,)."""
    accuracy = ratio(np.trace(table, axis1=2, axis2=3), table.sum((2, 3)))
    return ratio(accuracy.min(1), accuracy.max(1))


def demographic_disparity(table: np.ndarray) -> np.ndarray:
    """DPM = mean over classes of min / max over tones of P(predicted = c | tone) (FairDisCo, section 4.2); -> (B,)."""
    rate = ratio(table.sum(2), table.sum((2, 3))[:, :, None])
    return ratio(rate.min(1), rate.max(1)).mean(1)


def equality_of_opportunity(table: np.ndarray) -> np.ndarray:
    """EOM = mean over classes of min / max over tones of recall(c | tone) (FairDisCo, section 4.2); -> (B,)."""
    recall = ratio(np.diagonal(table, axis1=2, axis2=3), table.sum(3))
    return ratio(recall.min(1), recall.max(1)).mean(1)


def equalized_odds_difference(table: np.ndarray) -> np.ndarray:
    """Larger of the spreads over tones of true and false positive rate, as fairlearn's metric of the name; two classes; -> (B,)."""
    rates = ratio(table[:, :, :, 1], table.sum(3))
    return (rates.max(1) - rates.min(1)).max(1)


def equal_opportunity_difference(table: np.ndarray) -> np.ndarray:
    """Spread over tones of the true positive rate, as fairlearn's metric of the name; two classes; -> (B,)."""
    rate = ratio(table[:, :, 1, 1], table[:, :, 1].sum(2))
    return rate.max(1) - rate.min(1)


def area_under_curve(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted area under the ROC curve, ties counted half: P(score of a positive > score of a negative).

    Args:
        positive: bool (N,). score: (N,). weights: (B, N).

    Returns:
        (B,), NaN where one class has no weight.
    """
    if not len(score):
        return np.full(len(weights), np.nan)
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(score[order]) > 0])
    up = np.add.reduceat((weights * positive)[:, order], starts, axis=1)
    down = np.add.reduceat((weights * ~positive)[:, order], starts, axis=1)
    below = np.cumsum(down, axis=1) - down / 2
    return ratio((up * below).sum(1), up.sum(1) * down.sum(1))


def calibration_error(confidence: np.ndarray, correct: np.ndarray, weights: np.ndarray, bins: int) -> np.ndarray:
    """Expected calibration error, sum over equal bins of share x |mean confidence - share correct| (Guo 2017), -> (B,).

    Args:
        confidence: (N,) in [0, 1]: P(positive) for two classes, the predicted class's probability for more, as torchmetrics has it.
        correct: (N,) 0 or 1: the positive label, or whether the prediction is right.
        weights: (B, N). bins: number of bins.
    """
    place = np.clip(np.floor(confidence * bins).astype(int), 0, bins - 1)
    onehot = np.zeros((len(place), bins))
    onehot[np.arange(len(place)), place] = 1
    gap = np.abs((weights * (confidence - correct)) @ onehot)
    return ratio(gap.sum(1), weights.sum(1))


def class_metrics(table: np.ndarray) -> dict[str, np.ndarray]:
    """Accuracy and the like of confusion counts (B, C, C); sensitivity, specificity and F1 of class 1 where there are two."""
    recall = ratio(np.diagonal(table, axis1=1, axis2=2), table.sum(2))
    found = {
        "accuracy": ratio(np.trace(table, axis1=1, axis2=2), table.sum((1, 2))),
        "balanced_accuracy": recall.mean(1),
    }
    hits = np.diagonal(table, axis1=1, axis2=2)
    f1 = ratio(2 * hits, table.sum(1) + table.sum(2))
    if table.shape[1] == 2:
        found.update(sensitivity=recall[:, 1], specificity=recall[:, 0], f1=f1[:, 1])
    else:
        found["f1"] = f1.mean(1)
    return found


def run_metrics(labels, predicted, probability, tones, weights: np.ndarray, bins: int = 15) -> Values:
    """Every metric of one run, overall and by tone.

    Args:
        labels, predicted: class indices (N,). probability: (N, C). tones: indices into TONES (N,).
        weights: (B, N), ones for the value itself, counts for bootstrap replicates.
        bins: of the calibration error.

    Returns:
        See `Values`. AUC is macro one-against-rest for more than two classes; sensitivity and specificity need two.
    """
    classes = probability.shape[1]
    table = confusion(labels, predicted, tones, classes, weights)
    found: Values = {}
    binary = classes == 2
    confidence = probability[:, 1] if binary else probability[np.arange(len(labels)), predicted]
    correct = labels if binary else (predicted == labels)
    for name, part, here in [("all", table.sum(1), np.ones(len(labels), bool))] + [
        (tone, table[:, g], tones == g) for g, tone in enumerate(TONES)
    ]:
        for metric, value in class_metrics(part).items():
            found[metric, name] = value
        w = weights[:, here]
        curves = [
            area_under_curve(labels[here] == c, probability[here, c], w) for c in ([1] if binary else range(classes))
        ]
        found["auc", name] = np.mean(curves, axis=0)
        found["ece", name] = calibration_error(confidence[here], correct[here].astype(float), w, bins)
    tone_accuracy = np.stack([found["accuracy", tone] for tone in TONES])
    found["worst_tone_accuracy", "all"] = tone_accuracy.min(0)
    found["pqd", "all"] = predictive_quality_disparity(table)
    found["dpm", "all"] = demographic_disparity(table)
    found["eom", "all"] = equality_of_opportunity(table)
    if binary:
        found["equalized_odds_difference", "all"] = equalized_odds_difference(table)
        found["equal_opportunity_difference", "all"] = equal_opportunity_difference(table)
    return found


def class_counts(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Pixels by image and class: in both masks, in either, in the predicted and in the true one.

    Args:
        predicted, truth: class ids, integers (N, H, W).

    Returns:
        int64 (N, 5, 4), the last axis in the order of `PIXEL_COUNTS`.
    """
    shape = (len(CLASSES), len(CLASSES))
    cells = truth.astype(np.int64) * len(CLASSES) + predicted
    tables = np.stack([np.bincount(cell.ravel(), minlength=np.prod(shape)).reshape(shape) for cell in cells])
    both, ours, real = np.diagonal(tables, axis1=1, axis2=2), tables.sum(1), tables.sum(2)
    return np.stack([both, ours + real - both, ours, real], axis=2)
