"""Settings of the FEDD stages: features, segmenter, probe, baselines and tables. Imports nothing heavy: planning reads it."""

from __future__ import annotations

import re
from typing import Literal, get_args

from pydantic import field_validator, model_validator

from cgddi.core.settings import Precision, Settings, located, neutral, setting

REVISION = {"features": 3, "segmenter": 2, "probe": 1, "baseline": 3, "tables": 3}
"""By job: features cost hours, tables seconds."""

Variant = Literal["plain", "reweight", "centre"]
"""How the segmenter treats skin tones: as they come (paper), drawn more often where it does poorly, or with each photo's mean taken
from its features."""


# ---- features (spec.settings of `cgddi fedd features`, without what the job itself fixes) ------------------------------


class FeaturesSettings(Settings):
    """Which activations of the frozen model are kept (paper: OpenAI's 256 px unconditional ADM)."""

    size: int = setting(256, "side in px of the photos the model sees (paper)", ge=16, le=1024)
    timestep: int = setting(100, "timestep of the segmenter's features (paper)", ge=0, le=1000)
    blocks: tuple[int, ...] = setting(
        (6, 8), "decoder blocks of the segmenter's features, counted from the deepest (paper)", min_length=1
    )
    ablation_timesteps: tuple[int, ...] = setting(
        tuple(range(0, 1001, 50)), "timesteps of the probe's ablation (paper); 1000 means the last, 999"
    )
    noise: Literal["own", "shared"] = setting(
        "own", "own: each photo has noise of its own, by name; shared: all have the same (paper: ddpm-segmentation)"
    )
    precision: Precision = setting("fp32", "of the frozen model; what is kept of it is fp16")
    batch: int = neutral(8, "photos that go through the model together", ge=1, le=256)
    showcase: int = setting(2, "study photos per tone with K-means pictures of every block", ge=0, le=16)

    @field_validator("ablation_timesteps")
    @classmethod
    def _timesteps_known(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 0 <= t <= 1000 for t in value):
            raise ValueError("timesteps are 0 to 1000")
        return value


# ---- which photos ----------------------------------------------------------------------------------------------------


class SubsetsSettings(Settings):
    """The study's photos: nested, balanced over tones and malignancy."""

    train_per_tone: dict[str, int] = setting(
        {"5": 10, "10": 20, "15": 30, "20": 40},
        "subset (its name: a share of the data in %) -> training photos per tone, half of them malignant (paper)",
        min_length=1,
    )
    validation_per_tone: int = setting(10, "validation photos per tone (paper)", ge=1)
    test_per_tone: int = setting(10, "test photos per tone (paper)", ge=1)
    balance: Literal["tone_and_malignancy", "tone"] = setting(
        "tone_and_malignancy",
        "tone_and_malignancy: half of each tone's photos are malignant (paper); tone: as many photos of each tone, "
        "malignant as the cohort is",
    )
    folder: str | None = setting(
        None,
        "FEDD's published folder of masks (ddi_labels): its training/5%/{train,val,test} to 20% are the subsets, "
        "instead of a draw; masks are named as the photos",
    )
    further: bool = setting(
        False,
        "test also on all other photos: classifiers on those of known malignancy, segmenters on those with a mask, or "
        "on testing/ of the published folder (paper: 476 and 198 photos)",
    )
    seeds: tuple[int, ...] = setting((0,), "seeds of the trained networks", min_length=1)
    keep_to_training: bool = setting(
        True,
        "train on photos only that every split trains on, so that masks of the segmenter leak nothing; false (any "
        "photo, as in the paper) is for a study whose masks no cohort uses",
    )

    @field_validator("train_per_tone")
    @classmethod
    def _names_and_sizes(cls, value: dict[str, int]) -> dict[str, int]:
        for name, count in value.items():
            if not re.fullmatch("[a-z0-9]+", name):
                raise ValueError(f"{name!r} is no subset name: lowercase letters and digits")
            if count < 1:
                raise ValueError(f"subset {name}: {count} photos per tone; give at least 1")
        return value


# ---- networks (spec.settings of `cgddi fedd segmenter`, `probe` and `baseline`) ---------------------------------------


class SegmenterSettings(Settings):
    """Ensemble of pixel MLPs on upsampled block features (paper, section 3; DatasetDDPM, Baranchuk et al. 2022)."""

    ensemble: int = setting(5, "networks that vote (paper)", ge=1, le=50)
    hidden: tuple[int, int] = setting((128, 32), "widths of the hidden layers (paper)")
    learning_rate: float = setting(1e-3, "Adam learning rate (paper)", gt=0)
    batch_pixels: int = setting(64, "pixels per training batch of each network (paper)", ge=2)
    steps: int = setting(20000, "batches at most (project's choice; training stops early)", ge=1)
    check_every: int = setting(250, "batches between looks at the validation photos", ge=1)
    patience: int = setting(12, "looks without a lower validation loss of any network before it stops", ge=1)


class ProbeSettings(Settings):
    """Malignancy from pooled block features by a small network 64-32-1 (paper)."""

    hidden: tuple[int, int] = setting((64, 32), "widths of the hidden layers (paper)")
    dropout: tuple[float, float] = setting((0.5, 0.25), "dropout after each hidden layer (paper)")
    learning_rate: float = setting(1e-3, "Adam learning rate", gt=0)
    weight_decay: float = setting(1e-5, "Adam weight decay (paper)", ge=0)
    epochs: int = setting(500, "full-batch epochs at most (paper)", ge=1)
    patience: int = setting(50, "epochs without a better validation loss of any probe before they stop", ge=1)
    standardise: bool = setting(
        True, "standardise each feature over the training photos; false: features as they come (paper)"
    )


SegmentationNetwork = Literal["densenet121", "vgg16", "resnet50", "efficientnet-b0", "mobilenet_v2"]
"""Encoders of the U-Nets, as segmentation_models_pytorch names them."""

ClassificationNetwork = Literal["densenet121", "vgg16", "resnet50", "efficientnet_b0", "mobilenetv2_100", "deepderm"]
"""Malignancy classifiers, as timm names them, and DeepDerm: Inception-v3 with published weights (Esteva 2017; Daneshjou 2022)."""

NETWORKS = {"segmentation": get_args(SegmentationNetwork), "classification": get_args(ClassificationNetwork)}


class BaselinesSettings(Settings):
    """Networks trained on the photos themselves, on the same subsets."""

    segmentation: tuple[SegmentationNetwork, ...] = setting(
        NETWORKS["segmentation"], "encoders of the U-Nets (paper; names of segmentation_models_pytorch)"
    )
    classification: tuple[ClassificationNetwork, ...] = setting(
        NETWORKS["classification"][:-1],
        "malignancy classifiers (paper; names of timm), and `deepderm` once weight_files names its weights",
    )
    weights: Literal["hub", "random"] = setting("hub", "ImageNet weights from the hub or its cache, or random ones")
    weight_files: dict[str, str] = located(
        {},
        'local weights instead, by "<task>/<network>": .safetensors of the encoder or backbone, and for '
        '"classification/deepderm" the published deepderm.pth',
    )
    epochs: int = setting(100, "epochs at most (project's choice)", ge=1)
    patience: int = setting(15, "epochs without a better validation score before it stops", ge=1)
    batch_size: int = setting(8, "photos per step (project's choice)", ge=2)
    learning_rate: float = setting(1e-4, "Adam learning rate (paper)", gt=0)
    dice_weight: float = setting(1.0, "weight of the Dice loss beside cross-entropy, U-Nets only (paper)", ge=0)
    augment: bool = setting(
        True, "flips, rotation to 30 degrees and a fifth of brightness, contrast, saturation; false: none (paper)"
    )
    precision: Precision = setting("fp32", "of training and testing (fp16 needs a GPU)")
    deepderm_finetune: bool = setting(
        True, "train DeepDerm on the subset as the others (paper); false tests it as it is, at its own threshold"
    )

    @model_validator(mode="after")
    def _weights_given(self) -> BaselinesSettings:
        known = [f"{task}/{name}" for task, names in NETWORKS.items() for name in names]
        for key in self.weight_files:
            if key not in known:
                raise ValueError(f"no key of weight_files {key!r}; there are {', '.join(known)}")
        if "deepderm" in self.classification and self.weights_of("classification", "deepderm") == "hub":
            raise ValueError(
                "deepderm is on no hub: download deepderm.pth (link in the DDI project's ddi_model.py) and name it in "
                'weight_files: {"classification/deepderm": FILE}'
            )
        return self

    def weights_of(self, task: str, network: str) -> str:
        """Where a network's starting weights come from: a file, `hub` or `random`."""
        return self.weight_files.get(f"{task}/{network}", self.weights)


# ---- tables (spec.settings of `cgddi fedd tables`), and the whole section ----------------------------------------------


class TablesSettings(Settings):
    """Tables and pictures of the study."""

    bootstrap: int = setting(1000, "bootstrap replicates behind each interval of an IoU (project's choice)", ge=10)
    confidence: float = setting(0.95, "coverage of the intervals (project's choice)", gt=0.5, lt=1)
    published: dict[str, str] = setting(
        {"ddi": "ddi"},
        "cohort -> published data set (ddi); beside studies of other cohorts the published figures are marked as "
        "reached on other data",
    )
    absent_classes: Literal["undefined", "zero"] = setting(
        "undefined",
        "a class that is in no mask and in no prediction of a group: undefined and no part of the mean IoU, or an IoU "
        "of zero (ddpm-segmentation)",
    )
    dermatologists: str | None = located(
        None, "csv of an ensemble of dermatologists for the ROC figure: image_id, probability (share who say malignant)"
    )


class MaskSource(Settings):
    """The trained segmenter that makes the masks of cohorts with `masks.source: fedd`."""

    variant: Variant = setting("plain", "treatment of tones")
    subset: str = setting("20", "subset it was trained on, a name of fedd.subsets.train_per_tone")
    seed: int = setting(0, "its seed, one of fedd.subsets.seeds")


class FeddSettings(Settings):
    """The FEDD study, and the segmenter behind automatic masks."""

    study: bool = setting(False, "whether `all` holds the study (target `fedd`): its tables and report section")
    cohort: str | None = setting(
        None, "labelled cohort the study is made on; null: the first development cohort with mask files"
    )
    features: FeaturesSettings = FeaturesSettings()
    subsets: SubsetsSettings = SubsetsSettings()
    segmenter: SegmenterSettings = SegmenterSettings()
    variants: tuple[Variant, ...] = setting(
        ("plain", "reweight", "centre"), "segmenters the study trains; the tone-gap figure compares them", min_length=1
    )
    probe: ProbeSettings = ProbeSettings()
    baselines: BaselinesSettings = BaselinesSettings()
    tables: TablesSettings = TablesSettings()
    masks_from: MaskSource = MaskSource()
