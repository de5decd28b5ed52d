# Classify: one classifier per split, regime, method and seed.
#
# In:  index/<split>.parquet behind its leakage gate; for a fine-tuning regime the weights it starts from
# Out: classify/<split>/<regime>/<method>/<seed>/predictions.csv, weights.safetensors, record.json


def initial_weights(wildcards):
    """Weights a regime starts from: none, or those of another regime with the same split, method and seed."""
    start = PLAN.config.regime(wildcards.regime).init
    return expand(rules.classify.output.weights, **{**wildcards, "regime": start}) if start else []


rule classify:
    message:
        "{wildcards.method} on {wildcards.regime}, split {wildcards.split}, seed {wildcards.run_seed}"
    input:
        index=rules.index.output.table,
        leakage=rules.leakage.output.report,
        init=initial_weights,
    output:
        predictions=f"{R}/classify/{{split}}/{{regime}}/{{method}}/{{run_seed}}/predictions.csv",
        weights=f"{R}/classify/{{split}}/{{regime}}/{{method}}/{{run_seed}}/weights.safetensors",
        record=f"{R}/classify/{{split}}/{{regime}}/{{method}}/{{run_seed}}/record.json",
    params:
        spec=lambda w: PLAN.classify_spec(w.split, w.regime, w.method, int(w.run_seed)),
        folder=subpath(output.weights, parent=True),
        init=lambda w, input: option("--init", input.init),
    log:
        text=f"{R}/logs/classify/{{split}}/{{regime}}/{{method}}/{{run_seed}}.log",
        metrics=f"{R}/logs/classify/{{split}}/{{regime}}/{{method}}/{{run_seed}}.metrics.jsonl",
    benchmark:
        f"{R}/benchmarks/classify/{{split}}/{{regime}}/{{method}}/{{run_seed}}.tsv"
    conda:
        "../envs/classify.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=gb(24),
        runtime=minutes(240),
    shell:
        """
        {CGDDI} classify \
            --spec {params.spec:q} \
            --index {input.index:q} \
            --leakage {input.leakage:q} \
            {params.init} \
            --output-dir {params.folder:q} \
            --metrics {log.metrics:q} \
            --threads {threads} 2> {log.text:q}
        """
