# Fairness: accuracy and fairness of all classifiers, with counts and intervals.
#
# In:  every predictions.csv
# Out: fairness/summary.json and its tables and plots

RUNS = expand(
    f"{R}/classify/{{split}}/{{regime}}/{{method}}/{{run_seed}}",
    split=PLAN.config.splits,
    regime=PLAN.config.runs.regimes,
    method=PLAN.config.runs.methods,
    run_seed=PLAN.config.runs.seeds,
)


rule fairness:
    input:
        predictions=[f"{run}/predictions.csv" for run in RUNS],
    output:
        summary=f"{R}/fairness/summary.json",
        metrics=f"{R}/fairness/metrics.csv",
        by_tone=f"{R}/fairness/by_tone.csv",
        by_rarity=f"{R}/fairness/by_rarity.csv",
        by_disease=f"{R}/fairness/by_disease.csv",
        paired=f"{R}/fairness/paired.csv",
        table=f"{R}/fairness/table.md",
        latex=f"{R}/fairness/table.tex",
        plots=[f"{R}/fairness/{name}.png" for name in ("roc", "metrics", "calibration")],
    log:
        f"{R}/logs/fairness.log",
    benchmark:
        f"{R}/benchmarks/fairness.tsv"
    conda:
        "../envs/classify.yaml"
    threads: 1
    resources:
        mem_mb=gb(8),
        runtime=minutes(60),
    params:
        spec=PLAN.spec("fairness"),
        folder=subpath(output.summary, parent=True),
    message:
        "fairness tables"
    shell:
        """
        cgddi fairness \
            --spec {params.spec:q} \
            --predictions {input.predictions:q} \
            --output-dir {params.folder:q} \
            --threads {threads} 2>{log:q}
        """
