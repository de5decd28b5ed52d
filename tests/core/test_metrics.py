"""Metrics against their definitions written out plainly, and against fairlearn, scikit-learn and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cgddi.core.metrics import (
    area_under_curve,
    calibration_error,
    confusion,
    equality_of_opportunity,
    run_metrics,
)
from fairlearn import metrics as fairlearn
from sklearn import metrics as sklearn
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

TONES = ("light", "medium", "dark")


def example(seed: int, n: int = 90, classes: int = 2):
    rng = np.random.default_rng(seed)
    labels, tones = rng.integers(0, classes, n), rng.integers(0, 3, n)
    probability = rng.dirichlet(np.ones(classes), n)
    probability[np.arange(n), labels] += 0.4
    probability = np.round(probability / probability.sum(1, keepdims=True), 3)
    probability[:, 0] = 1 - probability[:, 1:].sum(1)
    return labels, probability.argmax(1), probability, tones


def plain_disparities(labels, predicted, tones, classes):
    """PQD, DPM and EOM as method.md words them, in loops."""
    accuracy = [np.mean(predicted[tones == g] == labels[tones == g]) for g in range(3)]
    dpm, eom = [], []
    for c in range(classes):
        rate = [np.mean(predicted[tones == g] == c) for g in range(3)]
        recall = [np.mean(predicted[(tones == g) & (labels == c)] == c) for g in range(3)]
        dpm.append(min(rate) / max(rate))
        eom.append(min(recall) / max(recall))
    return min(accuracy) / max(accuracy), np.mean(dpm), np.mean(eom)


@pytest.mark.parametrize(("seed", "classes"), [(0, 2), (1, 2), (2, 3), (3, 4)])
def test_disparities_follow_their_published_definitions(seed, classes):
    labels, predicted, probability, tones = example(seed, 200, classes)
    found = run_metrics(labels, predicted, probability, tones, np.ones((1, 200)))
    expected = plain_disparities(labels, predicted, tones, classes)
    assert [found[name, "all"][0] for name in ("pqd", "dpm", "eom")] == pytest.approx(expected, abs=1e-12)


def test_hand_computed_disparities():
    # light: 4 of 4 right; medium: 3 of 4; dark: 2 of 4. Labels per tone: 2 benign, 2 malignant.
    labels = np.array([0, 0, 1, 1] * 3)
    predicted = np.array([0, 0, 1, 1, 0, 0, 1, 0, 0, 1, 1, 0])
    tones = np.repeat([0, 1, 2], 4)
    probability = np.stack([1 - predicted * 0.9, predicted * 0.9], 1)
    found = run_metrics(labels, predicted, probability, tones, np.ones((1, 12)))
    assert found["pqd", "all"][0] == pytest.approx(0.5)
    assert found["dpm", "all"][0] == pytest.approx((0.5 / 0.75 + 0.25 / 0.5) / 2)
    assert found["eom", "all"][0] == pytest.approx((0.5 + 0.5) / 2)
    assert found["sensitivity", "dark"][0] == 0.5
    assert found["worst_tone_accuracy", "all"][0] == 0.5


@pytest.mark.parametrize("seed", range(3))
def test_against_fairlearn_scikit_learn_and_torchmetrics(seed):
    labels, predicted, probability, tones = example(seed)
    found = {
        key: value[0] for key, value in run_metrics(labels, predicted, probability, tones, np.ones((1, 90))).items()
    }
    sensitive = {"sensitive_features": tones}
    assert found["equalized_odds_difference", "all"] == pytest.approx(
        fairlearn.equalized_odds_difference(labels, predicted, **sensitive)
    )
    assert found["equal_opportunity_difference", "all"] == pytest.approx(
        fairlearn.equal_opportunity_difference(labels, predicted, **sensitive)
    )
    for g, tone in [(None, "all"), *enumerate(TONES)]:
        here = slice(None) if g is None else tones == g
        y, p, s = labels[here], predicted[here], probability[here, 1]
        assert found["auc", tone] == pytest.approx(sklearn.roc_auc_score(y, s))
        assert found["f1", tone] == pytest.approx(sklearn.f1_score(y, p))
        assert found["balanced_accuracy", tone] == pytest.approx(sklearn.balanced_accuracy_score(y, p))
        assert found["specificity", tone] == pytest.approx(sklearn.recall_score(y, p, pos_label=0))
        expected = binary_calibration_error(torch.tensor(s), torch.tensor(y), n_bins=15)
        assert found["ece", tone] == pytest.approx(float(expected), abs=1e-6)


def test_multi_class_auc_f1_and_calibration_against_libraries():
    labels, predicted, probability, tones = example(7, 150, 4)
    found = run_metrics(labels, predicted, probability, tones, np.ones((1, 150)))
    assert found["auc", "all"][0] == pytest.approx(sklearn.roc_auc_score(labels, probability, multi_class="ovr"))
    assert found["f1", "all"][0] == pytest.approx(sklearn.f1_score(labels, predicted, average="macro"))
    expected = multiclass_calibration_error(torch.tensor(probability), torch.tensor(labels), 4, n_bins=15)
    assert found["ece", "all"][0] == pytest.approx(float(expected), abs=1e-6)
    assert ("sensitivity", "all") not in found


def test_weights_are_repetitions():
    labels, predicted, probability, tones = example(5)
    weights = np.random.default_rng(1).integers(0, 4, (3, 90)).astype(float)
    found = run_metrics(labels, predicted, probability, tones, weights)
    for b in range(3):
        again = np.repeat(np.arange(90), weights[b].astype(int))
        repeated = run_metrics(
            labels[again], predicted[again], probability[again], tones[again], np.ones((1, len(again)))
        )
        for key, value in found.items():
            assert value[b] == pytest.approx(repeated[key][0], abs=1e-12), key


def test_empty_groups_and_classes_are_undefined_never_imputed():
    labels, predicted, probability, tones = example(9)
    no_dark = tones != 2
    found = run_metrics(*(a[no_dark] for a in (labels, predicted, probability, tones)), np.ones((1, no_dark.sum())))
    for key in (("accuracy", "dark"), ("pqd", "all"), ("dpm", "all"), ("eom", "all"), ("worst_tone_accuracy", "all")):
        assert np.isnan(found[key][0]), key
    assert np.isfinite(found["accuracy", "light"][0])
    kept = ~((tones == 1) & (labels == 1))
    found = run_metrics(*(a[kept] for a in (labels, predicted, probability, tones)), np.ones((1, kept.sum())))
    assert (
        np.isnan(found["eom", "all"][0]) and np.isnan(found["auc", "medium"][0]) and np.isfinite(found["pqd", "all"][0])
    )
    never = np.zeros_like(labels)
    found = run_metrics(labels, never, probability, tones, np.ones((1, 90)))
    assert np.isnan(found["dpm", "all"][0]), "0/0 for the class that is never predicted"
    assert np.isnan(found["eom", "all"][0]), "0/0: no tone recalls the class"


def test_auc_counts_ties_half_and_calibration_of_perfect_confidence_is_zero():
    assert area_under_curve(np.array([True, False]), np.array([0.5, 0.5]), np.ones((1, 2)))[0] == 0.5
    sure = calibration_error(np.array([1.0, 0.0, 1.0]), np.array([1.0, 0.0, 1.0]), np.ones((1, 3)), 15)
    assert sure[0] == 0


def test_confusion_shape_and_eom_of_a_stack():
    labels, predicted, _, tones = example(3)
    table = confusion(labels, predicted, tones, 2, np.ones((4, 90)))
    assert table.shape == (4, 3, 2, 2) and np.all(table.sum((1, 2, 3)) == 90)
    assert np.ptp(equality_of_opportunity(table)) == 0
