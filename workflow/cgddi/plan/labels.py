"""What jobs are told of their photos, and what no split can test: labels come to a job by its spec, where it uses them (see
`core.labels`), so that a corrected one makes again what learnt from it and no more. Light: read at every parse.
"""

from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from cgddi.core.errors import Problem
from cgddi.plan.photos import Photos
from cgddi.plan.sheets import Photo
from cgddi.plan.splits import gaps


class LabelledPhotos(Photos):
    """The photos of one configuration with the labels that each kind of job is told."""

    def labels(self, photos: Iterable[Photo], *names: str) -> list[dict[str, Any]]:
        """Rows `labels` of a spec: image_id and those named of concept, tone, malignant and group."""
        return [
            {"image_id": p.image_id, **{name: p.skin_tone if name == "tone" else getattr(p, name) for name in names}}
            for p in photos
        ]

    def indexed(self, photo: Photo, role: str | None) -> bool:
        """Whether a split's index tells a photo's labels. Those of test photos it does not, so that a corrected one trains nothing
        again: unless epochs are chosen by them, images on or of test photos are learnt from, or the concept leaves the index."""
        config, ways = self.config, self.config.index.drop_touching
        told = config.classify.selection == "test" or "donor" not in ways or "own_canvas" in ways
        return role in ("train", "validation") or told or photo.concept in config.drop_concepts

    @cached_property
    def test_labels(self) -> list[dict[str, Any]]:
        """Labels of the test photos of all splits."""
        tested = {image for roles in self.roles.values() for image, role in roles.items() if role == "test"}
        return self.labels((p for p in self.photos if p.image_id in tested), "concept", "tone", "malignant")

    @cached_property
    def out_of_tone(self) -> set[str]:
        """Splits of which no tone is both learnt and tested."""
        found = set()
        for split, roles in self.roles.items():
            tones: dict[str, set[str]] = defaultdict(set)
            for photo in self.photos:
                tones[roles.get(photo.image_id, "")].add(photo.skin_tone)
            found |= set() if tones["train"] & tones["test"] else {split}
        return found

    def concept_label(self, scope: str, concept: str) -> bool | None:
        """Malignancy that samples of a concept carry: the one its training photos agree on, else None."""
        labels = {photo.malignant for photo in self.training[scope, concept]}
        return labels.pop() if len(labels) == 1 else None

    @cached_property
    def untestable(self) -> list[Problem]:
        """What keeps splits from being tested: classes and tones without a test photo. It matters where classifiers are trained."""
        settings, dropped = self.config.classify, self.config.drop_concepts
        photos = [photo for photo in self.photos if photo.concept not in dropped]
        classes = settings.partition if settings.task == "partition" else {}
        class_of = None if settings.task == "malignancy" else lambda photo: classes.get(photo.concept, photo.concept)
        return [
            self.config.problem(f"splits.{name}", f"the split has {gap}", "Change its method, seed or shares.")
            for name, split in self.config.splits.items()
            for gap in gaps(photos, self.roles[name], split, class_of)
        ]
