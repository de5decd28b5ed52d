"""Whole classifier runs by the command: every method, fine-tuning, determinism, and errors before training."""

from __future__ import annotations

import json
from argparse import Namespace

import numpy as np
import pandas as pd
import pytest
import torch
from cgddi.core.archive import file_sha256
from cgddi.core.errors import InvalidInput, UserError
from cgddi.stages.classify.command import main
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.stages.index.world import CONCEPTS, make_world, spec_file

NET = {"backbone": "test_resnet", "weights": "random", "epochs": 2, "batch_size": 16, "learning_rate": 3e-3}
VIT = {"backbone": "test_vit", "frozen_tensors": 4}


def findings(index, path, passed=True):
    """What the leakage gate writes of an index."""
    found = {"passed": passed, "clean": True, "gate": "enforce", "inputs": {"index": file_sha256(index)}}
    path.write_text(json.dumps(found))
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    world = make_world(root, per_cell=6)
    index, texts = world.write_index(), root / "texts.safetensors"
    save_file({"embeddings": torch.randn(5, 24)}, texts, {"labels": json.dumps([*CONCEPTS, "acne"])})
    leakage = findings(index, root / "leakage.json")
    return Namespace(root=root, world=world, index=index, leakage=leakage, texts=str(texts))


def command(
    place, out, regime="real", method="baseline", seed=1, init=None, index=None, leakage=None, state=None, **settings
):
    options = {"image_size": 32, "precision": "fp32", "min_concept_images": 1, "finetune_epochs": 2, "training": NET}
    options |= {
        "images_per_epoch": 96,
        "methods": {"patchalign": VIT},
        "label_texts": {"file": place.texts},
        **settings,
    }
    spec = {"seed": 7, "split": "toy", "regime": regime, "method": method, "run_seed": seed, "settings": options}
    args = ["--spec", spec_file(out, stage="classify", **spec), "--threads", "1", "--output-dir", str(out)]
    args += ["--index", str(index or place.index), "--leakage", str(leakage or place.leakage)]
    args += ["--state", str(state)] if state else []
    return [*args, *(["--init", str(init)] if init else []), "--metrics", str(out / "run.metrics.jsonl")]


def classify(place, out, *names, **options):
    main(command(place, out, *names, **options))
    return pd.read_csv(out / "predictions.csv"), json.loads((out / "record.json").read_text())


@pytest.mark.parametrize("method", ["baseline", "fairdisco", "patchalign", "reweighting", "resampling"])
def test_every_method_trains_selects_predicts_and_records(place, tmp_path, method):
    table, record = classify(place, tmp_path, "mixed", method)
    assert list(table.columns) == ["image_id", "cohort", "concept", "tone", "malignant", "probability", "predicted"]
    assert len(table) == 12 and table["probability"].between(0, 1).all()
    assert (table["predicted"] == (table["probability"] > 0.5)).all()
    assert record["method"] == method and record["selection"] == "validation" and len(record["history"]) == 2
    assert 1 <= record["chosen_epoch"] <= 2 and record["cohorts"] == {"train": ["toy"], "test": ["toy"]}
    own = {"fairdisco": {"confusion", "tone", "contrastive"}, "patchalign": {"confusion", "tone", "alignment"}}
    assert set(record["history"][0]["terms"]) == {"class"} | own.get(method, set())
    with safe_open(tmp_path / "weights.safetensors", "pt") as weights:
        assert json.loads(weights.metadata()["cgddi"])["method"] == method
    log = json.loads((tmp_path / "run.metrics.jsonl").read_text())
    assert log["images"] == 2 * 96 and log["steps"] == 12
    assert list((tmp_path / "run.tensorboard").glob("events.*"))


def test_a_run_is_the_same_again_and_differs_by_seed(place, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        classify(place, tmp_path / name, "synthetic", seed=seed)
    for file in ("predictions.csv", "weights.safetensors"):
        same, again, other = ((tmp_path / name / file).read_bytes() for name in "abc")
        assert same == again != other


@pytest.mark.slow
def test_two_processes_train_as_one_does(place, tmp_path):
    """A network without batch normalisation, so that the shares of a batch make the same step."""
    net = {**NET, "backbone": "test_vit", "learning_rate": 1e-4}
    tables, records = zip(
        *(classify(place, tmp_path / str(n), "mixed", training=net, num_processes=n) for n in (1, 2)), strict=True
    )
    one, two = (load_file(tmp_path / f"{n}/weights.safetensors") for n in (1, 2))
    assert json.loads((tmp_path / "2/run.metrics.jsonl").read_text())["processes"] == 2
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-4
    assert records[0]["history"][0]["train_loss"] == pytest.approx(records[1]["history"][0]["train_loss"], abs=1e-4)
    assert np.allclose(tables[0]["probability"], tables[1]["probability"], atol=1e-3)


def test_training_learns_the_lesions(place, tmp_path):
    table, record = classify(place, tmp_path, "synthetic", training={**NET, "epochs": 6}, images_per_epoch=240)
    assert (table["predicted"] == table["malignant"]).mean() >= 0.8
    assert record["history"][-1]["train_loss"] < record["history"][0]["train_loss"]


def test_fine_tuning_starts_from_the_other_regimes_weights_and_stops_early(place, tmp_path):
    classify(place, tmp_path / "s", "synthetic")
    weights = tmp_path / "s/weights.safetensors"
    still = {"finetune_learning_rate": 1e-9, "finetune_epochs": 20, "patience": 2, "images_per_epoch": None}
    _, record = classify(place, tmp_path / "f", "synthetic_real", init=weights, **still)
    assert len(record["history"]) < 20 and record["init"] == "synthetic"
    before, after = load_file(weights), load_file(tmp_path / "f/weights.safetensors")
    assert all(torch.allclose(before[key], after[key], atol=1e-6) for key in before if "head" in key)
    with pytest.raises(UserError, match="starts from regime synthetic: give --init"):
        classify(place, tmp_path / "x", "synthetic_real")
    with pytest.raises(UserError, match="starts from no other regime: leave out --init"):
        classify(place, tmp_path / "x", "real", init=weights)
    with pytest.raises(UserError, match="of another architecture than fairdisco"):
        classify(place, tmp_path / "x", "synthetic_real", "fairdisco", init=weights)


def test_every_regime_takes_the_same_number_of_train_steps(place, tmp_path):
    """Case S12: uneven numbers of images; a regime that starts from another's weights goes on where that had steps left."""
    six = {"training": {**NET, "epochs": 6}, "finetune_epochs": 2}
    records = {name: classify(place, tmp_path / name, name, **six)[1] for name in ("real", "synthetic")}
    start = tmp_path / "synthetic/start.safetensors"
    records["synthetic_real"] = classify(place, tmp_path / "synthetic_real", "synthetic_real", init=start, **six)[1]
    images = {name: sum(record["counts"]["train"].values()) for name, record in records.items()}
    assert len(set(images.values())) > 1, images
    assert {name: record["train_steps"]["all"] for name, record in records.items()} == dict.fromkeys(
        records, 6 * 96 // 16
    )
    assert len(records["synthetic_real"]["history"]) == 2 and records["synthetic"]["train_steps"]["start"] == 4 * 6
    four = {"training": {**NET, "epochs": 4}, "finetune_epochs": 2}
    classify(place, tmp_path / "four", "synthetic", **four)
    alone, begun = load_file(tmp_path / "four/weights.safetensors"), load_file(start)
    assert all(torch.equal(alone[name], begun[name]) for name in alone), "as if it had stopped there"
    assert load_file(tmp_path / "synthetic_real/start.safetensors") == {}
    published = {**six, "images_per_epoch": None, "finetune_epochs": 3}
    _, whole = classify(place, tmp_path / "p", "synthetic", **published)
    _, tuned = classify(place, tmp_path / "q", "synthetic_real", init=tmp_path / "p/weights.safetensors", **published)
    assert whole["train_steps"]["all"] != records["real"]["train_steps"]["all"]
    assert tuned["train_steps"]["all"] == whole["train_steps"]["all"] + tuned["train_steps"]["own"], (
        "on top, as published"
    )


def test_what_starting_weights_learnt_from_is_recorded_and_must_be_known(place, tmp_path):
    classify(place, tmp_path / "s", "synthetic")
    weights = tmp_path / "s/weights.safetensors"
    _, record = classify(place, tmp_path / "c", "synthetic_real_20", init=weights)
    _, alone = classify(place, tmp_path / "a", "real_20")
    assert record["real_images"]["used"] == alone["real_images"]["used"] == 12
    assert record["real_images"]["beyond"] > 0, "canvases and generators of the other training images"
    assert alone["real_images"]["beyond"] == 0
    within = {"name": "within", "sources": ["healthy", "lesion_mapped"], "real_fraction": 0.7, "generators": "inside"}
    classify(place, tmp_path / "i", within)
    then = {**within, "name": "within_real", "sources": ["real"], "init": "within"}
    _, inside = classify(place, tmp_path / "j", then, init=tmp_path / "i/weights.safetensors")
    assert inside["real_images"]["beyond"] == 0 and inside["init"] == "within"
    facts = json.loads((tmp_path / "s/record.json").read_text())
    (tmp_path / "s/record.json").write_text(json.dumps({**facts, "inputs": {"i.parquet": "0" * 64}}))
    with pytest.raises(UserError, match="trained on another index.*test images may be among"):
        classify(place, tmp_path / "x", "synthetic_real", init=weights)
    (tmp_path / "s/record.json").unlink()
    with pytest.raises(UserError, match="what they learnt from is unknown"):
        classify(place, tmp_path / "x", "synthetic_real", init=weights)


def test_selection_on_the_test_images_is_recorded(place, tmp_path):
    _, record = classify(place, tmp_path / "a", selection="test", selection_metric="accuracy")
    assert record["selection"] == "test" and "held_out" in record["history"][0]
    _, record = classify(place, tmp_path / "b", selection="last")
    assert record["chosen_epoch"] == 2 and "held_out" not in record["history"][0]


def test_diseases_and_partitions_are_predicted_too(place, tmp_path):
    table, record = classify(place, tmp_path / "a", "mixed", task="concept")
    assert record["classes"] == sorted(CONCEPTS) and set(table["predicted"]) <= set(CONCEPTS)
    assert table[[f"p:{name}" for name in record["classes"]]].sum(axis=1).between(0.9999, 1.0001).all()
    parts = {"nevus": "benign", "wart": "non-neoplastic", "melanoma": "malignant", "lymphoma": "malignant"}
    table, record = classify(place, tmp_path / "b", "mixed", "fairdisco", task="partition", partition=parts)
    assert set(table["label"]) == set(record["classes"]) == set(parts.values())


def test_backbone_weights_from_a_file_and_of_another_architecture(place, tmp_path):
    import timm

    torch.manual_seed(3)
    source = timm.create_model("test_resnet", num_classes=9)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    _, record = classify(place, tmp_path / "a", training={**NET, "weights": str(tmp_path / "w.safetensors")})
    assert len(record["model"]["weights_sha256"]) == 64
    with pytest.raises(UserError, match="of another architecture than backbone resnet10t"):
        classify(
            place, tmp_path / "b", training={**NET, "backbone": "resnet10t", "weights": str(tmp_path / "w.safetensors")}
        )
    with pytest.raises(UserError, match="no such .safetensors file"):
        classify(place, tmp_path / "b", training={**NET, "weights": "weights.pt"})
    with pytest.raises(UserError, match="timm has no backbone 'resnet81'"):
        classify(place, tmp_path / "b", training={**NET, "backbone": "resnet81"})
    assert not (tmp_path / "b").exists() or not (tmp_path / "b/predictions.csv").exists()


@pytest.mark.parametrize(
    ("labels", "shape", "text"),
    [
        (list(CONCEPTS)[:-1], (3, 8), "no text for 1 concept.*lymphoma"),
        (list(CONCEPTS), (3, 8), r"4 labels for embeddings of shape \(3, 8\)"),
        (None, (4, 8), "no labels for embeddings"),
    ],
)
def test_label_texts_that_do_not_match_are_refused(place, tmp_path, labels, shape, text):
    metadata = {"labels": json.dumps(labels)} if labels else None
    save_file({"embeddings": torch.randn(shape)}, tmp_path / "t.safetensors", metadata)
    with pytest.raises(UserError, match=text):
        classify(place, tmp_path, method="patchalign", label_texts={"file": str(tmp_path / "t.safetensors")})


def test_patchalign_needs_texts_and_tokens(place, tmp_path):
    with pytest.raises(UserError, match="label_texts.file or classify.label_texts.text_encoder"):
        classify(place, tmp_path, method="patchalign", label_texts={})
    with pytest.raises(UserError, match="needs a vision transformer"):
        classify(place, tmp_path, method="patchalign", methods={"patchalign": {"backbone": "test_resnet"}})


def test_label_texts_from_a_local_text_encoder(place, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

    words = {word: n for n, word in enumerate(["<pad>", "<unk>", *CONCEPTS])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    fast.save_pretrained(tmp_path / "enc/tokenizer")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    CLIPTextModel(CLIPTextConfig(vocab_size=len(words), **sizes)).save_pretrained(tmp_path / "enc/text_encoder")
    _, record = classify(
        place, tmp_path / "o", method="patchalign", label_texts={"text_encoder": str(tmp_path / "enc")}
    )
    assert record["model"]["label_texts"]["labels"] == sorted(CONCEPTS)
    from cgddi.stages.classify.patchalign import encode

    texts = encode(str(tmp_path / "enc"), ["nevus", "melanoma", "nevus melanoma"])
    assert texts.shape == (3, 16) and not torch.allclose(texts[0], texts[1])
    assert torch.allclose(encode(str(tmp_path / "enc"), ["nevus"])[0], texts[0], atol=1e-5), "padding does not count"
    with pytest.raises(UserError, match="no such folder"):
        encode(str(tmp_path / "none"), ["nevus"])


def test_the_leakage_gate_stands_before_training(place, tmp_path):
    with pytest.raises(UserError, match="the leakage gate did not pass"):
        classify(place, tmp_path, leakage=findings(place.index, tmp_path / "failed.json", passed=False))
    table = pd.read_parquet(place.index)
    table.iloc[:-1].to_parquet(tmp_path / "other.parquet")
    with pytest.raises(UserError, match="leakage audit is of another index"):
        classify(place, tmp_path, index=tmp_path / "other.parquet")
    with pytest.raises(UserError, match="not the findings"):
        classify(place, tmp_path, leakage=tmp_path / "absent.json")


def test_a_changed_archive_is_found_before_training(tmp_path):
    index = make_world(tmp_path, per_cell=5).write_index()
    row = pd.read_parquet(index).query("kind == 'real' and role == 'train'").iloc[0]
    with open(row["archive"], "r+b") as archive:
        archive.seek(row["start"] + 40)
        archive.write(b"lost")
    here = Namespace(index=index, leakage=findings(index, tmp_path / "leakage.json"), texts="")
    with pytest.raises(InvalidInput, match=f"image {row['id']} is not what the index says"):
        classify(here, tmp_path / "o", label_texts={})
    assert not (tmp_path / "o/predictions.csv").exists()


def test_unknown_names_and_settings(place, tmp_path):
    with pytest.raises(UserError, match="no regime 'imaginary'"):
        classify(place, tmp_path, "imaginary")
    with pytest.raises(UserError, match="no classification method 'magic'"):
        classify(place, tmp_path, method="magic")
    with pytest.raises(UserError, match="settings of stage classify"):
        classify(place, tmp_path, colour=3)
