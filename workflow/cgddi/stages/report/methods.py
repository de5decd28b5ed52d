"""A methods paragraph and the CLEAR Derm checklist, from the run's records; where nothing says so they say "not recorded"."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd

from cgddi.core.images import TONES
from cgddi.stages.report.records import UNTOLD, Records, base_model

SOURCE = (
    "Daneshjou et al., Checklist for Evaluation of Image-Based Artificial Intelligence Reports in Dermatology: CLEAR Derm "
    "Consensus Guidelines From the International Skin Imaging Collaboration Artificial Intelligence Working Group, JAMA "
    "Dermatology 2022"
)
CHECKED = (
    "was checked for a lesion, its tone, artefacts and likeness to training photos, and drawn again where it failed"
)


def told(value: Any) -> str:
    """A setting in words."""
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) and value != "" else UNTOLD


def paragraph(records: Records, indices: Mapping[str, pd.DataFrame], about: str) -> list[str]:
    """Sentences for a methods section.

    Args:
        about: what an interval is about, as the fairness stage says it.
    """
    lines, made = [_photos(split, index) for split, index in indices.items()], learnt_from(indices)
    if records.healthy:
        lines.append(_healing(records))
    if made["lesion_mapped"]:
        count = f"{made['lesion_mapped']:,} images to learn from"
        lines.append(f"Each photo's lesion was transplanted onto canvases of all tones ({count}).")
    if records.adapter:
        lines.append(_adapters(records))
    if records.samples:
        of = {name: told(records.setting("samples", name)) for name in ("sampler", "steps", "strength", "guidance")}
        check = CHECKED if records.setting("samples", "check") else "was not checked"
        lines.append(
            f"Samples were drawn on canvases ({of['sampler']}, {of['steps']} steps, strength {of['strength']}, guidance "
            f"{of['guidance']}); each {check} ({made['semantic']:,} to learn from)."
        )
    return [*lines, *_classifiers(records), about]


def learnt_from(indices: Mapping[str, pd.DataFrame]) -> Counter[str]:
    """Training images of the first split by kind."""
    first = next(iter(indices.values()))
    return Counter(first.loc[first["role"] == "train", "kind"])


def by_tone(real: pd.DataFrame) -> str:
    """Photos of each skin tone."""
    return ", ".join(f"{tone} {(real['tone'] == tone).sum()}" for tone in TONES)


def _photos(split: str, index: pd.DataFrame) -> str:
    real = index[index["kind"] == "real"]
    roles, malignant = Counter(real["role"]), int(real["malignant"].map({True: 1}).sum())
    cohorts = ", ".join(sorted(set(real["cohort"].dropna()))) if "cohort" in real else UNTOLD
    return (
        f"Split {split}: {len(real):,} photos (cohorts {cohorts}; skin tone {by_tone(real)}; {malignant:,} malignant), of which "
        f"{roles['train']:,} to train, {roles['validation']:,} to validate and {roles['test']:,} to test."
    )


def _healing(records: Records) -> str:
    steps, guidance = (told(records.setting("healthy", name)) for name in ("steps", "guidance"))
    inpainting, copying = f"inpainting ({steps} steps, guidance {guidance})", "copying skin of the same photo"
    ways = {
        "diffusion": inpainting,
        "heal": copying,
        "both": f"{inpainting} and by {copying}, of which the triage took the better",
    }
    way = ways.get(records.setting("healthy", "method"), UNTOLD)
    return f"Lesions and markers were removed by {way}; what the triage or a person kept served as canvases."


def _adapters(records: Records) -> str:
    model, revision = base_model(records)
    token = {name: told(records.setting("token", name)) for name in ("steps", "learning_rate")}
    names = ("rank", "alpha", "steps", "learning_rate", "instances", "priors_per_step", "image_size")
    lora = {name: told(records.setting("adapter", name)) for name in names}
    return (
        f"For each disease a token was learnt by textual inversion ({token['steps']} steps, learning rate "
        f"{token['learning_rate']}) and a LoRA adapter (rank {lora['rank']}, alpha {lora['alpha']}, {lora['steps']} steps, "
        f"learning rate {lora['learning_rate']}, {lora['instances']} photos and {lora['priors_per_step']} healed canvases a "
        f"step) of {model} (revision {revision}) at {lora['image_size']} px."
    )


def _classifiers(records: Records) -> list[str]:
    lines = []
    for method in dict.fromkeys(record["method"] for record in records.classifiers):
        runs = [record for record in records.classifiers if record["method"] == method]
        settings, training = runs[0]["spec"]["settings"], runs[0].get("training") or {}
        of = {name: told(training.get(name)) for name in ("backbone", "weights", "batch_size", "learning_rate")}
        regimes, seeds = ", ".join(dict.fromkeys(run["regime"] for run in runs)), len({run["run_seed"] for run in runs})
        where = "test" if settings.get("selection") == "test" else "validation"
        lines.append(
            f"Classifiers ({method}; regimes {regimes}; {seeds} seed(s) each): {of['backbone']}, weights {of['weights']}, "
            f"{told((runs[0].get('train_steps') or {}).get('all'))} train steps of {of['batch_size']} images, learning rate "
            f"{of['learning_rate']}, chosen by {told(settings.get('selection_metric')).replace('_', ' ')} on {where} photos; "
            f"task {told(settings.get('task'))}."
        )
    return lines or [f"Classifiers: {UNTOLD}."]


# ---- CLEAR Derm


def checklist(
    records: Records, indices: Mapping[str, pd.DataFrame], leakage: Mapping[str, str], figures: bool
) -> pd.DataFrame:
    """The 25 items in their four parts, each with what the records say.

    Args:
        leakage: split -> what the leakage gate found, in words.
        figures: whether there are fairness tables.
    """
    said = _of_data(records, indices, leakage) | {
        "Development of the algorithm": "the methods paragraph; settings, seeds and hashes in the record beside every result"
    }
    if figures:
        said |= {
            "Potential biases": "figures by tone, rarity and disease with intervals (Fairness)",
            "Performance measures": "all figures with intervals and counts (Fairness)",
            "Benchmarking": "published figures of the same setting (Published against ours); regimes on the same photos",
            "Bias assessment": "accuracy by tone, PQD, DPM, EOM, and what equal tones would show by chance",
        }
    rows = [(part, item, asks, said.get(item) or UNTOLD) for part, items in CLEAR_DERM.items() for item, asks in items]
    return pd.DataFrame(rows, columns=["part", "item", "asks for", "this run"])


def _of_data(
    records: Records, indices: Mapping[str, pd.DataFrame], leakage: Mapping[str, str]
) -> dict[str, str | None]:
    first, made = next(iter(indices.values())), learnt_from(indices)
    real = first[first["kind"] == "real"]
    used = [record for record in records.classifiers if "cohorts" in record][:1]
    learnt = {cohort for record in used for cohort in record["cohorts"]["train"]}
    other = {cohort for record in used for cohort in record["cohorts"]["test"]} - learnt
    size = records.setting("adapter", "image_size") or next(
        (run["spec"]["settings"].get("image_size") for run in used), None
    )
    kinds = {"healthy": "healed canvases", "lesion_mapped": "transplants", "semantic": "samples"}
    images = ", ".join(f"{made[kind]:,} {name}" for kind, name in kinds.items() if made[kind])
    external = f"cohort(s) {', '.join(sorted(other))}, nothing learnt from them; whether of another source: {UNTOLD}"
    classes = real["malignant"].map({True: "malignant", False: "benign"}).value_counts()
    return {
        "Preprocessing": f"brought to {size} px" if size else None,
        "Synthetic images": f"{images}; each with its lineage; `cgddi export` writes them for others"
        if images
        else "none",
        "Skin tone": f"in the image sheet: {by_tone(real)}; how it was assessed: {UNTOLD}",
        "Dataset partitions": "; ".join(f"split {split}: {text}" for split, text in leakage.items()),
        "Sample sizes": ", ".join(f"{role} {count}" for role, count in Counter(real["role"]).items()),
        "External test set": external if other else "none: test photos are of the training cohorts" if learnt else None,
        "Class balance": ", ".join(f"{count} {name}" for name, count in classes.items()),
    }


CLEAR_DERM = {
    "Data": [
        ("Image types", "clinical photographs, dermoscopy, other"),
        ("Artefacts", "pen marks, rulers, hair, cloth in the images"),
        ("Acquisition", "cameras, lighting, who took the images"),
        ("Preprocessing", "what was done to the images before"),
        ("Synthetic images", "how they were made, and whether they are public"),
        ("Public images", "sources, with references"),
        ("Patient metadata", "age, sex, ethnicity, place"),
        ("Skin tone", "of the patients, and how it was assessed"),
        ("Potential biases", "that may come from who is in the data"),
        ("Dataset partitions", "training, validation and test kept apart, by patient"),
        ("Sample sizes", "of each part"),
        ("External test set", "of another source than the training images"),
        ("Several devices", "images of more than one vendor"),
        ("Class balance", "images of each class"),
        ("Out of distribution", "how images unlike the training images are handled"),
    ],
    "Technique": [
        ("Labelling", "by whom, and how sure"),
        ("Accepted labels", "names of diseases that are in use"),
        ("Histopathology", "of malignant lesions"),
        ("Development of the algorithm", "enough to repeat it"),
    ],
    "Technical assessment": [
        ("Public evaluation", "how others can try the algorithm"),
        ("Performance measures", "which, and why"),
        ("Benchmarking", "against others, and what is new"),
        ("Bias assessment", "by group"),
    ],
    "Application": [
        ("Use cases", "for which patients, conditions and users it is made"),
        ("Potential impact", "on care and on patients"),
    ],
}
"""Part -> (item, what it asks for), in our words, as the page says: the published wording is not ours to copy."""
