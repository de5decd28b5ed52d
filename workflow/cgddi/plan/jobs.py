"""The plan: all jobs, each with what it is made from and which files it reads, from the config and the sheets alone. Light: read at
every parse."""

from functools import cached_property
from typing import Any

from cgddi.core.archive import canonical, sha256
from cgddi.core.errors import refuse
from cgddi.ingest.names import UNKNOWN
from cgddi.plan import given
from cgddi.plan.checked import Checked, Reading
from cgddi.plan.config import Config
from cgddi.plan.evaluation_jobs import EvaluationJobs
from cgddi.plan.paths import RESULTS
from cgddi.plan.power import count_photos, power_note
from cgddi.plan.specs import STAGES, Files, Job, stage_package


class Plan(EvaluationJobs):
    """All jobs of one configuration.

    Args:
        main: whether this process steers the run: it alone writes specs and remembers digests.

    Raises:
        InvalidInput: the sheets, the review file or the config's names have problems; all of them at once.
    """

    def __init__(self, config: Config, main: bool = False):
        super().__init__(config, main)
        refuse(self.fedd.why_impossible())
        _ = self.verdicts  # a mistake in it is told now
        if main:
            self._look_into_photos()
        self._jobs: dict[tuple[str, tuple[str, ...]], Job] = {}

    def _look_into_photos(self) -> None:
        """Refuse what `cgddi check` refused, of photos and masks as they are now, and masks whose values are no classes.

        Raises:
            InvalidInput: all of it.
        """
        from cgddi.ingest.mask_values import check_values

        settings = {name: self.config.masks_of(name) for name in self.by_cohort}
        readings = {name: Reading(masks.id_map, masks.size, masks.crop) for name, masks in settings.items()}
        human = {
            name: readings[name] for name, masks in settings.items() if masks.source == "human" or masks.prefer_human
        }
        problems = check_values(self.photos, human, self.config.images, False)
        checked, read = Checked(self.contents), [(photo, readings[photo.cohort]) for photo in self.photos]
        self._unseen = len(read)
        if checked.path.exists():
            self._read_photos()
            problems += checked.problems(read, self.config.images)
            self._unseen = checked.unseen(read)
        refuse(problems)

    @cached_property
    def digest(self) -> str:
        """Hash of what decides the plan: the run's jobs on other nodes must find the same."""
        settings, _ = self.contents.settings(self.config.model_copy(update={"cache": "", "container": None}))
        photos = [
            (p.image_id, p.cohort, p.concept, p.skin_tone, p.malignant, p.group, bool(p.mask), p.mm_per_px)
            for p in self.photos
        ]
        code = {
            stage: __import__(f"{stage_package(stage)}.settings", fromlist=["REVISION"]).REVISION for stage in STAGES
        }
        return sha256(canonical([settings, photos, sorted(self.concepts), self.verdicts, code]))[:16]

    def job(self, rule: str, **wildcards: Any) -> Job:
        """A job by its rule and wildcards."""
        key = rule, tuple(str(wildcards[name]) for name in RESULTS[rule].wildcards)
        if key not in self._jobs:
            own = getattr(self, f"_{rule}", None)
            made = own(**wildcards) if own else self.fedd.job(rule, **wildcards)
            inputs = {name: files for name, files in made.inputs.items() if files}
            root = f"{self.config.results}/"
            options = {
                name: [f.removeprefix(root) for f in files] if isinstance(files, list) else files.removeprefix(root)
                for name, files in (inputs if made.options is None else made.options).items()
                if files
            }
            self._jobs[key] = Job(made.spec | ({"inputs": options} if options else {}), inputs)
        return self._jobs[key]

    def inputs(self, rule: str, **wildcards: Any) -> Files:
        """All files a job reads, its spec first."""
        job = self.job(rule, **wildcards)
        name = ".".join(str(wildcards[key]) for key in RESULTS[rule].wildcards) or rule
        return {"spec": self.specs.path(rule, name, job.spec, self.paths.record(rule, **wildcards)), **job.inputs}

    def notes(self) -> list[str]:
        """What a person must know of the plan as it is."""
        notes = given.unused(self)
        if self.config.only_concepts:
            named = ", ".join(self.config.only_concepts)
            notes.append(f"only_concepts: a run for {named} alone, with results of its own in {self.paths.root}.")
        if unknown := sum(photo.skin_tone == UNKNOWN for photo in self.photos):
            notes.append(
                f"{unknown} photo(s) of unknown skin tone: donors and canvases where they have a mask, in no index and no figure."
            )
        if self.__dict__.get("_unseen"):
            notes.append(
                f"{self._unseen} photo(s) were not looked into yet: `cgddi check` opens each once, and its mask."
            )
        tested = {split: count_photos(self.photos, roles) for split, roles in self.roles.items()}
        if self.config.runs.regimes and (line := power_note(tested)):
            notes.append(line)
        return notes

    def begin(self, real: bool) -> None:
        """Write where photos and models lie, and in a real run what its plan is (see `SpecFiles.begin`)."""
        self.specs.begin(self.digest, real)
