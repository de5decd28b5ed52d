"""Settings of the audit stage."""

import re
from typing import Literal

from cgddi.core.settings import Settings, located, setting

REVISION = 5

KINDS = ("leakage", "quality", "tone", "memorisation")
"""The audits of a split: `cgddi audit KIND`."""
PICTURES = ("healthy", "masks")
"""The audits of the whole run, which write an archive of examples."""


HUB_FILE = re.compile(r"([\w-]+/[\w.-]+)/([\w./-]+\.safetensors)(?:@(.+))?")


def hub_file(source: str) -> tuple[str, str, str | None] | None:
    """(hub id, file, revision) of `owner/name/file.safetensors[@revision]`; None where it is no such place."""
    place = HUB_FILE.fullmatch(source)
    return (place[1], place[2], place[3]) if place else None


class FeatureSettings(Settings):
    """What images are compared by. The figures FID and KID are only comparable between runs with equal features."""

    backbone: str = setting("resnet18", "timm backbone whose pooled features are used; not used by `pixels`")
    weights: str = located(
        "hub",
        "`hub` (the backbone's pretrained weights, from the hub or its cache), `random` (seeded; only relative "
        "values mean anything), `pixels` (16x16 colour thumbnails, no network), or a local .safetensors file",
    )
    image_size: int = setting(224, "side to which images are resized before the backbone (pixels)", ge=16)


class AuditSettings(Settings):
    """What the audits measure and when the leakage gate fails."""

    leakage_gate: Literal["enforce", "report"] = setting(
        "enforce",
        "`enforce`: the audit fails when a training image descends from a validation or test image. `report`: it "
        "passes, and every table of the split says so (for reproducing published figures).",
    )
    near_duplicates: Literal["enforce", "report", "off"] = setting(
        "enforce", "the same for near-duplicates of validation and test images; `off` does not look for them"
    )
    hash_distance: int = setting(
        8, "perceptual hashes (64 bits, DCT) at most this many bits apart make a candidate pair", ge=0, le=63
    )
    duplicate_similarity: float | None = setting(
        None,
        "a candidate pair is a near-duplicate at this cosine similarity of its features or above; None: 0.95, and "
        "0.99 for `pixels` (in the toy world copies that were re-encoded, resampled or brightened stay above 0.999 and the most "
        "alike of 91,000 pairs of different photos reach 0.985)",
        gt=0,
        le=1,
    )
    features: FeatureSettings = setting(
        FeatureSettings(),
        "features for near-duplicates and memorisation, and for FID and KID where `inception` is not given",
    )
    inception: str | None = located(
        None,
        "weights of the Inception of FID and KID as they are published: a .safetensors file that `cgddi audit convert` "
        "wrote, or `owner/name/file.safetensors` on the hub. None: both are measured on `features`, which no other paper's can be "
        "compared with",
    )
    lpips: str | None = located(None, "the same for LPIPS: AlexNet's weights, or VGG16's. None: it is not measured")
    ita_cuts: tuple[float, float] | None = setting(
        None,
        "individual typology angle in degrees: light above the first, dark at or below the second, medium between. "
        "None: the cuts that tell the tones of the split's own real training photos apart best, since the angle of a photograph "
        "follows its light and camera too: at 41 and 10 (Chardon 1991) it agreed with the given type in 44 % of 77 smartphone "
        "photos",
    )
    images_per_tone: int = setting(
        2000, "synthetic images per kind and tone measured by tone, quality and memorisation (drawn by name)", ge=2
    )

    @property
    def duplicate_cut(self) -> float:
        """Similarity at which a candidate pair is a near-duplicate."""
        return self.duplicate_similarity or (0.99 if self.features.weights == "pixels" else 0.95)
