"""The site settings in profiles/slurm/config.yaml: what they make of the submitted jobs."""

import re
import subprocess

import pytest
import yaml

from tests.cluster.running import FAST, ROOT, Run, until
from tests.cluster.slurm import NoCluster, install
from tests.cluster.test_faults import SNAKEFILE

PROFILE = (ROOT / "profiles/slurm/config.yaml").read_text()


def all_live():
    """The profile with the mark of each site line removed: a `#` without a space, or before an indented key."""
    return yaml.safe_load(re.sub(r"^#(?=[a-z]|  +[a-z-])", "", PROFILE, flags=re.M))


def test_every_site_line_is_valid_yaml_once_its_mark_is_removed():
    live = all_live()
    assert {"slurm_partition", "slurm_account", "slurm_extra", "tmpdir", "mem_mb", "runtime"} == set(
        live["default-resources"]
    )
    gpu = live["set-resources"]["healthy"]
    assert set(gpu) == {"slurm_partition", "gpu_model", "constraint", "gpu", "gres"}
    assert all(live["set-resources"][rule] == gpu for rule in ("embedding", "lora", "semantic", "classify"))
    assert live["software-deployment-method"] == "apptainer" and live["config"][0] == "container=cgddi.sif"
    assert {"precommand", "apptainer-args"} <= set(live)


def test_gpu_rules_of_the_profile_are_the_rules_that_take_gpus():
    text = "\n".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
    own = dict(re.findall(r"^rule (\w+):\n(.*?)(?=^\S|\Z)", text, re.M | re.S))
    rules = {name for name, body in own.items() if "gpu=" in body}
    rules |= {name for base, name in re.findall(r"^use rule (\w+) as (\w+) with:", text, re.M) if base in rules}
    assert set(all_live()["set-resources"]) == rules


def submitted(cluster, folder):
    return [job for job in cluster.jobs(every=True) if job["WorkDir"] == str(folder)]


def test_an_ordinary_user_is_told_why_there_is_no_cluster(monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(NoCluster, match="needs root"):
        install()


@pytest.mark.slow
@pytest.mark.parametrize(
    "gpu, asked",
    [
        ({"slurm_partition": "night", "gpu_model": "fake"}, "gres:gpu:fake:1"),
        ({"gpu": 0, "gres": "gpu:1"}, "gres:gpu:1"),
        ({"gpu": 0, "gres": "gpu:fake:1"}, "gres:gpu:fake:1"),
    ],
    ids=["model and partition", "gres only", "gres with a model"],
)
def test_gpu_settings_reach_the_gpu_jobs_and_no_others(cluster, tmp_path, gpu, asked):
    profile = yaml.safe_load(PROFILE)
    profile["default-resources"] |= {"slurm_extra": "--nice=5", "tmpdir": "/var/tmp"}
    profile["set-resources"] = {"train": gpu}
    profile["precommand"] = "export SITE_MODULE='cuda 12'"
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "config.yaml").write_text(yaml.safe_dump(profile))
    run = Run(tmp_path, "--profile", str(tmp_path / "site"), *FAST, *SNAKEFILE, "out/train1.txt", "out/cut1.txt")
    try:
        assert run.finish() == 0, run.log
    finally:
        run.end()
    jobs = {job["Comment"].split("_")[1]: job for job in submitted(cluster, tmp_path)}
    train, cut = jobs["train"], jobs["cut"]
    assert asked in (train.get("TresPerJob"), train.get("TresPerNode"))
    assert "TresPerJob" not in cut and "TresPerNode" not in cut
    assert train["Partition"] == gpu.get("slurm_partition", "main") and cut["Partition"] == "main"
    assert {job["Nice"] for job in jobs.values()} == {"5"}
    for name, gpus in (("train1", "[01]"), ("cut1", "")):
        seen = (tmp_path / "runs" / name).read_text()
        assert re.fullmatch(rf"\d+ module=cuda 12 tmp=/var/tmp gpus={gpus}\n", seen), seen


@pytest.mark.slow
def test_slurms_commands_of_the_cluster_page_are_answered(cluster, tmp_path):
    """Those in its blocks and sentences; what is ours in them is run elsewhere, and what is submitted only tried."""
    page = (ROOT / "docs/cluster.md").read_text()
    words = r"(?:\w+=\d+ )?(?:squeue|sinfo|scontrol|srun|salloc|sbatch) [^`#\n]*"
    found = {command.strip() for command in re.findall(rf"^{words}|(?<=`){words}(?=`)", page, re.M)}
    assert len(found) >= 9
    submit = ["sbatch", "--parsable", "--mem=100", "--output=/dev/null", "--wrap", "sleep 60"]
    number = subprocess.run(submit, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()
    try:
        until(
            lambda: number in [job["JobId"] for job in cluster.jobs() if job["JobState"] == "RUNNING"],
            "it does not run",
        )
        for command in sorted(found):
            changes = {
                "NUMBER": number,
                "srun ": "srun --mem=100 ",
                "cgddi check": "true",
                "...": "profiles/allocations/work.sh",
            }
            changes |= {
                "sbatch ": "sbatch --test-only --gpus-per-node=2 ",
                "salloc --gpus=4": "salloc --gpus=4 --mem=100 true",
            }
            for old, new in changes.items():
                command = command.replace(old, new)
            done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, (command, done.stderr)
    finally:
        subprocess.run(["scancel", number], check=True)
